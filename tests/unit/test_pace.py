"""An attempt's own clock: phases, steps and the finish that follows from them."""

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.pace import (
    Pace,
    advance_pace,
    average_steps,
    count_evaluations,
    estimate_finish,
    predict_finish,
)
from orchestrator.domain.protocol import Entry, Metric, Phase, Progress, Stopped
from tests.support.facts import NOW
from tests.support.plans import make_plan


def step(number: int, seconds: float = 2.0) -> Metric:
    values = {"train_loss": 1.0, "step_seconds": seconds, "tokens_per_second": 50.0}
    return Metric(step=number, values=values)


def journal(*timed: tuple[float, Any]) -> list[Entry]:
    return [Entry(seq=seq, at_unix=1000.0 + at, report=report) for seq, (at, report) in enumerate(timed, start=1)]


RUN = journal(
    (0, Phase(phase="starting")),
    (5, Phase(phase="loading_model")),
    (15, Phase(phase="evaluating")),
    (18, Phase(phase="training")),
    (18, Progress(step=0, total_steps=4, trained_tokens=300)),
    (20, step(1)),
    (20, Progress(step=1, total_steps=4, trained_tokens=350)),
    (23, step(2)),
    (23, Phase(phase="evaluating")),
    (27, Phase(phase="training")),
    (29.5, step(3)),
    (29.5, Progress(step=3, total_steps=4, trained_tokens=450)),
    (31, Stopped(reason="paused", step=3)),
)


def test_phases_steps_and_tokens_are_counted() -> None:
    pace = advance_pace(Pace(), RUN)
    assert pace.seconds == {"starting": 5.0, "loading_model": 10.0, "evaluating": 7.0, "training": 9.0}
    assert pace.entered["evaluating"] == 2
    assert (pace.steps, pace.seen_tokens, pace.trained_tokens) == (3, 300.0, 150)
    assert pace.recent_seconds == (2.0, 3.0, 2.0), "from step to step; its own time for the first of a phase"
    assert pace.phase is None, "the outcome ends the last phase"
    assert pace.phase_seconds() == pace.seconds


@given(st.sets(st.integers(1, len(RUN) - 1)))
def test_however_the_journal_is_cut_the_record_is_the_same(cuts: set[int]) -> None:
    pace, edges = Pace(), [0, *sorted(cuts), len(RUN)]
    for first, last in pairwise(edges):
        pace = Pace.model_validate_json(advance_pace(pace, RUN[first:last]).model_dump_json())
    assert pace == advance_pace(Pace(), RUN)


def test_the_open_phase_lasts_to_the_newest_entry() -> None:
    assert advance_pace(Pace(), RUN[:7]).phase_seconds()["training"] == 2.0


def test_a_clock_that_jumps_makes_no_absurd_seconds() -> None:
    pace = advance_pace(Pace(), journal((0, Phase(phase="training")), (-500, step(1)), (-400, Phase(phase="saving"))))
    assert pace.seconds == {"training": 0.0}
    assert min(pace.recent_seconds) >= 0


def test_without_a_figure_of_its_own_the_first_step_only_starts_the_clock() -> None:
    bare = Metric(step=1, values={"train_loss": 1.0})
    assert advance_pace(Pace(), journal((0, bare))).recent_seconds == ()
    assert advance_pace(Pace(), journal((0, bare), (4, bare))).recent_seconds == (4.0,)


@pytest.mark.parametrize(
    ("every", "after_step", "last_step", "passes"),
    [(None, 0, 10, 1), (4, 0, 10, 3), (5, 0, 10, 2), (4, 8, 10, 1), (5, 9, 10, 1), (4, 10, 10, 0), (None, 10, 10, 0)],
)
def test_evaluations_are_at_the_cadence_and_after_the_last_step(
    every: int | None, after_step: int, last_step: int, passes: int
) -> None:
    assert count_evaluations(make_plan(eval_steps=every), after_step=after_step, last_step=last_step) == passes


def finish_seconds(pace: Pace, *, at_step: int, evaluates: bool = False, end_seconds: float = 0.0) -> float | None:
    """From the last sign of life to the finish, in a run of 100 steps that evaluates after every 10."""
    found = estimate_finish(
        pace,
        make_plan(eval_steps=10),
        step=at_step,
        total_steps=100,
        evaluates=evaluates,
        seen_at=NOW,
        end_seconds=end_seconds,
    )
    return None if found is None else (found - NOW) / timedelta(seconds=1)


def test_the_finish_follows_the_usual_step_and_not_the_loading() -> None:
    slow_start = journal((0, Phase(phase="loading_model")), (600, Phase(phase="training")))
    steps = [(602 + 2 * n, step(n)) for n in range(1, 20)]
    odd = [(900.0, step(20)), *((900.0 + 2 * n, step(20 + n)) for n in range(1, 11))]
    pace = advance_pace(advance_pace(Pace(), slow_start), journal(*steps, *odd))
    assert finish_seconds(pace, at_step=30) == pytest.approx(140.0)
    assert finish_seconds(pace, at_step=30, end_seconds=12.0) == pytest.approx(152.0)
    assert finish_seconds(Pace(), at_step=30) is None


def test_few_long_steps_count_and_one_odd_one_does_not() -> None:
    every_fourth_long = [1.0, 1.0, 1.0, 5.0] * 5
    assert average_steps(every_fourth_long) == pytest.approx(2.0, rel=0.15)
    assert average_steps([2.0] * 30 + [500.0]) == 2.0
    assert average_steps([3.0]) == 3.0
    assert average_steps([1.0, 3.0]) == 2.0


def test_before_the_first_step_the_finish_is_as_predicted_and_never_past() -> None:
    terms = {"start": 10.0, "loading": 5.0, "training": 100.0, "evaluating": 20.0, "saving": 2.0}

    def seconds(*, share_left: float = 1.0, seen: float = 3.0) -> float:
        seen_at = NOW + timedelta(seconds=seen)
        found = predict_finish(terms, share_left=share_left, began_at=NOW, seen_at=seen_at)
        assert found is not None
        return (found - NOW) / timedelta(seconds=1)

    assert seconds() == 137.0
    assert seconds(share_left=0.25) == 47.0
    assert seconds(seen=500.0) == 500.0
    assert predict_finish({}, share_left=1.0, began_at=NOW, seen_at=NOW) is None


def test_evaluations_that_are_left_are_counted_and_the_one_under_way_as_far_as_it_is_left() -> None:
    pace = advance_pace(Pace(), RUN[:10])
    assert finish_seconds(pace, at_step=95, evaluates=True) == pytest.approx(5 * 2.5 + 3.5)
    under_way = journal((28, Phase(phase="evaluating")), (30, Progress(step=95, total_steps=100, trained_tokens=1)))
    running = advance_pace(pace, under_way)
    assert finish_seconds(running, at_step=95, evaluates=True) == pytest.approx(5 * 2.5 + 3.5 + 1.5)


def test_what_was_spent_on_saving_is_not_waited_for_again() -> None:
    pace = advance_pace(Pace(), RUN[:7])
    saving = advance_pace(pace, journal((24, Phase(phase="saving")), (30, Phase(phase="uploading"))))
    assert finish_seconds(saving, at_step=100, end_seconds=10.0) == pytest.approx(4.0)
