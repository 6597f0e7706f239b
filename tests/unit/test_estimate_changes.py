"""The nearest change that makes a job fit: that it does fit, that it is the least, and what the error says."""

from typing import Any

import pytest

from orchestrator.domain.estimate import estimate_memory
from orchestrator.domain.estimate_changes import describe_misfit, estimate_least, suggest_changes, suggest_savings
from orchestrator.domain.estimate_terms import Calibration
from orchestrator.domain.placement import DeviceKind, DeviceRoom
from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.sizer import ClosedFormSizer, Gauges, build_gauges
from tests.support.plans import LLAMA2_7B, make_base_model, make_plan

GIB = 2**30
PLAN_FIELDS = {
    "training.gradient_checkpointing": "gradient_checkpointing",
    "training.micro_batch_size": "micro_batch_rows",
    "training.gradient_accumulation": "accumulation_steps",
    "quantization.type": "quantization",
    "training.max_seq_length": "max_seq_tokens",
}


def gauges_with(factor: float) -> Gauges:
    learned: dict[DeviceKind, Calibration] = {"cuda": Calibration(memory_factors={"closed_form": factor})}
    return build_gauges(ClosedFormSizer(), make_base_model(facts=LLAMA2_7B), learned=learned)


GAUGES = gauges_with(1.0)
GAUGE = GAUGES["cuda"]


def needs(plan: TrainingPlan, kind: DeviceKind = "cuda") -> int:
    return estimate_memory(plan, LLAMA2_7B, kind).total_bytes


def applied(plan: TrainingPlan, settings: Any) -> TrainingPlan:
    return plan.model_copy(update={PLAN_FIELDS[name]: value for name, value in settings.items()})


def room(gib: float, *, kind: DeviceKind = "cuda", device_id: str = "node-a/cuda:0") -> DeviceRoom:
    size = int(gib * GIB)
    return DeviceRoom(
        device_id=device_id, device_type="rtx", kind=kind, total_bytes=size, free_bytes=0, schedulable=False
    )


@pytest.mark.parametrize("gib", [6, 8, 12, 16, 24, 32])
@pytest.mark.parametrize("rows", [1, 4, 6])
def test_each_suggestion_fits_and_says_how_much_it_needs(gib: int, rows: int) -> None:
    plan = make_plan(micro_batch_rows=rows, max_seq_tokens=4096)
    changes = suggest_changes(plan, GAUGE, device_bytes=gib * GIB)
    assert changes
    for change in changes:
        changed = applied(plan, change.settings)
        assert changed.micro_batch_rows * changed.accumulation_steps == plan.batch_rows
        assert needs(changed) == change.total_bytes <= gib * GIB < needs(plan)


def test_a_plan_that_fits_needs_no_change() -> None:
    plan = make_plan()
    assert suggest_changes(plan, GAUGE, device_bytes=needs(plan)) == ()


def test_the_least_costly_kind_comes_first() -> None:
    plan = make_plan(max_seq_tokens=2048)
    changes = suggest_changes(plan, GAUGE, device_bytes=24 * GIB)
    assert [list(change.settings) for change in changes] == [
        ["training.gradient_checkpointing"],
        ["training.max_seq_length"],
    ]


def test_one_kind_goes_only_as_far_as_it_must() -> None:
    plan = make_plan(micro_batch_rows=16, max_seq_tokens=2048, gradient_checkpointing=True)
    by_four = make_plan(micro_batch_rows=4, accumulation_steps=4, max_seq_tokens=2048, gradient_checkpointing=True)
    changes = suggest_changes(plan, GAUGE, device_bytes=needs(by_four))
    assert changes[0].settings == {"training.micro_batch_size": 4, "training.gradient_accumulation": 4}


def test_a_batch_that_does_not_halve_goes_to_its_next_divisor() -> None:
    plan = make_plan(micro_batch_rows=9, max_seq_tokens=2048, gradient_checkpointing=True)
    changes = suggest_changes(plan, GAUGE, device_bytes=needs(plan) - 1)
    assert changes[0].settings == {"training.micro_batch_size": 3, "training.gradient_accumulation": 3}


def test_when_no_kind_is_enough_one_combination_without_needless_parts_is_named() -> None:
    plan = make_plan(max_seq_tokens=2048)
    (change,) = suggest_changes(plan, GAUGE, device_bytes=11 * GIB)
    assert set(change.settings) == {"training.gradient_checkpointing", "quantization.type"}
    for name in change.settings:
        rest = {other: value for other, value in change.settings.items() if other != name}
        assert needs(applied(plan, rest)) > 11 * GIB


def test_inits_that_need_16_bit_weights_are_not_told_to_quantize() -> None:
    plan = make_plan(lora_init="pissa")
    changes = suggest_changes(plan, GAUGE, device_bytes=12 * GIB)
    assert not any("quantization.type" in change.settings for change in changes)


def test_nothing_is_suggested_when_nothing_helps() -> None:
    plan = make_plan(max_seq_tokens=2048)
    least = estimate_least(plan, GAUGE)
    assert suggest_changes(plan, GAUGE, device_bytes=least - 1) == ()
    assert suggest_changes(plan, GAUGE, device_bytes=least) != ()


def test_the_error_names_the_need_the_largest_device_and_the_change() -> None:
    plan = make_plan(max_seq_tokens=2048)
    text = describe_misfit(plan, [room(8), room(24, device_id="node-b/cuda:1")], GAUGES)
    assert f"{needs(plan) / GIB:.1f} GiB on cuda" in text
    assert "node-b/cuda:1 (rtx) with 24.0 GiB" in text
    assert "It would fit with training.gradient_checkpointing true (" in text


@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_what_is_reserved_must_fit_and_is_what_is_quoted(factor: float) -> None:
    """What was learned is part of it: a suggestion that placement would not take is none."""
    plan = make_plan(micro_batch_rows=8, max_seq_tokens=2048)
    gauges = gauges_with(factor)
    by_two = plan.model_copy(update={"micro_batch_rows": 2, "accumulation_steps": 4})
    for change in suggest_changes(plan, gauges["cuda"], device_bytes=needs(by_two)):
        assert change.total_bytes == round(factor * needs(applied(plan, change.settings))) <= needs(by_two)
        assert change.saved_bytes == round(factor * needs(plan)) - change.total_bytes
    for change in suggest_savings(plan, gauges["cuda"]):
        assert change.total_bytes == round(factor * needs(applied(plan, change.settings)))
    text = describe_misfit(plan, [room(needs(plan) / GIB - 1)], gauges)
    assert f"{factor * needs(plan) / GIB:.1f} GiB on cuda" in text


def test_the_error_says_when_only_another_device_or_model_helps() -> None:
    text = describe_misfit(make_plan(), [room(2)], GAUGES)
    assert "larger device or a smaller base model" in text
    assert "It would fit with" not in text


def test_the_error_names_what_a_cpu_cannot_do() -> None:
    cpu = room(512, kind="cpu", device_id="node-a/cpu:0")
    assert "training.optimizer paged_adamw_8bit needs a CUDA device" in describe_misfit(
        make_plan(optimizer="paged_adamw_8bit"), [cpu], GAUGES
    )
    assert "quantization.compute_dtype float16 needs a CUDA device" in describe_misfit(
        make_plan(compute_dtype="float16"), [cpu], GAUGES
    )
