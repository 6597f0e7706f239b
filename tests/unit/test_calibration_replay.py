"""The replayed history keeps its promises: errors fall, odd runs poison nothing, and shuffling takes the gain away."""

from collections.abc import Sequence
from statistics import mean, median

from tests.bench.calibration_replay import ODD_SHARE, Score, make_history, replay, shuffle_measurements

JOBS = 240


def summarize(scores: Sequence[Score | None]) -> tuple[float, float, float]:
    """(median error of time, share out of memory, median spare memory) of the later half."""
    late = [score for score in scores[JOBS // 2 :] if score is not None]
    return (
        median(score.time_error for score in late),
        mean(score.out_of_memory for score in late),
        median(score.spare for score in late),
    )


def test_learning_brings_errors_down_and_odd_runs_do_not_bring_them_back() -> None:
    plain = make_history(JOBS, seed=11, odd_share=0.0)
    time_before, deaths_before, _ = summarize(replay(plain, learns=False))
    time_after, deaths_after, spare = summarize(replay(plain))
    assert time_before > 0.4
    assert deaths_before > 0.15
    assert time_after < 0.05
    assert deaths_after < 0.03
    time_odd, deaths_odd, spare_odd = summarize(replay(make_history(JOBS, seed=11, odd_share=ODD_SHARE)))
    assert time_odd < time_after + 0.02
    assert deaths_odd < 0.03
    assert spare_odd < spare + 0.08
    time_control, _, spare_control = summarize(replay(shuffle_measurements(plain, seed=11)))
    assert time_control > 1.5 * time_after
    assert spare_control > spare + 0.03
