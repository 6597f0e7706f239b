"""Metrics as curves: which figure holds for a step, and how a curve looks in one line of text."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from api.cli.plain import Signs
from api.client.results import MetricPoint


@dataclass(frozen=True)
class Curve:
    """One metric of one job by step. `seconds` count from the job's first figure, pauses between attempts included."""

    steps: tuple[int, ...]
    seconds: tuple[float, ...]
    values: tuple[float, ...]

    def __bool__(self) -> bool:
        return bool(self.values)


def read_curve(points: Iterable[MetricPoint], name: str) -> Curve:
    """The curve of a metric. A step that was trained again after a loss counts as its newest attempt had it."""
    listed = list(points)
    newest: dict[int, MetricPoint] = {}
    for point in listed:
        known = newest.get(point.step)
        if math.isfinite(point.values.get(name, math.nan)) and (known is None or point.attempt >= known.attempt):
            newest[point.step] = point
    chosen = [newest[step] for step in sorted(newest)]
    began = min((point.at for point in listed), default=0.0)
    return Curve(
        steps=tuple(point.step for point in chosen),
        seconds=tuple(max(0.0, point.at - began) for point in chosen),
        values=tuple(point.values[name] for point in chosen),
    )


def list_metrics(points: Iterable[MetricPoint]) -> list[str]:
    """The names of all figures there are, in alphabetical order."""
    return sorted({name for point in points for name in point.values})


def thin(values: Sequence[float], count: int) -> list[float]:
    """At most `count` values: means of neighbours, in order."""
    if len(values) <= count:
        return list(values)
    edges = [round(index * len(values) / count) for index in range(count + 1)]
    return [sum(values[low:high]) / (high - low) for low, high in pairwise(edges)]


def sparkline(values: Sequence[float], width: int, signs: Signs) -> str:
    """The curve in one line of at most `width` characters, from its lowest to its highest value."""
    if not values:
        return ""
    shown = thin(values, width)
    low, high = min(shown), max(shown)
    top = len(signs.steps) - 1
    if high == low:
        return signs.steps[top // 2] * len(shown)
    return "".join(signs.steps[round((value - low) / (high - low) * top)] for value in shown)


def say_figure(value: float) -> str:
    """Four significant digits, for losses and rates alike: 2.4313 is '2.431', 0.0002 is '2.000e-04'."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:,.3f}"
    return f"{value:.3e}" if abs(value) < 1e-3 else f"{value:,.0f}"
