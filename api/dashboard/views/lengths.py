"""How long the rows of a file are for a model: columns over an axis of tokens, and what of them is beyond a limit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from api.dashboard.views.bars import scale
from orchestrator.domain.batches import MOST_BINS, Lengths
from orchestrator.services.previews import Preview

MOST_COLUMNS = 24
LIMITS = (512, 1024, 2048, 4096, 8192, 16_384, 32_768)
GAP = 0.12
"""The share of a column that is left free."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """Rows of `first` to `last` tokens. Places are in units of an axis of 1000 both ways."""

    first: int
    last: int
    rows: int
    x: float
    width: float
    height: float


@dataclass(frozen=True, kw_only=True)
class Limit:
    """`rows` are longer than `tokens`; `beyond` of their tokens lie behind it."""

    tokens: int
    rows: int
    beyond: int


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """`is_exact` is False where neighbouring lengths were merged because there were too many."""

    rows: int
    least: int
    median: int
    p95: int
    most: int
    columns: Sequence[Column]
    limits: Sequence[Limit]
    is_exact: bool


def describe_preview(preview: Preview | None) -> dict[str, Any]:
    """What the templates are given."""
    return {"preview": preview, "histogram": None if preview is None else draw_histogram(preview.result.lengths)}


def draw_histogram(lengths: Lengths) -> Histogram | None:
    """None without rows."""
    rows = sum(number for _, number in lengths)
    if rows == 0:
        return None
    most = round(lengths[-1][0])
    return Histogram(
        rows=rows,
        least=round(lengths[0][0]),
        median=_quantile(lengths, 0.5),
        p95=_quantile(lengths, 0.95),
        most=most,
        columns=_draw_columns(lengths),
        limits=[_measure_limit(lengths, limit) for limit in LIMITS if limit < most],
        is_exact=len(lengths) < MOST_BINS,
    )


def _quantile(lengths: Lengths, share: float) -> int:
    """The length that at least this share of the rows does not exceed."""
    wanted = share * sum(rows for _, rows in lengths)
    seen = 0
    for tokens, rows in lengths:
        seen += rows
        if seen >= wanted:
            return round(tokens)
    return round(lengths[-1][0])


def _draw_columns(lengths: Lengths) -> list[Column]:
    """Of equal widths that are round numbers, from the shortest row to the longest."""
    least, most = round(lengths[0][0]), round(lengths[-1][0])
    width = next(width for width in _round_widths() if most - _column_of(least, width) * width <= MOST_COLUMNS * width)
    begin = _column_of(least, width)
    counts = [0] * (_column_of(most, width) - begin + 1)
    for tokens, rows in lengths:
        counts[_column_of(round(tokens), width) - begin] += rows
    step = 1000 / len(counts)
    return [
        Column(
            first=(begin + number) * width + 1,
            last=(begin + number + 1) * width,
            rows=rows,
            x=round(number * step, 2),
            width=round(step * (1 - GAP), 2),
            height=scale(rows, max(counts)),
        )
        for number, rows in enumerate(counts)
    ]


def _column_of(tokens: int, width: int) -> int:
    """Columns end at multiples of their width."""
    return max(0, -(-tokens // width) - 1)


def _round_widths() -> Iterator[int]:
    """1, 2, 5, 10, 20, 50…"""
    for power in count():
        yield from (10**power, 2 * 10**power, 5 * 10**power)


def _measure_limit(lengths: Lengths, limit: int) -> Limit:
    longer = [(tokens, rows) for tokens, rows in lengths if round(tokens) > limit]
    return Limit(
        tokens=limit,
        rows=sum(rows for _, rows in longer),
        beyond=round(sum((tokens - limit) * rows for tokens, rows in longer)),
    )
