"""How a plot looks: plotext's canvas with ticks and a legend of ours, in ASCII where the terminal has nothing else."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from rich.console import Console
from rich.text import Text

from api.cli.curves import Curve, say_figure, thin
from api.cli.output import say_age
from api.cli.plain import UNICODE, harmless, signs_of

COLORS = (6, 5, 2, 3, 4, 1, 7, 8)
"""Of the terminal's own palette: cyan, magenta, green, yellow, blue, red, white, grey."""
LETTERS = "*o+x#@%&"
"""Lines that have no colours are told apart by what they are drawn with."""
LINES_OF_WIDTH = 0.22
MIN_LINES, MAX_LINES = 12, 30
COLUMNS_PER_TICK, LINES_PER_TICK = 14, 3
MAX_POINTS = 1000
"""More than the dots of a wide canvas; longer curves are averaged."""
MARGIN = 0.03
TINY = 1e-3
TO_ASCII = str.maketrans("┌┐└┘├┤┬┴┼─│", "+++++++++-|")


@dataclass(frozen=True)
class Line:
    label: str
    curve: Curve


@dataclass(frozen=True)
class _Drawn:
    """A line as it is put on the canvas; `last` is its last value."""

    label: str
    last: float
    color: int
    sign: str
    x: list[float]
    y: list[float]


def draw_plot(
    console: Console, lines: Sequence[Line], *, title: str, by_time: bool, log: bool, height: int | None
) -> None:
    """All lines in one plot as wide as the console; the last value of each is in the legend."""
    unicode = signs_of(console) is UNICODE
    colored = console.is_terminal and not console.no_color and console.color_system is not None
    drawn = [
        _Drawn(
            harmless(line.label),
            line.curve.values[-1],
            COLORS[index % len(COLORS)],
            "braille" if unicode and (colored or len(lines) == 1) else LETTERS[index % len(LETTERS)],
            thin(line.curve.seconds if by_time else line.curve.steps, MAX_POINTS),
            thin(line.curve.values, MAX_POINTS),
        )
        for index, line in enumerate(lines)
    ]
    if log:
        drawn = [line for line in map(_logarithmic, drawn) if line.y]
    if not drawn:
        console.print("nothing above zero to draw on a logarithmic axis", style="dim")
        return
    lines_high = height or max(MIN_LINES, min(MAX_LINES, round(console.width * LINES_OF_WIDTH)))
    console.print(_legend(title, drawn, unicode=unicode, along="time" if by_time else "step"))
    canvas = _canvas(drawn, console.width, lines_high, by_time=by_time, log=log, colored=colored)
    canvas = canvas if unicode else canvas.translate(TO_ASCII)
    console.print(Text.from_ansi(canvas.rstrip(), no_wrap=True, overflow="crop"))


def _logarithmic(line: _Drawn) -> _Drawn:
    """With the powers of ten; what is not above zero has none and is left out."""
    kept = [(x, y) for x, y in zip(line.x, line.y, strict=True) if y > 0]
    return replace(line, x=[x for x, _ in kept], y=[math.log10(y) for _, y in kept])


def _legend(title: str, drawn: Sequence[_Drawn], *, unicode: bool, along: str) -> Text:
    text = Text.assemble((title, "bold"), (f" by {along}", "dim"))
    for line in drawn:
        sign = ("━━" if unicode else "--") if line.sign == "braille" else line.sign
        text.append("   ").append(sign, style=f"color({line.color})").append(f" {line.label} {say_figure(line.last)}")
    return text


def _canvas(drawn: Sequence[_Drawn], width: int, height: int, *, by_time: bool, log: bool, colored: bool) -> str:
    import plotext  # noqa: PLC0415 - it takes a tenth of a second, which every other command would pay

    plotext.terminal.limit(False, False)
    figure = plotext.figure.clear()
    figure.plot_size(width, height)
    figure.theme("colorless").legend(False)
    for line in drawn:
        marker = plotext.marker(line.sign, plotext.pixel(line.color))
        figure.draw(figure.signal(line.x, line.y, marker=marker).lines())
    x_low, x_high = _range([x for line in drawn for x in line.x])
    y_low, y_high = _range([y for line in drawn for y in line.y])
    x_ticks = choose_ticks(x_low, x_high, max(2, width // COLUMNS_PER_TICK), smallest=1)
    y_count = max(2, height // LINES_PER_TICK)
    y_ticks = choose_log_ticks(y_low, y_high, y_count) if log else choose_ticks(y_low, y_high, y_count)
    figure.ruler("x").lim(x_low, x_high)
    figure.ruler("x").ticks(x_ticks, [say_age(x) if by_time else f"{x:,.0f}" for x in x_ticks])
    figure.ruler("y").lim(y_low, y_high)
    figure.ruler("y").ticks(y_ticks, [say_figure(10**tick) for tick in y_ticks] if log else _labels(y_ticks))
    return str(figure.build().string(colorless=not colored))


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The lowest and the highest value with a little air; never empty."""
    low, high = min(values), max(values)
    air = MARGIN * (high - low) or max(1e-9, abs(low) / 10)
    return low - air, high + air


def choose_ticks(low: float, high: float, count: int, *, smallest: float = 0.0) -> list[float]:
    """About `count` round numbers from low to high, at least `smallest` apart."""
    rough = max((high - low) / count, smallest)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def choose_log_ticks(low: float, high: float, count: int) -> list[float]:
    """Powers of ten of round numbers, from `low` to `high`, which are powers of ten themselves."""
    if high - low < 1:
        return [math.log10(tick) for tick in choose_ticks(10**low, 10**high, count)]
    found = [
        power + math.log10(digit)
        for power in range(math.floor(low), math.ceil(high) + 1)
        for digit in ((1, 2, 5) if high - low < count / 3 else (1,))
    ]
    kept = [tick for tick in found if low <= tick <= high]
    return kept[:: max(1, -(-len(kept) // (count + 1)))]


def _labels(ticks: Sequence[float]) -> list[str]:
    """Figures with as few decimal places as tell neighbours apart; tiny ones with a power of ten."""
    gaps = [high - low for low, high in pairwise(ticks) if high > low] or [1.0]
    if max(abs(tick) for tick in ticks) < TINY:
        return [f"{tick:.1e}" if tick else "0" for tick in ticks]
    places = max(0, math.ceil(-math.log10(min(gaps)) - 1e-6))
    return [f"{tick:,.{places}f}" for tick in ticks]
