"""How long the rows of a file are for a model: columns over an axis of tokens, and what of them is beyond a limit."""

from collections.abc import Sequence
from dataclasses import dataclass
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
    rows = sum(count for _, count in lengths)
    if rows == 0:
        return None
    most = round(lengths[-1][0])
    return Histogram(
        rows=rows,
        least=round(lengths[0][0]),
        median=_quantile(lengths, 0.5),
        p95=_quantile(lengths, 0.95),
        most=most,
        columns=_draw_columns(lengths, most),
        limits=[_measure_limit(lengths, limit) for limit in LIMITS if limit < most] or [_measure_limit(lengths, most)],
        is_exact=len(lengths) < MOST_BINS,
    )


def _quantile(lengths: Lengths, share: float) -> int:
    """The length that at least this share of the rows does not exceed."""
    wanted = share * sum(count for _, count in lengths)
    seen = 0
    for tokens, count in lengths:
        seen += count
        if seen >= wanted:
            return round(tokens)
    return round(lengths[-1][0])


def _draw_columns(lengths: Lengths, most: int) -> list[Column]:
    """Of equal widths that are round numbers, from 1 token to the longest row."""
    width = _round_width(most)
    counts = [0] * -(-most // width)
    for tokens, count in lengths:
        counts[max(0, -(-round(tokens) // width) - 1)] += count
    step = 1000 / len(counts)
    return [
        Column(
            first=number * width + 1,
            last=(number + 1) * width,
            rows=count,
            x=round(number * step, 2),
            width=round(step * (1 - GAP), 2),
            height=scale(count, max(counts)),
        )
        for number, count in enumerate(counts)
    ]


def _round_width(most: int) -> int:
    """The least of 1, 2, 5, 10, 20, 50… with which `MOST_COLUMNS` columns reach the longest row."""
    width = 1
    while width * MOST_COLUMNS < most:
        width = width * 5 // 2 if str(width).startswith("2") else width * 2
    return width


def _measure_limit(lengths: Lengths, limit: int) -> Limit:
    longer = [(tokens, count) for tokens, count in lengths if round(tokens) > limit]
    return Limit(
        tokens=limit,
        rows=sum(count for _, count in longer),
        beyond=round(sum((tokens - limit) * count for tokens, count in longer)),
    )
