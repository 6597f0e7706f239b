"""Memory of a job as bars: what was measured against what was predicted, and what is reserved of the device."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from api.cli.output import say_bytes, say_part
from api.cli.plain import Signs, signs_of
from api.client.devices import Device
from api.client.results import Attempt, Job

PEAKS = (
    ("on the device", "device_bytes", "peak_device_bytes"),
    ("held by torch", "reserved_bytes", "peak_reserved_bytes"),
    ("in tensors", "allocated_bytes", "peak_allocated_bytes"),
)
"""Name, field of the prediction, field of the attempt."""
MAX_BAR_COLUMNS = 40
FIGURE_COLUMNS = 44
"""What names and figures beside a bar need."""


@dataclass(frozen=True)
class Bar:
    """`parts` are bytes, a sign and a style, from the left; a line crosses at `mark_bytes`."""

    total_bytes: int
    parts: tuple[tuple[int, str, str], ...]
    mark_bytes: int | None = None

    def draw(self, width: int, signs: Signs) -> Text:
        """Any part that is not nothing shows, if by one character."""
        cells = [(signs.empty, "dim")] * width
        begin_bytes = 0
        for size_bytes, sign, style in self.parts:
            begin, end = self._column(begin_bytes, width), self._column(begin_bytes + size_bytes, width)
            for index in range(begin, max(end, begin + (size_bytes > 0))):
                cells[min(index, width - 1)] = (sign, style)
            begin_bytes += size_bytes
        if self.mark_bytes is not None:
            cells[min(self._column(self.mark_bytes, width), width - 1)] = (signs.mark, "bold yellow")
        return Text.assemble(*cells)

    def _column(self, size_bytes: int, width: int) -> int:
        return min(width, round(width * size_bytes / max(1, self.total_bytes)))


def draw_memory(console: Console, job: Job, attempt: Attempt | None, device: Device | None) -> None:
    """Bars of the newest attempt, on the device that it has or had; nothing before there is one."""
    if attempt is None:
        return
    kind = device.kind if device else (job.estimate or {}).get("kind")
    predicted = ((job.estimate or {}).get("memory") or {}).get(kind) or {}
    signs = signs_of(console)
    width = max(8, min(MAX_BAR_COLUMNS, console.width - FIGURE_COLUMNS))
    peaks = list(_peaks(attempt, predicted))
    scale = max([attempt.reserved_bytes, *(max(measured, guess or 0) for _, measured, guess in peaks)])
    rows = [
        (name, Bar(scale, ((measured, signs.full, _style(measured, attempt)),), guess), _say_peak(measured, guess))
        for name, measured, guess in peaks
    ]
    rows.append(_reserved_row(attempt, device, signs))
    heading = Text("\nmemory", style="bold")
    if any(guess for _, _, guess in peaks):
        heading.append(f"  measured of predicted ({signs.mark})", style="dim")
    console.print(heading)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, bar, figures in rows:
        table.add_row(name, bar.draw(width, signs), figures)
    console.print(table)


def _peaks(attempt: Attempt, predicted: dict[str, Any]) -> Iterator[tuple[str, int, int | None]]:
    """(name, measured bytes, predicted bytes) of each peak that was measured: a CPU has the first one only."""
    for name, predicted_field, measured_field in PEAKS:
        measured: int = getattr(attempt, measured_field)
        if measured:
            yield name, measured, predicted.get(predicted_field)


def _style(measured: int, attempt: Attempt) -> str:
    return "red" if measured > attempt.reserved_bytes else "cyan"


def _say_peak(measured: int, predicted: int | None) -> str:
    if not predicted:
        return say_bytes(measured)
    return f"{say_part(measured, predicted)}, {100 * (measured / predicted - 1):+.0f} %"


def _reserved_row(attempt: Attempt, device: Device | None, signs: Signs) -> tuple[str, Bar, str]:
    """This job's share of its device; while it runs, with what others hold."""
    mine = attempt.reserved_bytes
    if device is None:
        return "reserved", Bar(mine, ((mine, signs.full, "green"),)), say_bytes(mine)
    holds = any(use.attempt_id == attempt.id for use in device.uses)
    others = sum(use.reserved_bytes for use in device.uses if use.attempt_id != attempt.id) if holds else 0
    bar = Bar(device.usable_bytes, ((mine, signs.full, "green"), (others, signs.other, "blue")))
    share = 100 * mine / max(1, device.usable_bytes)
    return "reserved", bar, f"{say_part(mine, device.usable_bytes)}, {share:.0f} %"
