"""The command `tunepool`: everything that the API can do, at a terminal and in scripts.

Exit codes: 0 done, 1 the followed job failed or was cancelled, 2 wrong use or input, 3 not found, 4 not allowed,
5 not reachable or not able now, 6 the state does not allow it, 130 interrupted.
"""

import sys
from collections.abc import Callable

import stamina.instrumentation
import typer

from api.cli import (
    accuracy,
    adapters,
    arrays,
    completion,
    files,
    importing,
    init,
    jobs,
    past,
    plot,
    pool,
    queue,
    report,
    simulate,
    stack,
    teams,
    top,
)
from api.cli.exits import CommandError, code_of, tell
from api.cli.plain import survive_narrow_encodings
from api.client.errors import ClientError
from api.stack.errors import StackError

app = typer.Typer(
    name="tunepool",
    help="Fine-tune open models on a pool of your own devices.",
    epilog="Talks to TUNEPOOL_URL with TUNEPOOL_API_KEY, or else to the stack that runs in ./.tunepool.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
STACK, JOBS, RESULTS, POOL, SHELL = "The embedded stack", "Jobs", "Data and results", "The pool", "This shell"

COMMANDS: tuple[tuple[str, str, Callable[..., None]], ...] = (
    (STACK, "up", stack.up),
    (STACK, "down", stack.down),
    (STACK, "status", stack.status),
    (JOBS, "init", init.init),
    (JOBS, "import", importing.import_file),
    (JOBS, "submit", jobs.submit),
    (JOBS, "estimate", jobs.estimate),
    (JOBS, "accuracy", accuracy.accuracy),
    (JOBS, "jobs", jobs.jobs),
    (JOBS, "show", jobs.show_job),
    (JOBS, "top", top.top),
    (JOBS, "plot", plot.plot),
    (JOBS, "logs", jobs.logs),
    (JOBS, "events", jobs.events),
    (JOBS, "cost", jobs.cost),
    (JOBS, "cancel", jobs.cancel),
    (JOBS, "pause", jobs.pause),
    (JOBS, "resume", jobs.resume),
    (JOBS, "why", queue.why),
    (JOBS, "hold", queue.hold),
    (JOBS, "release", queue.release),
    (JOBS, "change", queue.change),
    (RESULTS, "adapters", adapters.adapters),
    (RESULTS, "pull", adapters.pull),
    (POOL, "report", report.report),
    (POOL, "pool", pool.pool),
    (POOL, "cordon", pool.cordon),
    (POOL, "drain", pool.drain),
    (POOL, "uncordon", pool.uncordon),
    (POOL, "history", past.history),
    (POOL, "audit", past.audit),
    (POOL, "simulate", simulate.simulate_pool),
    (SHELL, "completion", completion.completion),
)
GROUPS = (
    (JOBS, "arrays", arrays.arrays_app),
    (RESULTS, "files", files.app),
    (POOL, "models", pool.models_app),
    (POOL, "prices", pool.prices_app),
    (POOL, "keys", teams.keys_app),
    (POOL, "teams", teams.teams_app),
)
for panel, name, command in COMMANDS:
    app.command(name, rich_help_panel=panel)(command)
for panel, name, group in GROUPS:
    app.add_typer(group, name=name, rich_help_panel=panel)


def main() -> None:
    """Run the command line; errors become one line on standard error and an exit code."""
    survive_narrow_encodings()
    stamina.instrumentation.set_on_retry_hooks([])  # retries are the client's own business, not output
    try:
        app()
    except (CommandError, ClientError, StackError) as error:
        code = code_of(error)
        tell(error)
        sys.exit(code)


if __name__ == "__main__":
    main()
