"""What the tracer is asked: every field of a plan is decided on. What it answers: believed only when it makes sense."""

from typing import Any, get_args

import pytest

from orchestrator.domain.errors import UntraceableError
from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.spec import LoraInit
from orchestrator.domain.trace import NOT_ASKED, build_question, read_answer
from tests.support.plans import make_plan

CONFIG = {"model_type": "llama", "hidden_size": 64}
OTHERS: dict[str, Any] = {
    "epochs": 2,
    "max_steps": 7,
    "batch_rows": 64,
    "micro_batch_rows": 2,
    "accumulation_steps": 8,
    "max_seq_tokens": 512,
    "packing": True,
    "gradient_checkpointing": True,
    "learning_rate": 1e-5,
    "optimizer": "paged_adamw_8bit",
    "scheduler": "cosine",
    "warmup_ratio": 0.1,
    "weight_decay": 0.1,
    "max_grad_norm": 0.0,
    "eval_steps": 5,
    "checkpoint_steps": 5,
    "checkpoint_seconds": 60,
    "seed": 2,
    "lora_r": 8,
    "lora_alpha": 8,
    "lora_dropout": 0.1,
    "lora_target_modules": ("q_proj",),
    "lora_bias": "all",
    "use_rslora": True,
    "use_dora": True,
    "lora_init": "gaussian",
    "quantization": "nf4",
    "double_quant": False,
    "compute_dtype": "float32",
    "devices": 2,
}
"""Another value for each field that has one."""


def ask(**changes: Any) -> dict[str, Any]:
    return build_question(make_plan(**changes), CONFIG, "cuda")


@pytest.mark.parametrize("field", sorted(TrainingPlan.model_fields))
def test_each_field_of_a_plan_is_asked_or_has_a_reason_not_to_be(field: str) -> None:
    if field == "method":
        methods = get_args(TrainingPlan.model_fields["method"].annotation)
        assert methods == ("supervised",), "a new method needs a question of its own"
        return
    assert field in OTHERS, "a new field: decide whether it moves the peak, here and in domain/trace.py"
    plan = make_plan()
    changed = plan.model_copy(update={field: OTHERS[field]})
    assert changed != plan
    is_asked = build_question(changed, CONFIG, "cuda") != build_question(plan, CONFIG, "cuda")
    assert is_asked != (field in NOT_ASKED)


def test_no_reason_is_left_over() -> None:
    assert set(NOT_ASKED) <= set(TrainingPlan.model_fields)
    assert {"default", "gaussian", "pissa", "olora", "loftq"} == set(get_args(LoraInit))


def test_the_question_says_how_our_worker_trains() -> None:
    question = ask(max_seq_tokens=250, quantization="nf4", gradient_checkpointing=True)
    assert question["model_config"] == CONFIG
    assert question["lora"]["adapter_dtype"] == "float32"
    assert question["quantization"] == {"type": "nf4", "double_quant": True}
    training = question["training"]
    assert training["max_seq_length"] == 256, "rows are padded to eights on CUDA"
    assert (training["packing"], training["padded"]) == (False, True)
    assert ask(packing=True)["training"].items() >= {"packing": True, "padded": None}.items()
    assert (training["dtype"], training["residual_dtype"]) == ("bfloat16", "bfloat16")
    assert (training["loss"], training["attention"], training["keeps_outputs"]) == ("fused", "sdpa", False)
    assert (training["optimizer"], training["optimizer_dtype"]) == ("adamw", None)
    assert (training["evaluates"], training["method"]) == (True, "sft")


def test_a_cpu_is_asked_about_as_one_and_fills_up_no_rows() -> None:
    question = build_question(make_plan(max_seq_tokens=250), CONFIG, "cpu")
    assert question["devices"] == {"kind": "cpu", "count": 1, "sharding": "none"}
    assert question["training"].items() >= {"max_seq_length": 250, "padded": None}.items()


def test_what_cannot_be_asked_says_why() -> None:
    with pytest.raises(UntraceableError, match="config was not kept"):
        build_question(make_plan(), None, "cuda")


GOOD = {
    "peak_allocated_bytes": 60,
    "peak_reserved_bytes": 80,
    "peak_device_bytes": 100,
    "breakdown": {"base_weights": 40, "adapters": 10, "activations": 10, "allocator": 20, "context": 20},
    "flops": 12,
    "seconds": 0.1,
}


def test_an_answer_is_three_peaks_and_what_is_reserved_has_a_margin() -> None:
    found = read_answer(GOOD, "cuda")
    assert (found.allocated_bytes, found.reserved_bytes, found.device_bytes) == (60, 80, 100)
    assert found.total_bytes == sum(found.breakdown.values()) == 103
    assert (found.method, found.reason, found.flops) == ("traced", None, 12)
    assert read_answer(GOOD, "cpu").total_bytes == 112


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"error": "model_config: no such type"}, "no such type"),
        ({"peak_device_bytes": 0}, "wrong fields"),
        ({"peak_device_bytes": "100"}, "wrong fields"),
        ({"breakdown": {"base_weights": 100}}, "lacks activations, adapters"),
        ({"breakdown": {**GOOD["breakdown"], "context": -20, "other": 40}}, "wrong fields"),  # type: ignore[dict-item]
        ({"breakdown": {**GOOD["breakdown"], "context": 21}}, "does not add up"),  # type: ignore[dict-item]
        ({"peak_allocated_bytes": 81}, "contradict"),
        ({"peak_reserved_bytes": 101}, "contradict"),
    ],
)
def test_an_answer_without_sense_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UntraceableError, match=says):
        read_answer({**GOOD, **wrong}, "cuda")
