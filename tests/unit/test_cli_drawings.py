"""Curves, bars and plots as text: what they show of the figures, at any width and in ASCII."""

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from api.cli.curves import Curve, read_curve, say_figure, sparkline, thin
from api.cli.job_view import JobView, draw_job
from api.cli.memory import Bar
from api.cli.plain import ASCII, UNICODE
from api.cli.plot import smoothed
from api.cli.plot_view import Line, choose_log_ticks, choose_ticks, draw_plot
from api.client.devices import Device
from api.client.results import Attempt, Job, MetricPoint
from tests.support.demo_pool import GIB, an_attempt, running_job, the_devices, the_metrics

FIGURES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300)


def a_console(width: int = 80, *, terminal: bool = True, encoding: str = "utf-8") -> tuple[Console, io.BytesIO]:
    written = io.BytesIO()
    file = io.TextIOWrapper(written, encoding=encoding, write_through=True)
    color = "standard" if terminal else None
    return Console(file=file, width=width, force_terminal=terminal, color_system=color, highlight=False), written  # type: ignore[arg-type]


def a_point(step: int, attempt: int = 1, **values: float) -> MetricPoint:
    return MetricPoint(id=f"m-{step}-{attempt}", attempt=attempt, at=100.0 * attempt + step, step=step, values=values)


def test_a_step_that_was_trained_again_counts_as_its_newest_attempt_had_it() -> None:
    points = [
        a_point(1, loss=3.0),
        a_point(2, loss=2.0),
        a_point(3, loss=9.0),
        a_point(3, 2, loss=1.0),
        a_point(4, 2, x=1.0),
    ]
    curve = read_curve(points, "loss")
    assert (curve.steps, curve.values) == ((1, 2, 3), (3.0, 2.0, 1.0))
    assert curve.seconds == (0.0, 1.0, 102.0)
    assert not read_curve([a_point(1, loss=float("nan"))], "loss")
    assert read_curve([a_point(1, y=1.0), a_point(1, 2, z=1.0)], "y").values == (1.0,)


@given(FIGURES, st.integers(1, 80))
def test_a_sparkline_is_as_high_as_its_values(values: list[float], width: int) -> None:
    for signs in (UNICODE, ASCII):
        line = sparkline(values, width, signs)
        assert 1 <= len(line) <= width
        assert set(line) <= set(signs.steps)
        shown = thin(values, width)
        if max(shown) > min(shown):
            assert line[shown.index(max(shown))] == signs.steps[-1]
            assert line[shown.index(min(shown))] == signs.steps[0]


@given(FIGURES, st.integers(1, 80))
def test_thinning_keeps_the_mean_of_what_it_merges(values: list[float], count: int) -> None:
    found = thin(values, count)
    assert len(found) == min(len(values), count)
    assert min(values) - 1e-6 <= min(found) <= max(found) <= max(values) + 1e-6


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0.000"), (2.43129, "2.431"), (0.0002, "2.000e-04"), (12_345.6, "12,346"), (-3.5, "-3.500")]
)
def test_figures_have_four_digits_or_a_power(value: float, text: str) -> None:
    assert say_figure(value) == text


def test_a_bar_shows_its_parts_and_a_line_that_crosses() -> None:
    bar = Bar(100, ((50, "#", ""), (25, "+", "")), mark_bytes=80)
    assert bar.draw(20, ASCII).plain == "##########+++++.|..."
    assert Bar(1000, ((1, "#", ""),)).draw(10, ASCII).plain == "#........."
    assert Bar(10, ((10, "#", ""), (5, "+", "")), mark_bytes=99).draw(4, ASCII).plain == "###|"
    assert Bar(0, ((0, "#", ""),)).draw(4, ASCII).plain == "...."


@given(st.integers(0, 10**12), st.lists(st.integers(0, 10**12), max_size=5), st.integers(1, 60), st.integers(0, 10**13))
def test_a_bar_is_as_wide_as_it_was_asked_to_be(total: int, parts: list[int], width: int, mark: int) -> None:
    assert len(Bar(total, tuple((size, "#", "") for size in parts), mark).draw(width, ASCII).plain) == width


def the_view(**changes: Any) -> JobView:
    points = tuple(MetricPoint.model_validate(point) for point in the_metrics())
    device = Device.model_validate(the_devices()[0])
    return JobView(
        Job.model_validate({**running_job(), **changes}), (Attempt.model_validate(an_attempt()),), points, device
    )


