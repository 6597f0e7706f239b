"""What is learned stays sane whatever was measured: monotone, bounded, convergent, and not led by one odd run."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.calibration import (
    HEADROOM,
    HIGHEST_FACTOR,
    LARGEST_CORRECTION,
    LOWEST_FACTOR,
    TOP_STEP,
    UNKNOWN_SPREAD,
    MemorySample,
    calibrate,
    interpolate_quantile,
    learn_correction,
    learn_factor,
    merge_calibrations,
)
from orchestrator.domain.estimate_terms import UNCALIBRATED
from orchestrator.domain.observations import ESTIMATORS
from tests.support.launchers import GIB
from tests.support.observed import make_observation

RATIOS = st.floats(0.01, 100.0)
USUAL = st.floats(0.9, 1.2)
FACTORS = st.floats(LOWEST_FACTOR, HIGHEST_FACTOR)


def samples(ratios: list[float]) -> list[MemorySample]:
    return [MemorySample(ratio=ratio) for ratio in ratios]


@given(FACTORS)
def test_without_data_nothing_changes(prior: float) -> None:
    assert learn_factor([], prior=prior) == prior
    assert learn_factor([]) == 1.0
    assert learn_correction([]) is None
    assert calibrate([[], [], []]) == UNCALIBRATED


@given(st.lists(st.tuples(RATIOS, st.booleans()), max_size=80), FACTORS)
def test_the_factor_is_bounded(found: list[tuple[float, bool]], prior: float) -> None:
    given_samples = [MemorySample(ratio=ratio, censored=censored) for ratio, censored in found]
    assert LOWEST_FACTOR <= learn_factor(given_samples, prior=prior) <= HIGHEST_FACTOR


@given(st.lists(RATIOS, min_size=1, max_size=40), st.data(), FACTORS)
def test_more_measured_never_asks_for_less(ratios: list[float], data: st.DataObject, prior: float) -> None:
    place = data.draw(st.integers(0, len(ratios) - 1))
    higher = [*ratios]
    higher[place] *= data.draw(st.floats(1.0, 1000.0))
    assert learn_factor(samples(higher), prior=prior) >= learn_factor(samples(ratios), prior=prior) - 1e-12


@given(st.lists(RATIOS, max_size=40), FACTORS, FACTORS)
def test_a_higher_prior_never_gives_a_lower_factor(ratios: list[float], one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert learn_factor(samples(ratios), prior=low) <= learn_factor(samples(ratios), prior=high) + 1e-12


@given(st.floats(0.8, 1.8))
def test_many_runs_alike_are_believed(ratio: float) -> None:
    asked = max(ratio * HEADROOM, LOWEST_FACTOR)
    few, many = (learn_factor(samples([ratio] * count)) for count in (3, 1000))
    assert many == pytest.approx(asked, rel=0.01)
    assert abs(many - asked) <= abs(few - asked) + 1e-9


@given(st.lists(USUAL, min_size=2, max_size=60), st.floats(1.0, 1e9))
def test_one_odd_run_of_any_size_counts_as_one_a_little_above_the_next(ratios: list[float], odd: float) -> None:
    highest = max(ratios)
    little = learn_factor(samples([*ratios, TOP_STEP * highest]))
    assert learn_factor(samples([*ratios, odd])) <= little + 1e-9
    assert little <= TOP_STEP * max(highest * HEADROOM, 1.0) + 1e-9


@given(st.floats(1.0, 1e9))
def test_one_odd_run_alone_adds_no_more_than_an_eighth(odd: float) -> None:
    assert learn_factor(samples([odd])) <= 1.125


@given(st.lists(USUAL, max_size=60), st.floats(0.5, 100.0))
def test_running_out_of_memory_raises_the_factor(ratios: list[float], reserved: float) -> None:
    before = learn_factor(samples(ratios))
    after = learn_factor([*samples(ratios), MemorySample(ratio=reserved, censored=True)])
    assert before < after <= HIGHEST_FACTOR
    known = max([before, *ratios])
    assert after <= TOP_STEP * HEADROOM * known, "one failure is no reason to ask for the whole device"


def test_a_few_odd_runs_among_many_add_little_and_a_real_change_is_followed() -> None:
    few = learn_factor(samples([1.0] * 12 + [3.0, 5.0]))
    assert few < 1.25
    assert learn_factor(samples([1.0] * 7 + [1.5] * 7)) == pytest.approx(1.5, rel=0.03)


def test_repeated_failures_raise_it_further() -> None:
    factors = []
    found: list[MemorySample] = samples([1.0] * 10)
    for _ in range(4):
        factors.append(learn_factor(found))
        found.append(MemorySample(ratio=factors[-1], censored=True))
    assert factors == sorted(set(factors))


@given(st.lists(RATIOS, min_size=1, max_size=40), st.data())
def test_corrections_are_monotone_and_bounded(ratios: list[float], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(ratios) - 1))
    higher = [*ratios]
    higher[place] *= data.draw(st.floats(1.0, 1000.0))
    one, other = learn_correction(ratios), learn_correction(higher)
    assert one is not None
    assert other is not None
    assert one.factor <= other.factor + 1e-12
    assert 1 / LARGEST_CORRECTION <= one.factor <= LARGEST_CORRECTION
    low, expected, high = one.apply(60.0)
    assert 0 < low < expected < high


@given(st.floats(0.3, 4.0), st.lists(st.floats(0.97, 1.03), min_size=3, max_size=3), st.sampled_from([1e-6, 1e6]))
def test_three_runs_are_enough_within_a_twentieth_and_a_fourth_odd_one_changes_little(
    speed: float, noise: list[float], odd: float
) -> None:
    """Three levels, as for one kind of job on one device type: each goes on from the one before."""

    def learn(ratios: list[float]) -> tuple[float, float]:
        found = None
        for _ in range(3):
            found = learn_correction(ratios, prior=found)
        assert found is not None
        return found.factor / speed, found.spread

    three = [speed * each for each in noise]
    assert learn(three)[0] == pytest.approx(1.0, abs=0.05)
    assert learn([*three, odd])[0] == pytest.approx(1.0, abs=0.07)
    assert learn(three)[1] < UNKNOWN_SPREAD / 2


@given(st.floats(0.5, 2.0), st.sampled_from([1e-6, 1e6]))
def test_of_two_runs_the_one_that_relatives_bear_out_is_believed(speed: float, odd: float) -> None:
    relatives = learn_correction([speed] * 7)
    found = learn_correction([speed, odd], prior=relatives)
    assert found is not None
    assert found.factor == pytest.approx(speed, rel=0.1)


@given(st.lists(RATIOS, min_size=1, max_size=30), st.lists(RATIOS, min_size=1, max_size=30))
def test_a_range_is_never_wider_than_without_data_and_one_run_is_not_counted_at_each_level(
    coarse: list[float], fine: list[float]
) -> None:
    found = learn_correction(fine, prior=learn_correction(coarse))
    assert found is not None
    assert found.spread <= UNKNOWN_SPREAD
    once = learn_correction(fine[:1], prior=learn_correction(fine[:1]))
    assert once is not None
    assert once.spread > UNKNOWN_SPREAD / 2


def test_the_range_narrows_with_every_run() -> None:
    spreads = [found.spread for n in range(1, 12) if (found := learn_correction([1.3] * n)) is not None]
    assert len(spreads) == 11
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[0] < UNKNOWN_SPREAD
    assert spreads[2] < math.log(1.25)


@given(st.lists(RATIOS, min_size=1, max_size=30).map(sorted), st.floats(0.0, 1.0))
def test_a_quantile_lies_within_its_values(ordered: list[float], share: float) -> None:
    assert ordered[0] - 1e-9 <= interpolate_quantile(ordered, share) <= ordered[-1] + 1e-9


def test_a_kind_that_never_ran_borrows_from_its_relatives() -> None:
    relatives = [make_observation(ratio=1.3, speed=2.0) for _ in range(10)]
    found = calibrate([relatives, [], []])
    assert found.memory_factor("closed_form") == pytest.approx(1.3 * HEADROOM, rel=0.03)
    assert found.corrections["training"].factor == pytest.approx(2.0, rel=0.02)
    assert (found.memory_runs, found.time_runs, found.related_runs) == (0, 0, 10)
    own = calibrate([[*relatives, *[make_observation(speed=1.0)] * 3], [], [make_observation(speed=1.0)] * 3])
    assert own.corrections["training"].factor == pytest.approx(1.0, rel=0.07)
    assert own.time_runs == 3


def test_runs_that_took_less_never_take_from_the_prediction() -> None:
    """Theirs may have been short rows under a long limit; the next job of the kind may have rows as long as that."""
    modest = [make_observation(ratio=0.4) for _ in range(30)]
    assert calibrate([modest, modest, modest]).memory_factor("closed_form") == 1.0


def test_runs_of_the_kind_lower_what_relatives_raised() -> None:
    greedy, modest = ([make_observation(ratio=ratio) for _ in range(30)] for ratio in (1.4, 1.0))
    raised = calibrate([greedy, greedy, []]).memory_factor("closed_form")
    assert raised > 1.3
    assert 1.0 < calibrate([greedy, greedy, modest[:2]]).memory_factor("closed_form") < raised
    assert calibrate([greedy, greedy, modest]).memory_factor("closed_form") < 1.1


def test_each_way_to_predict_memory_learns_from_its_own_predictions() -> None:
    """Time is predicted in one way only, so all teach it."""
    traced = [make_observation(ratio=1.0, speed=2.0, estimator=ESTIMATORS["traced"]) for _ in range(30)]
    by_formula = [make_observation(ratio=1.4, speed=2.0) for _ in range(3)]
    level = [*traced, *by_formula]
    found = calibrate([level, level, level])
    assert found.memory_factors == {
        "traced": calibrate([traced] * 3).memory_factor("traced"),
        "closed_form": calibrate([by_formula] * 3).memory_factor("closed_form"),
    }
    assert found.memory_factor("traced") == pytest.approx(HEADROOM, rel=0.01)
    assert found.memory_factor("closed_form") > 1.35
    assert (found.memory_runs, found.time_runs, found.corrections["training"].runs) == (33, 33, 33)
    of_formulas = calibrate([by_formula] * 3)
    assert of_formulas.memory_factor("traced") == 1.0
    assert merge_calibrations([of_formulas, calibrate([traced] * 3)]).memory_factors == found.memory_factors


def test_a_resumed_attempt_teaches_no_peak_but_that_it_was_too_little() -> None:
    """It skips the longest rows, so a job that was predicted right would look as if it took less."""
    whole = [make_observation(ratio=1.3) for _ in range(3)]
    rest = [make_observation(ratio=0.7, resumed=True) for _ in range(30)]
    learned = calibrate([whole] * 3)
    found = calibrate([[*whole, *rest]] * 3)
    assert found.memory_factors == learned.memory_factors
    assert (found.memory_runs, found.time_runs) == (3, 33)
    died = make_observation(ratio=1.5, resumed=True, succeeded=False, out_of_memory=True)
    assert calibrate([[*whole, died]] * 3).memory_factor("closed_form") > learned.memory_factor("closed_form")


def test_attempts_that_show_nothing_teach_nothing() -> None:
    early = make_observation(ratio=0.1, succeeded=False, steps=2)
    unknown = make_observation(predicted_bytes=None, predicted_seconds={})
    silent = make_observation(measured_bytes=0, phase_seconds={})
    levels = [[early, unknown, silent]] * 3
    found = calibrate(levels)
    assert found.memory_factor("closed_form") == 1.0
    assert (found.memory_runs, found.time_runs, dict(found.corrections)) == (0, 0, {})
    died = make_observation(ratio=0.2, succeeded=False, out_of_memory=True, steps=0, reserved_bytes=2 * GIB)
    assert calibrate([[died]] * 3).memory_factor("closed_form") > 1.05
