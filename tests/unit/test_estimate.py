"""The memory estimate: each term against a count by hand, and the sum against real runs."""

from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator.domain.estimate import (
    BREAKDOWN_TERMS,
    KINDS,
    DeviceKind,
    can_run,
    estimate_memory,
)
from orchestrator.domain.models import ModelFacts
from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.sizer import ClosedFormSizer, build_gauges, glance_at_kinds
from tests.support.plans import LLAMA2_7B, SMOLLM2_135M, llama_facts, make_base_model, make_plan

MIB = 2**20
GIB = 2**30
WIDE_562M = llama_facts(hidden=2048, intermediate=5632, layers=8, heads=32, key_heads=8, vocab=49_152, tied=False)
TINY_3M = llama_facts(hidden=64, intermediate=128, layers=2, heads=4, key_heads=2, vocab=49_152)

MEASURED_MIB: list[tuple[str, Any, Mapping[str, Any], int]] = [
    ("smol 4 x 64", SMOLLM2_135M, {"max_seq_tokens": 64}, 1538),
    ("smol 4 x 64, by the worker", SMOLLM2_135M, {"max_seq_tokens": 64}, 1590),
    ("smol 4 x 64 checkpointed", SMOLLM2_135M, {"max_seq_tokens": 64, "gradient_checkpointing": True}, 1321),
    ("smol 4 x 256", SMOLLM2_135M, {}, 3252),
    ("smol 4 x 256 checkpointed", SMOLLM2_135M, {"gradient_checkpointing": True}, 2357),
    (
        "smol 2 x 512 checkpointed",
        SMOLLM2_135M,
        {"micro_batch_rows": 2, "max_seq_tokens": 512, "gradient_checkpointing": True},
        2371,
    ),
    ("smol 1 x 64", SMOLLM2_135M, {"micro_batch_rows": 1, "max_seq_tokens": 64}, 1102),
    ("smol 4 x 256, dropout", SMOLLM2_135M, {"lora_dropout": 0.05}, 3849),
    ("smol 4 x 256, rank 64", SMOLLM2_135M, {"lora_r": 64}, 3378),
    ("smol 4 x 256, two targets", SMOLLM2_135M, {"lora_target_modules": ("q_proj", "v_proj")}, 2678),
    ("smol 2 x 256, float32", SMOLLM2_135M, {"micro_batch_rows": 2, "compute_dtype": "float32"}, 2805),
    ("smol nf4 4 x 64", SMOLLM2_135M, {"max_seq_tokens": 64, "quantization": "nf4"}, 1353),
    ("wide 2 x 64, by the worker", WIDE_562M, {"micro_batch_rows": 2, "max_seq_tokens": 64}, 2013),
    (
        "wide nf4 2 x 64, by the worker",
        WIDE_562M,
        {"micro_batch_rows": 2, "max_seq_tokens": 64, "quantization": "nf4"},
        2283,
    ),
    ("tiny 4 x 64, by the worker", TINY_3M, {"max_seq_tokens": 64, "lora_r": 8}, 888),
]
"""Peak resident sets (VmHWM) on CPU with TRL's fused head for the loss: SFTTrainer 1.16 on a PEFT 0.21 model, adapters
in fp32, AdamW, three steps, two cores of an AMD EPYC, 23 November 2026. Runs of a bare script, which is some 60 MiB
smaller than the worker, unless said. `smol` has SmolLM2-135M's shape, `wide` 562 M parameters, `tiny` 3 M."""


def fused_head_bytes(plan: TrainingPlan, facts: ModelFacts) -> int:
    """What TRL's head takes on CPU, where the worker's own loss takes less: a tile, 29 bytes a cell, a gradient."""
    tokens = plan.micro_batch_rows * plan.max_seq_tokens
    wide = 4 if plan.compute_dtype == "float32" else 2
    return (wide + 29) * tokens * 32_768 + 4 * tokens * facts.hidden_size


@pytest.mark.parametrize(("facts", "changes", "measured_mib"), [row[1:] for row in MEASURED_MIB])
def test_it_is_near_what_real_runs_needed(facts: ModelFacts, changes: Mapping[str, Any], measured_mib: int) -> None:
    plan = make_plan(**changes)
    estimate = estimate_memory(plan, facts, "cpu")
    expected = estimate.total_bytes - estimate.breakdown["logits_and_loss"] + fused_head_bytes(plan, facts)
    assert 0.97 <= expected / (measured_mib * MIB) <= 1.21