@pytest.mark.parametrize(("width", "encoding"), [(50, "utf-8"), (80, "utf-8"), (80, "ascii"), (140, "utf-8")])
def test_a_job_is_shown_with_its_losses_and_its_memory(width: int, encoding: str) -> None:
    console, written = a_console(width, encoding=encoding)
    draw_job(console, the_view())
    text = written.getvalue().decode(encoding)
    flat = " ".join(text.replace("\x1b[2m", "").replace("\x1b[0m", "").split())
    for words in ("80 of 200 steps", "3.341", "1.325", "10.0 of 11.0 GiB, -9 %", "12.0 of 24.0 GiB, 50 %"):
        assert words in flat
    assert "validation loss" in flat


def test_a_job_of_several_devices_names_them_all() -> None:
    console, written = a_console(140)
    attempt = Attempt.model_validate({**an_attempt(), "device_id": "n/cuda:0", "device_ids": ["n/cuda:0", "n/cuda:1"]})
    draw_job(console, JobView(the_view().job, (attempt,), (), None))
    assert "n/cuda:0, n/cuda:1" in written.getvalue().decode()


def test_a_job_that_never_ran_has_no_curves_and_no_bars() -> None:
    console, written = a_console()
    draw_job(console, JobView(Job.model_validate(running_job(0)), (), (), None))
    assert "training\n" not in written.getvalue().decode()
    assert "reserved" not in written.getvalue().decode()


def test_more_than_was_reserved_is_red_and_still_fits() -> None:
    attempt = Attempt.model_validate({**an_attempt(), "peak_device_bytes": 20 * GIB})
    console, written = a_console()
    view = the_view()
    draw_job(console, JobView(view.job, (attempt,), (), None))
    assert "\x1b[31m" in written.getvalue().decode()
    assert "20.0 of 11.0 GiB, +82 %" in written.getvalue().decode()


def curve_of(*values: float) -> Curve:
    steps = tuple(range(1, len(values) + 1))
    return Curve(steps, tuple(2.0 * step for step in steps), values)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_plot_has_a_legend_axes_and_the_lines(log: bool, encoding: str) -> None:
    console, written = a_console(70, terminal=False, encoding=encoding)
    lines = [Line("one", curve_of(4, 2, 1)), Line("two", curve_of(1, 2, 4))]
    draw_plot(console, lines, title="loss", by_time=False, log=log, height=14)
    text = written.getvalue().decode(encoding)
    assert text.startswith("loss by step   * one 1.000   o two 4.000")
    assert text.isascii() == (encoding == "ascii")
    canvas = text.splitlines()[1:]
    assert len(canvas) == 14
    assert max(len(line) for line in canvas) == 70
    assert "".join(canvas).count("*") > 10
    assert "".join(canvas).count("o") > 10


def test_a_plot_of_what_hardly_changes_or_has_no_logarithm() -> None:
    for values, log, words in (
        ((2.0,), False, "x 2.000"),
        ((0.0, 0.0), False, "x 0.000"),
        ((-1.0,), True, "nothing above zero"),
    ):
        console, written = a_console(60, terminal=False)
        draw_plot(console, [Line("x", curve_of(*values))], title="t", by_time=True, log=log, height=None)
        assert words in written.getvalue().decode()


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e9), st.integers(2, 12))
def test_ticks_are_within_the_range_and_not_too_many(low: float, span: float, count: int) -> None:
    ticks = choose_ticks(low, low + span, count)
    assert len(ticks) <= count + 1
    assert all(low - span * 1e-6 <= tick <= low + span * (1 + 1e-6) for tick in ticks)
    assert ticks == sorted(ticks)


@given(st.floats(-9, 9), st.floats(0.01, 12), st.integers(2, 12))
def test_logarithmic_ticks_are_round_numbers(low: float, span: float, count: int) -> None:
    ticks = choose_log_ticks(low, low + span, count)
    assert all(low - 1e-6 <= tick <= low + span + 1e-6 for tick in ticks)
    assert len(ticks) <= count + 1
    assert span < 1.01 or ticks


def test_smoothing_starts_without_a_bias_and_keeps_what_is_constant() -> None:
    assert smoothed(curve_of(5, 5, 5), 0.9).values == pytest.approx((5, 5, 5))
    assert smoothed(curve_of(1, 3), 0.5).values == pytest.approx((1, 7 / 3))
    assert smoothed(curve_of(1, 3), 0).values == (1, 3)
