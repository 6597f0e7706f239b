"""What a micro-batch consists of: counted by hand, and as long as micro-batches were measured to take."""

from typing import Any

import pytest

from orchestrator.domain.batches import even_batch
from orchestrator.domain.estimate_step import (
    BLOCK_PASSES,
    FORWARD_SHARE,
    LOGIT_PASSES,
    Load,
    compare_steps,
    measure_evaluation,
    measure_training,
)
from orchestrator.domain.models import ModelFacts
from orchestrator.domain.speed import CPU_SPEED, find_speed
from tests.support.plans import SMOLLM2_135M, llama_facts, make_plan

LINEAR = 30 * (2 * 576 * 576 + 2 * 192 * 576 + 3 * 576 * 1536)
HEAD = 49_152 * 576
ADAPTERS = 30 * 16 * (2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536))
WIDTHS = 30 * (2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536))
ATTENTION = 4 * 128 * 576 * 30
CUDA = find_speed("cuda", "nvidia-rtx-4090")
WIDE = llama_facts(hidden=2048, intermediate=5632, layers=2, heads=16, key_heads=8, vocab=49_152)
ALL, ALL_ROWS = 1.0, 4 * 128
TWO = ("q_proj", "v_proj")


def train(labelled: float = ALL, speed: Any = CPU_SPEED, tokens: int = 128, **changes: Any) -> Load:
    """Four rows of so many tokens."""
    return measure_training(make_plan(**changes), SMOLLM2_135M, even_batch(4, tokens), labelled=labelled, speed=speed)


def test_products_are_counted_per_matrix() -> None:
    plain = train(speed=CUDA)
    assert plain.flops == ALL_ROWS * (4 * LINEAR + 6 * HEAD + 6 * ADAPTERS)
    assert plain.attention_flops == ALL_ROWS * 3 * ATTENTION
    again = train(speed=CUDA, gradient_checkpointing=True)
    assert again.flops - plain.flops == ALL_ROWS * (2 * LINEAR + 2 * ADAPTERS)
    assert again.attention_flops - plain.attention_flops == ALL_ROWS * ATTENTION


def test_a_cpu_computes_labelled_positions_and_no_logits_twice() -> None:
    half, whole = train(0.5), train()
    assert whole.flops == ALL_ROWS * (4 * LINEAR + 4 * HEAD + 6 * ADAPTERS)
    assert whole.flops - half.flops == ALL_ROWS / 2 * 4 * HEAD
    assert whole.passes - half.passes == pytest.approx(ALL_ROWS / 2 * LOGIT_PASSES * 49_152)
    large = SMOLLM2_135M.model_copy(update={"vocab_size": 256_000})
    fused = measure_training(make_plan(), large, even_batch(4, 128), labelled=0.9, speed=CPU_SPEED)
    assert fused.flops == ALL_ROWS * (4 * LINEAR + 6 * 256_000 * 576 + 6 * ADAPTERS), "too many logits"


def test_an_evaluation_is_a_forward_pass() -> None:
    found = measure_evaluation(make_plan(lora_dropout=0.1), SMOLLM2_135M, even_batch(4, 128))
    assert found.flops == ALL_ROWS * 2 * (LINEAR + HEAD + ADAPTERS)
    assert found.attention_flops == ALL_ROWS * ATTENTION
    assert found.calls == pytest.approx(FORWARD_SHARE * train().calls)


def test_passes_follow_widths_and_calls_do_not_follow_tokens() -> None:
    bare = train(lora_target_modules=())
    assert bare.passes == ALL_ROWS * (BLOCK_PASSES * WIDTHS + LOGIT_PASSES * 49_152)
    assert train(tokens=1024, lora_target_modules=()).calls == bare.calls
    assert train().passes > bare.passes
    assert train().calls > bare.calls
    assert train(lora_dropout=0.1).passes > train().passes
    assert train(use_dora=True).passes > train().passes


