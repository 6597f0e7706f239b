"""Bars to scale: values become places on an axis of WIDTH units, because a page's policy allows no inline styles."""

from collections.abc import Iterable
from dataclasses import dataclass

WIDTH = 1000
SMALLEST = 2.0
"""Units; a part that is there stays visible however small it is."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """`look` is a class of the stylesheet; `title` says the figure."""

    name: str
    value: float
    look: str
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Placed:
    part: Part
    x: float
    width: float


def lay_out(parts: Iterable[Part], total: float) -> list[Placed]:
    """One after the other from the left; what goes beyond `total` is cut off at the end."""
    placed: list[Placed] = []
    x = 0.0
    for part in parts:
        if part.value <= 0 or total <= 0:
            continue
        width = min(max(WIDTH * part.value / total, SMALLEST), WIDTH - x)
        if width <= 0:
            break
        placed.append(Placed(part=part, x=round(x, 2), width=round(width, 2)))
        x += width
    return placed


def scale(value: float, total: float) -> float:
    """Where `value` lies on an axis that ends at `total`."""
    return 0.0 if total <= 0 else round(min(max(WIDTH * value / total, 0), WIDTH), 2)
