"""How an estimate is shown: where the job would fit, what it would take there, and what the memory is made of."""

import json
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from api.cli.output import print_facts, print_line, print_table, say_bytes, say_moment, say_seconds, say_usd
from api.client.results import Change, DeviceFit, Estimate, PredictedMemory

FITS = {"now": ("now", "green"), "when_empty": ("when it is empty", "yellow"), "never": ("never", "red")}


def draw_estimate(console: Console, found: Estimate) -> None:
    facts = [
        ("model", found.model),
        ("rows", _say_rows(found)),
        ("steps", _say_steps(found)),
        ("start", _say_start(found)),
    ]
    print_facts(console, facts)
    console.print()
    columns = ("DEVICE TYPE", "NEEDS ", "OF ", "FITS", "TIME", "COST ")
    print_table(console, columns, [_row(found, fit) for fit in found.devices], none="no devices are known yet")
    for fit in found.devices:
        for change in fit.changes:
            print_line(console, f"it would fit on {fit.device_type} with {_say_change(change)}")
    for fit in found.devices:
        if fit.kind in found.memory:
            _draw_memory(console, fit.device_type, found.memory[fit.kind])
    if found.warnings:
        console.print()
    for warning in found.warnings:
        print_line(console, f"note: {warning}", style="yellow")


def _say_rows(found: Estimate) -> str | None:
    rows = found.rows
    if rows.rows is None or rows.tokens is None:
        return None
    guess = " (a guess)" if rows.tokens_are == "guessed" else ""
    return f"{rows.rows:,} rows, {rows.tokens:,} tokens{guess}"


def _say_steps(found: Estimate) -> str | None:
    return next((f"{time.steps:,}" for time in found.time.values()), None)


def _say_start(found: Estimate) -> str | None:
    return None if found.expected_start_at is None else say_moment(found.expected_start_at)


def _row(found: Estimate, fit: DeviceFit) -> tuple[str | Text, ...]:
    time = found.time.get(fit.kind)
    words, style = FITS.get(fit.fit, (fit.fit, ""))
    span = f"{say_seconds(time.low_seconds)} to {say_seconds(time.high_seconds)}" if time else ""
    return (
        fit.device_type,
        say_bytes(fit.needed_bytes),
        say_bytes(fit.largest_bytes),
        Text(words, style=style),
        f"{say_seconds(time.seconds)} ({span})" if time else "",
        say_usd(fit.cost.usd_micros) if fit.cost else "",
    )


def _draw_memory(console: Console, device_type: str, memory: PredictedMemory) -> None:
    print_line(console, f"\nmemory on {device_type}{_say_method(memory)}", style="bold")
    print_facts(console, _breakdown(memory.breakdown))
    peaks = (memory.allocated_bytes, memory.reserved_bytes, memory.device_bytes)
    if None not in peaks:
        allocated, reserved, device = map(say_bytes, peaks)
        print_line(console, f"peak: {allocated} allocated, {reserved} reserved, {device} on the device")
    for change in memory.savings:
        print_line(console, f"smaller with {_say_change(change)}")


def _say_method(memory: PredictedMemory) -> str:
    if memory.method is None:
        return ""
    reason = f": {memory.reason}" if memory.reason else ""
    return f" ({memory.method.replace('_', ' ')}{reason})"


def _say_change(change: Change) -> str:
    """'training.gradient_checkpointing: true (3.2 GiB, -9.3 GiB, 1.28 times the computing)', as a job file has it."""
    settings = ", ".join(f"{name}: {json.dumps(value)}" for name, value in change.settings.items())
    sizes = [say_bytes(change.total_bytes)]
    if change.saved_bytes is not None:
        sizes.append(f"-{say_bytes(change.saved_bytes)}")
    if change.time_factor is not None:
        sizes.append(f"{change.time_factor:.2f} times the computing")
    return f"{settings} ({', '.join(sizes)})"


def _breakdown(terms: dict[str, int]) -> Iterator[tuple[str, str]]:
    for name, size_bytes in terms.items():
        if size_bytes:
            yield f"  {name.replace('_', ' ')}", say_bytes(size_bytes)
