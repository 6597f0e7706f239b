"""The time estimate: its count of multiplications by hand, its range, and the runs it was made from."""

from typing import Any

import pytest

from orchestrator.domain.estimate_terms import Correction
from orchestrator.domain.estimate_time import PADDING, RATES, count_flops, count_forward_flops, estimate_time
from orchestrator.domain.plan import TokenReport
from tests.support.plans import SMOLLM2_135M, make_plan

LINEAR = 30 * (2 * 576 * 576 + 2 * 192 * 576 + 3 * 576 * 1536)
HEAD = 49_152 * 576
ADAPTERS = 30 * 16 * (2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536))


HELD_OUT = TokenReport(rows=50, total_tokens=5000, trained_tokens=0, longest_row_tokens=200, longest_row_line=1)


def estimate(rows: int = 100, total_tokens: int = 10_000, **changes: Any) -> Any:
    return estimate_time(make_plan(**changes), SMOLLM2_135M, total_tokens=total_tokens, rows=rows, kind="cpu")


def test_flops_are_counted_per_matrix() -> None:
    attention = 4 * 128 * 576 * 30
    plain = count_flops(make_plan(), SMOLLM2_135M, row_tokens=128)
    assert plain == 4 * LINEAR + 6 * HEAD + 6 * ADAPTERS + 3 * attention
    checkpointed = count_flops(make_plan(gradient_checkpointing=True), SMOLLM2_135M, row_tokens=128)
    assert checkpointed - plain == 2 * LINEAR + 2 * ADAPTERS + attention


@pytest.mark.parametrize(
    ("tokens", "checkpointing", "measured_seconds"), [(64, False, 1.48), (256, False, 6.31), (256, True, 8.42)]
)
def test_steps_take_about_as_long_as_they_did(tokens: int, *, checkpointing: bool, measured_seconds: float) -> None:
    """SFTTrainer on two idle cores of an AMD EPYC with AVX512-BF16, 4 rows a step, bfloat16, 23 November 2026."""
    plan = make_plan(max_seq_tokens=tokens, gradient_checkpointing=checkpointing)
    seconds = 4 * tokens * count_flops(plan, SMOLLM2_135M, row_tokens=tokens) / RATES["cpu"].flops_per_second
    assert 0.85 < seconds / measured_seconds < 1.2


def test_epochs_and_steps_scale_the_work_and_not_the_start() -> None:
    start = estimate(max_steps=1, rows=4, total_tokens=4).seconds
    once, thrice = estimate(epochs=1), estimate(epochs=3)
    assert thrice.seconds - start == pytest.approx(3 * (once.seconds - start), rel=0.01)
    assert (once.steps, thrice.steps) == (25, 75)
    assert (once.tokens, thrice.tokens) == (10_000, 30_000)


def test_a_limit_of_steps_limits_the_tokens() -> None:
    limited = estimate(epochs=3, max_steps=5)
    assert (limited.steps, limited.tokens) == (5, 2000)
    assert estimate(epochs=1, max_steps=500).tokens == 10_000


def test_a_last_batch_that_is_not_full_trains_on_no_token_twice() -> None:
    found = estimate(rows=5, total_tokens=500)
    assert (found.steps, found.tokens) == (2, 500)


def test_the_range_holds_the_estimate_and_the_longest_padding() -> None:
    found = estimate()
    assert 0 < found.low_seconds < found.seconds < found.high_seconds
    short = estimate(max_seq_tokens=4096)
    assert short.high_seconds > 10 * found.high_seconds > 10 * found.low_seconds


def test_rows_that_are_not_padded_are_not_charged_for_it() -> None:
    start = estimate(max_steps=1, rows=4, total_tokens=4).seconds
    padded, packed = estimate(), estimate(packing=True)
    assert (padded.seconds - start) / (packed.seconds - start) == pytest.approx(PADDING, rel=0.05)
    assert estimate(micro_batch_rows=1, accumulation_steps=4).seconds == pytest.approx(packed.seconds, rel=0.01)
    full = estimate(rows=100, total_tokens=25_600)
    assert full.high_seconds < estimate(rows=100, total_tokens=25_599, max_seq_tokens=512).high_seconds


