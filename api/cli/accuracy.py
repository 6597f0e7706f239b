"""How right estimates were: what was measured against what was predicted."""

from rich.console import Console

from api.cli.connection import JsonOption, connect
from api.cli.output import print_table, say_moment, show
from api.client.results import Accuracy, PredictionErrors

COLUMNS = ("ESTIMATE OF", "ATTEMPTS ", "TYPICALLY OFF BY ", "19 OF 20 WITHIN ", "WORST ", "TOOK MORE ")


def accuracy(as_json: JsonOption = False) -> None:
    """Show how far estimates were off over the pool's latest attempts."""
    with connect() as client:
        found = client.estimates.accuracy()
        show(found, as_json=as_json, draw=lambda console: _draw(console, found))


def _draw(console: Console, found: Accuracy) -> None:
    if not found.attempts or found.since is None:
        console.print("no attempt has been measured yet", style="dim")
        return
    rows = [
        _row("memory", found.memory),
        _row("memory, before learning", found.memory_uncalibrated),
        _row("time", found.time),
    ]
    print_table(console, COLUMNS, rows, none="")
    console.print(
        f"{found.attempts} attempts since {say_moment(found.since)}; {found.out_of_memory} of them ran out of memory"
    )


def _row(name: str, errors: PredictionErrors) -> tuple[str, ...]:
    figures = (_say_share(value) for value in (errors.median, errors.p95, errors.worst))
    return (name, str(errors.count), *figures, str(errors.over))


def _say_share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"
