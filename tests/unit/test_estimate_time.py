"""The time estimate: its terms, its range, and the runs it was made from. Micro-batches are in test_estimate_step."""

from typing import Any

import pytest

from orchestrator.domain.batches import count_lengths, even_batch
from orchestrator.domain.estimate_step import measure_evaluation, measure_training
from orchestrator.domain.estimate_terms import Correction
from orchestrator.domain.estimate_time import LAUNCH_SECONDS, STEP_SECONDS, estimate_time
from orchestrator.domain.plan import TokenReport
from orchestrator.domain.speed import CPU_SPEED, find_speed
from tests.support.plans import SMOLLM2_135M, make_plan

ADAPTERS = 30 * 16 * (2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536))
HELD_OUT = TokenReport(rows=50, total_tokens=5000, trained_tokens=0, longest_row_tokens=200, longest_row_line=1)
MEASURED = CPU_SPEED.model_copy(update={"measured": True})


def report(rows: int = 100, total_tokens: int = 10_000, **more: Any) -> TokenReport:
    """Rows of one length when `lengths` is not given otherwise."""
    values: dict[str, Any] = {"lengths": ((total_tokens / rows, rows),), "longest_row_tokens": total_tokens // rows}
    values |= {"rows": rows, "total_tokens": total_tokens, "trained_tokens": total_tokens // 2, "longest_row_line": 1}
    return TokenReport(**values | more)


def estimate(rows: int = 100, total_tokens: int = 10_000, **changes: Any) -> Any:
    return estimate_time(make_plan(**changes), SMOLLM2_135M, training=report(rows, total_tokens), speed=CPU_SPEED)


def step_seconds(tokens: float, rows: int = 4, **changes: Any) -> float:
    """Of one micro-batch of even rows, half of their tokens labelled."""
    plan = make_plan(**changes)
    load = measure_training(plan, SMOLLM2_135M, even_batch(rows, tokens), labelled=0.5, speed=CPU_SPEED)
    return load.seconds(CPU_SPEED, plan.compute_dtype)


def test_epochs_and_steps_scale_the_work_and_not_the_start() -> None:
    once, thrice = estimate(epochs=1), estimate(epochs=3)
    assert thrice.seconds - once.seconds == pytest.approx(50 * (step_seconds(100) + STEP_SECONDS))
    assert (once.steps, thrice.steps) == (25, 75)
    assert (once.tokens, thrice.tokens) == (10_000, 30_000)
    probe = step_seconds(100)
    assert once.breakdown["training"] == pytest.approx(25 * (step_seconds(100) + STEP_SECONDS) + probe)


def test_a_limit_of_steps_limits_the_tokens() -> None:
    limited = estimate(epochs=3, max_steps=5)
    assert (limited.steps, limited.tokens) == (5, 2000)
    assert estimate(epochs=1, max_steps=500).tokens == 10_000


def test_a_last_batch_that_is_not_full_trains_on_no_token_twice() -> None:
    found = estimate(rows=5, total_tokens=500)
    assert (found.steps, found.tokens) == (2, 500)


def test_the_range_is_narrow_where_the_device_was_measured() -> None:
    plan, catalogued = make_plan(), estimate()
    measured = estimate_time(plan, SMOLLM2_135M, training=report(), speed=MEASURED)
    assert (catalogued.speed, measured.speed) == ("catalogue", "measured")
    assert catalogued.low_seconds < measured.low_seconds < measured.seconds < measured.high_seconds
    assert measured.high_seconds < catalogued.high_seconds


def test_the_range_holds_the_longest_padding_while_no_lengths_are_known() -> None:
    def guess(**changes: Any) -> Any:
        found = report(lengths=(), longest_row_tokens=150)
        return estimate_time(make_plan(max_seq_tokens=4096, **changes), SMOLLM2_135M, training=found, speed=MEASURED)

    assert guess().high_seconds > 10 * estimate().high_seconds
    assert guess().low_seconds < estimate().seconds < guess().seconds
    alone = guess(micro_batch_rows=1, accumulation_steps=4)
    assert alone.high_seconds < 2 * alone.seconds, "a row alone is not padded"


def test_rows_are_padded_to_the_longest_of_their_micro_batch() -> None:
    lengths = count_lengths([50] * 50 + [150] * 50)
    uneven = estimate_time(make_plan(), SMOLLM2_135M, training=report(lengths=lengths), speed=CPU_SPEED)
    assert (uneven.tokens, estimate().padded_tokens) == (10_000, 10_000)
    assert 14_000 < uneven.padded_tokens < 14_600, "all but one in sixteen draws of four hold a long row"
    alone = make_plan(micro_batch_rows=1, accumulation_steps=4)
    unpadded = estimate_time(alone, SMOLLM2_135M, training=report(lengths=lengths), speed=CPU_SPEED)
    assert unpadded.padded_tokens == 10_000


def test_steps_are_of_packed_examples() -> None:
    packed = report(lengths=((250.0, 40),))
    found = estimate_time(make_plan(packing=True), SMOLLM2_135M, training=packed, speed=CPU_SPEED)
    assert (found.steps, found.tokens, found.padded_tokens) == (10, 10_000, 10_000)
    guessed = estimate_time(make_plan(packing=True), SMOLLM2_135M, training=report(lengths=()), speed=CPU_SPEED)
    assert guessed.steps == 10


def test_a_trace_says_what_the_closed_form_miscounts() -> None:
    plan, speed = make_plan(max_seq_tokens=100), find_speed("cuda", "nvidia-a100-sxm4-40gb")
    load = measure_training(plan, SMOLLM2_135M, even_batch(4, 100), labelled=1.0, speed=speed)
    counted = int(load.flops + load.attention_flops)

    def training(flops: int | None) -> float:
        found = estimate_time(plan, SMOLLM2_135M, training=report(), speed=speed, traced_flops=flops)
        return found.breakdown["training"]

    assert training(counted) == pytest.approx(training(None))
    products = 26 * (load.flops + load.attention_flops / 0.42) / speed.half_flops_per_second
    assert training(2 * counted) - training(counted) == pytest.approx(products, rel=0.01)


def test_float32_is_slower_and_cuda_faster() -> None:
    assert estimate(compute_dtype="float32").seconds > estimate().seconds
    many = report(100_000, 10_000_000)
    seconds = {
        kind: estimate_time(make_plan(), SMOLLM2_135M, training=many, speed=find_speed(kind)).seconds
        for kind in ("cpu", "cuda")
    }
    assert seconds["cuda"] < seconds["cpu"] / 5


def evaluated(**changes: Any) -> Any:
    """25 steps, with a validation file."""
    plan = make_plan(**changes)
    return estimate_time(plan, SMOLLM2_135M, training=report(), speed=CPU_SPEED, validation=HELD_OUT)


@pytest.mark.parametrize(("every", "passes"), [(None, 2), (10, 4), (5, 6), (100, 2)])
def test_each_evaluation_is_a_forward_pass_over_the_validation_file(every: int | None, passes: int) -> None:
    found = evaluated(eval_steps=every, micro_batch_rows=1, accumulation_steps=4)
    assert found.evaluations == passes
    load = measure_evaluation(make_plan(), SMOLLM2_135M, even_batch(1, 100)).seconds(CPU_SPEED, "bfloat16")
    probe = step_seconds(100, rows=1)
    assert found.breakdown["evaluating"] == pytest.approx(passes * 50 * load + probe, rel=0.02)
    assert estimate().breakdown["evaluating"] == 0.0


def test_checkpoints_hold_training_up_but_for_the_last_steps() -> None:
    plain, saving = estimate(), estimate(checkpoint_steps=5)
    each = 0.3 + 3 * 4 * ADAPTERS / 2e8
    assert saving.breakdown["training"] - plain.breakdown["training"] == pytest.approx(4 * each)
    assert estimate(checkpoint_steps=25).breakdown == plain.breakdown
    by_time = estimate(checkpoint_seconds=int(25 * step_seconds(100) / 2.5))
    assert by_time.breakdown["training"] - plain.breakdown["training"] == pytest.approx(2 * each)


def test_the_terms_sum_up_to_the_estimate() -> None:
    found = evaluated(eval_steps=5)
    assert sum(found.breakdown.values()) == pytest.approx(found.seconds)
    assert found.breakdown == found.uncalibrated
    assert found.runs == 0


def test_what_was_measured_corrects_its_term_and_narrows_the_range() -> None:
    plain = estimate()
    learned = {term: Correction(factor=2.0, spread=0.05, runs=3) for term in plain.breakdown}
    plan = make_plan()
    found = estimate_time(plan, SMOLLM2_135M, training=report(), speed=CPU_SPEED, corrections=learned)
    assert found.seconds == pytest.approx(2 * plain.seconds)
    assert found.uncalibrated == plain.uncalibrated
    assert (found.runs, found.confidence, plain.confidence) == (3, "high", "low")
    assert found.high_seconds / found.low_seconds == pytest.approx(1.105, abs=0.001)
    only = estimate_time(
        plan,
        SMOLLM2_135M,
        training=report(),
        speed=CPU_SPEED,
        corrections={"start": Correction(factor=0.5, spread=0.1, runs=1)},
    )
    assert plain.seconds - only.seconds == pytest.approx(plain.breakdown["start"] / 2)
    assert plain.breakdown["start"] == pytest.approx(LAUNCH_SECONDS + CPU_SPEED.start_seconds, abs=0.1)
    assert only.runs == 0, "nothing is known of the steps"


def test_gpus_work_side_by_side_and_cpu_devices_share_their_cores() -> None:
    plans = [make_plan(devices=count, batch_rows=4 * count) for count in (1, 2)]
    for speed, times in ((find_speed("cuda"), 2), (CPU_SPEED, 1)):
        alone, pair = (
            estimate_time(plan, SMOLLM2_135M, training=report(rows=200, total_tokens=20_000), speed=speed)
            for plan in plans
        )
        assert alone.steps == 2 * pair.steps
        computing = [found.breakdown["training"] - found.steps * STEP_SECONDS for found in (alone, pair)]
        step = computing[0] / 51
        assert computing[1] == pytest.approx((50 / times + 1) * step)