def test_it_is_near_what_the_worker_needed_with_its_own_loss() -> None:
    """SmolLM2-135M, NF4, 4 x 64 tokens of which about half have a label: 1340 MiB, measured as above."""
    estimate = estimate_memory(make_plan(max_seq_tokens=64, quantization="nf4"), SMOLLM2_135M, "cpu")
    assert 0.97 <= estimate.total_bytes / (1340 * MIB) <= 1.16


def test_the_loss_on_a_cpu_is_the_smaller_of_two_ways() -> None:
    def loss(vocab: int) -> int:
        facts = SMOLLM2_135M.model_copy(update={"vocab_size": vocab})
        return estimate_memory(make_plan(), facts, "cpu").breakdown["logits_and_loss"]

    assert loss(49_152) == 16 * 1024 * 49_152
    assert loss(128_256) == fused_head_bytes(make_plan(), SMOLLM2_135M) < 16 * 1024 * 128_256


def test_loading_a_quantized_model_on_a_cpu_needs_its_file_too() -> None:
    plan = make_plan(micro_batch_rows=1, max_seq_tokens=64, quantization="nf4")
    on_cpu = estimate_memory(plan, LLAMA2_7B, "cpu").total_bytes
    assert on_cpu > (2 + 0.5) * LLAMA2_7B.total_parameters
    assert estimate_memory(plan, LLAMA2_7B, "cuda").total_bytes < on_cpu / 2


def test_the_breakdown_is_the_whole_sum_on_both_kinds_of_device() -> None:
    for kind in KINDS:
        estimate = estimate_memory(make_plan(quantization="nf4"), SMOLLM2_135M, kind)
        assert tuple(estimate.breakdown) == BREAKDOWN_TERMS
        assert sum(estimate.breakdown.values()) == estimate.total_bytes
        assert min(estimate.breakdown.values()) >= 0


def terms(kind: DeviceKind = "cuda", **changes: Any) -> dict[str, int]:
    return estimate_memory(make_plan(**changes), LLAMA2_7B, kind).breakdown


def test_weights_are_counted_as_they_are_stored() -> None:
    linear = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11_008)
    rest = 2 * 32_000 * 4096 + 65 * 4096
    assert LLAMA2_7B.total_parameters == linear + rest == 6_738_415_616
    assert terms()["base_weights"] == 2 * (linear + rest)
    assert terms(compute_dtype="float32")["base_weights"] == 4 * (linear + rest)
    assert terms(quantization="nf4")["base_weights"] == linear // 2 + 2 * rest
    assert terms(quantization="int8")["base_weights"] == linear + 2 * rest


def test_constants_of_quantization_are_counted_by_block_and_row() -> None:
    linear = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11_008)
    layers = 32 * 7
    assert terms()["quantization_constants"] == 0
    assert terms(quantization="nf4", double_quant=False)["quantization_constants"] == linear // 64 * 4 + layers * 64
    nested = linear // 64 + linear // 64 // 256 * 4 + layers * (64 + 1028)
    assert terms(quantization="nf4")["quantization_constants"] == nested
    rows = 32 * (5 * 4096 + 2 * 11_008)
    assert terms(quantization="int8")["quantization_constants"] == 4 * rows