def test_quantized_weights_cost_as_much_for_short_rows_as_for_long_ones() -> None:
    extra = [train(tokens=n, quantization="nf4").calls - train(tokens=n).calls for n in (16, 1024)]
    assert extra[0] == extra[1] > 0
    twice = {"gradient_checkpointing": True}
    again = train(quantization="nf4", **twice).calls - train(**twice).calls
    assert again == pytest.approx(1.5 * extra[0])


MEASURED = [
    (SMOLLM2_135M, 2, 53, 0.30, {}, 0.507),
    (SMOLLM2_135M, 2, 127, 0.44, {}, 0.90),
    (SMOLLM2_135M, 4, 127, 0.44, {}, 1.64),
    (SMOLLM2_135M, 4, 265, 0.47, {}, 3.24),
    (SMOLLM2_135M, 1, 1057, 0.49, {}, 3.90),
    (SMOLLM2_135M, 2, 127, 0.44, {"gradient_checkpointing": True}, 1.28),
    (SMOLLM2_135M, 4, 265, 0.47, {"gradient_checkpointing": True}, 4.45),
    (SMOLLM2_135M, 2, 53, 0.30, {"quantization": "nf4"}, 0.717),
    (SMOLLM2_135M, 4, 265, 0.47, {"quantization": "nf4"}, 3.40),
    (SMOLLM2_135M, 4, 265, 0.47, {"quantization": "nf4", "gradient_checkpointing": True}, 4.89),
    (SMOLLM2_135M, 2, 127, 0.44, {"lora_target_modules": TWO}, 0.762),
    (SMOLLM2_135M, 2, 127, 0.44, {"lora_dropout": 0.1}, 1.24),
    (SMOLLM2_135M, 2, 127, 0.44, {"use_dora": True}, 1.40),
    (SMOLLM2_135M, 2, 127, 0.44, {"compute_dtype": "float32"}, 1.39),
    (WIDE, 2, 53, 0.30, {}, 0.202),
    (WIDE, 4, 127, 0.44, {}, 0.862),
    (WIDE, 4, 127, 0.44, {"quantization": "nf4", "gradient_checkpointing": True}, 1.19),
    (WIDE, 4, 127, 0.44, {"compute_dtype": "float32"}, 1.88),
]
"""(model, rows, tokens of each, labelled share, plan, median seconds of a step of one micro-batch): our recipe on two
idle EPYC cores with AVX512-BF16, 25 November 2026."""


@pytest.mark.parametrize(("facts", "rows", "tokens", "labelled", "changes", "seconds"), MEASURED)
def test_micro_batches_take_about_as_long_as_they_did(
    facts: ModelFacts, rows: int, tokens: int, labelled: float, changes: dict[str, Any], seconds: float
) -> None:
    plan = make_plan(micro_batch_rows=rows, **changes)
    found = measure_training(plan, facts, even_batch(rows, tokens), labelled=labelled, speed=CPU_SPEED)
    assert found.seconds(CPU_SPEED, plan.compute_dtype) == pytest.approx(seconds, rel=0.15)


def test_a_slower_device_is_slower_at_each_part() -> None:
    load = train()
    base = load.seconds(CPU_SPEED, "bfloat16")
    for name in ("half_flops_per_second", "elements_per_second", "modules_per_second"):
        slower = CPU_SPEED.model_copy(update={name: getattr(CPU_SPEED, name) / 2})
        assert base < load.seconds(slower, "bfloat16") < 2 * base
    assert load.seconds(CPU_SPEED, "float32") > base


def test_changes_are_compared_row_by_row() -> None:
    plan = make_plan(micro_batch_rows=4)
    halved = plan.halve_micro_batch()
    assert halved is not None
    assert 1.0 < compare_steps(plan, halved, SMOLLM2_135M, CPU_SPEED) < 1.3, "calls and unpacking come twice as often"
    checkpointed = plan.model_copy(update={"gradient_checkpointing": True})
    assert 1.2 < compare_steps(plan, checkpointed, SMOLLM2_135M, CPU_SPEED) < 1.5