def test_float32_is_slower_and_cuda_faster() -> None:
    assert estimate(compute_dtype="float32").seconds > estimate().seconds
    cuda = estimate_time(make_plan(), SMOLLM2_135M, total_tokens=10_000_000, rows=100_000, kind="cuda")
    assert cuda.seconds < estimate(total_tokens=10_000_000, rows=100_000).seconds / 10


def evaluated(**changes: Any) -> Any:
    """25 steps, with a validation file."""
    plan = make_plan(**changes)
    return estimate_time(plan, SMOLLM2_135M, total_tokens=10_000, rows=100, kind="cpu", validation=HELD_OUT)


@pytest.mark.parametrize(("every", "passes"), [(None, 2), (10, 4), (5, 6), (100, 2)])
def test_each_evaluation_is_a_forward_pass_over_the_validation_file(every: int | None, passes: int) -> None:
    found = evaluated(eval_steps=every, micro_batch_rows=1, accumulation_steps=4)
    assert found.evaluations == passes
    once = 5000 * count_forward_flops(make_plan(), SMOLLM2_135M, row_tokens=100) / RATES["cpu"].flops_per_second
    assert found.breakdown["evaluating"] == pytest.approx(passes * once)
    assert estimate().breakdown["evaluating"] == 0.0


def test_a_forward_pass_by_hand() -> None:
    counted = count_forward_flops(make_plan(), SMOLLM2_135M, row_tokens=128)
    assert counted == 2 * (LINEAR + HEAD + ADAPTERS) + 4 * 128 * 576 * 30


def test_checkpoints_hold_training_up_but_for_the_last_steps() -> None:
    plain, saving = estimate(), estimate(checkpoint_steps=5)
    each = 0.3 + 3 * 4 * ADAPTERS / 2e8
    assert saving.breakdown["training"] - plain.breakdown["training"] == pytest.approx(4 * each)
    assert estimate(checkpoint_steps=25).breakdown == plain.breakdown
    by_time = estimate(checkpoint_seconds=int(plain.breakdown["training"] / 2.5))
    assert by_time.breakdown["training"] - plain.breakdown["training"] == pytest.approx(2 * each)


def test_a_step_takes_the_trainers_own_time_however_small_the_model() -> None:
    small = {"total_tokens": 4, "rows": 4}
    one, many = (estimate(epochs=epochs, **small).breakdown["training"] for epochs in (1, 1001))
    padded = 5 * count_flops(make_plan(), SMOLLM2_135M, row_tokens=1) / RATES["cpu"].flops_per_second
    assert many - one == pytest.approx(1000 * (padded + 0.03), rel=0.01)


def test_the_terms_sum_up_to_the_estimate() -> None:
    found = evaluated(eval_steps=5)
    assert sum(found.breakdown.values()) == pytest.approx(found.seconds)
    assert found.breakdown == found.uncalibrated
    assert found.runs == 0


def test_what_was_measured_corrects_its_term_and_narrows_the_range() -> None:
    plain = estimate()
    learned = {term: Correction(factor=2.0, spread=0.05, runs=3) for term in plain.breakdown}
    plan = make_plan()
    found = estimate_time(plan, SMOLLM2_135M, total_tokens=10_000, rows=100, kind="cpu", corrections=learned)
    assert found.seconds == pytest.approx(2 * plain.seconds)
    assert found.uncalibrated == plain.uncalibrated
    assert found.runs == 3
    assert found.high_seconds / found.low_seconds == pytest.approx(1.105, abs=0.001)
    only = estimate_time(
        plan,
        SMOLLM2_135M,
        total_tokens=10_000,
        rows=100,
        kind="cpu",
        corrections={"start": Correction(factor=0.5, spread=0.1, runs=1)},
    )
    assert plain.seconds - only.seconds == pytest.approx(RATES["cpu"].start_seconds / 2)
    assert only.runs == 0, "nothing is known of the steps"