def test_adapters_gradients_and_moments_are_counted_per_parameter() -> None:
    count = 32 * 16 * (4 * (4096 + 4096) + 3 * (4096 + 11_008))
    assert count == 39_976_960
    found = terms()
    assert (found["adapters"], found["gradients"], found["optimizer"]) == (4 * count, 4 * count, 8 * count)
    assert terms(optimizer="sgd")["optimizer"] == 0
    assert terms(optimizer="adamw_8bit")["optimizer"] == 2 * count + count // 256 * 8
    small = terms(optimizer="adamw_8bit", lora_r=1, lora_target_modules=("q_proj",), use_dora=True)["optimizer"]
    assert small == 32 * 3 * (2 * 4096 + 4096 // 256 * 8)
    factors = 32 * (4 * (32 + 8192) + 3 * (32 + 15_104))
    assert terms(optimizer="adafactor")["optimizer"] == 4 * factors
    tiny = make_plan(optimizer="adamw_8bit", lora_r=2, lora_target_modules=("q_proj",))
    assert estimate_memory(tiny, SMOLLM2_135M, "cuda").breakdown["optimizer"] == 30 * 2 * 2 * 576 * 8, (
        "below 4096 values, moments are float32"
    )
    dora = terms(use_dora=True)["adapters"] - terms()["adapters"]
    assert dora == 4 * 32 * (5 * 4096 + 2 * 11_008)
    only_two = terms(lora_target_modules=("q_proj", "v_proj"))
    assert only_two["adapters"] == 4 * 32 * 16 * 2 * 8192


def test_activations_of_a_block_match_a_count_by_hand() -> None:
    """One row, so no mask: 8 H of norms, 8 H of attention, 6 I of MLP, inputs and ranks of LoRA, and 4 bytes a head."""
    hidden, inter, rank = 4096, 11_008, 16
    norms, attention, mlp = 8 * hidden, 2 * 4 * hidden + 4 * 32, 6 * inter
    lora = 2 * (6 * hidden + inter) + 2 * 7 * rank
    ends = 10 * hidden
    copies = 2 * 39_976_960
    tokens = 256
    found = terms(micro_batch_rows=1)
    assert found["activations"] == tokens * (32 * (norms + attention + mlp + lora) + ends) + copies
    checkpointed = terms(micro_batch_rows=1, gradient_checkpointing=True)
    assert checkpointed["activations"] == tokens * (32 * 2 * hidden + ends) + copies


def test_the_loss_takes_a_tile_and_not_the_vocabulary_times_the_tokens() -> None:
    small, large = terms(max_seq_tokens=1024), terms(max_seq_tokens=4096)
    tile = 2 * 4096 * 32_768
    assert small["logits_and_loss"] == tile + 4 * 4096 * 4096
    assert large["logits_and_loss"] == tile + 4 * 16_384 * 4096


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"micro_batch_rows": 2}, {"micro_batch_rows": 4}),
        ({"max_seq_tokens": 256}, {"max_seq_tokens": 512}),
        ({"lora_r": 8}, {"lora_r": 64}),
        ({"gradient_checkpointing": True}, {}),
        ({}, {"compute_dtype": "float32"}),
        ({}, {"use_dora": True}),
        ({}, {"lora_dropout": 0.1}),
        ({}, {"packing": True}),
        ({"lora_target_modules": ("q_proj",)}, {}),
        (
            {"quantization": "nf4", "gradient_checkpointing": True},
            {"quantization": "int8", "gradient_checkpointing": True},
        ),
        ({"quantization": "nf4"}, {"quantization": "nf4", "double_quant": False}),
    ],
)
def test_what_takes_more_is_estimated_higher(
    kind: DeviceKind, less: Mapping[str, Any], more: Mapping[str, Any]
) -> None:
    assert (
        estimate_memory(make_plan(**less), LLAMA2_7B, kind).total_bytes
        < estimate_memory(make_plan(**more), LLAMA2_7B, kind).total_bytes
    )


def test_qlora_of_a_7b_model_fits_where_its_16_bit_form_does_not() -> None:
    """QLoRA's promise: 7B on a card of 16 GiB, checkpointed at 4 x 2048; in bfloat16 the weights alone take 12.6."""
    shape = {"max_seq_tokens": 2048, "gradient_checkpointing": True}
    plain = estimate_memory(make_plan(**shape), LLAMA2_7B, "cuda").total_bytes
    small = estimate_memory(make_plan(**shape, quantization="nf4"), LLAMA2_7B, "cuda").total_bytes
    assert small < 12 * GIB < 16 * GIB < plain


def test_plans_that_need_cuda_have_no_footprint_on_cpu() -> None:
    gauges = build_gauges(ClosedFormSizer(), make_base_model(), learned={})
    assert set(glance_at_kinds(make_plan(), gauges, kinds=KINDS)) == {"cpu", "cuda"}
    for changes in ({"optimizer": "adamw_8bit"}, {"optimizer": "paged_adamw_8bit"}, {"compute_dtype": "float16"}):
        plan: TrainingPlan = make_plan(**changes)
        assert set(glance_at_kinds(plan, gauges, kinds=KINDS)) == {"cuda"}
        assert not can_run(plan, "cpu")


def test_a_tiny_model_costs_little_more_than_the_process() -> None:
    estimate = estimate_memory(make_plan(max_seq_tokens=64, lora_r=8), TINY_3M, "cpu")
    assert estimate.breakdown["runtime"] > 0.6 * estimate.total_bytes


def test_several_devices_exchange_gradients_through_buckets_as_large_and_over_nccls_own() -> None:
    alone, pair = terms(), terms(devices=2)
    assert pair["gradients"] == 2 * alone["gradients"]
    assert pair["runtime"] == alone["runtime"] + 640 * 2**20
    changed = {"gradients", "margin", "runtime"}
    assert {name: size for name, size in pair.items() if name not in changed} == {
        name: size for name, size in alone.items() if name not in changed
    }
    on_cpu = [estimate_memory(make_plan(devices=count), TINY_3M, "cpu").breakdown["runtime"] for count in (1, 2)]
    assert on_cpu[0] == on_cpu[1]
