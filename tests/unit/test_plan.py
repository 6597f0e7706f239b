"""From 'auto' to numbers: what each choice is, and which combinations are refused, by field."""

from typing import Any

import pytest

from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.plan import BASE_LEARNING_RATE, TokenReport, TrainingPlan, resolve_plan
from orchestrator.domain.spec import JobSpec
from tests.support.plans import LLAMA_LINEARS, SMOLLM2_135M, make_plan


def resolve(tokens: TokenReport | None = None, **more: Any) -> TrainingPlan:
    hyper = {name: more.pop(name) for name in ("n_epochs", "batch_size", "learning_rate_multiplier") if name in more}
    asked = JobSpec.model_validate(
        {
            "model": "smol",
            "training_file": "file-1",
            "method": {"type": "supervised", "supervised": {"hyperparameters": hyper}},
            **more,
        }
    )
    return resolve_plan(asked, SMOLLM2_135M, seed=7, tokens=tokens)


def report(rows: int = 100, longest: int = 100) -> TokenReport:
    return TokenReport(
        rows=rows, total_tokens=rows * 50, trained_tokens=rows * 20, longest_row_tokens=longest, longest_row_line=1
    )


def test_three_fields_make_a_whole_plan() -> None:
    plan = resolve(report())
    assert (plan.epochs, plan.batch_rows, plan.micro_batch_rows, plan.accumulation_steps) == (3, 8, 4, 2)
    assert (plan.max_seq_tokens, plan.gradient_checkpointing) == (128, False)
    assert (plan.lora_alpha, plan.lora_target_modules) == (32, tuple(sorted(LLAMA_LINEARS)))
    assert (plan.learning_rate, plan.compute_dtype, plan.seed) == (BASE_LEARNING_RATE, "bfloat16", 7)
    assert (plan.eval_steps, plan.checkpoint_seconds) == (None, 600)


@pytest.mark.parametrize(
    ("batch", "micro", "accumulation", "expected"),
    [
        ("auto", "auto", "auto", (8, 4, 2)),
        ("auto", 2, "auto", (8, 2, 4)),
        ("auto", 16, "auto", (16, 16, 1)),
        ("auto", "auto", 3, (12, 4, 3)),
        ("auto", 3, 5, (15, 3, 5)),
        (6, "auto", "auto", (6, 3, 2)),
        (7, "auto", "auto", (7, 1, 7)),
        (1, "auto", "auto", (1, 1, 1)),
        (256, "auto", "auto", (256, 4, 64)),
        (12, 6, "auto", (12, 6, 2)),
        (12, "auto", 4, (12, 3, 4)),
        (12, 3, 4, (12, 3, 4)),
    ],
)
def test_the_batch_is_always_its_parts(batch: Any, micro: Any, accumulation: Any, expected: tuple[int, ...]) -> None:
    plan = resolve(batch_size=batch, training={"micro_batch_size": micro, "gradient_accumulation": accumulation})
    assert (plan.batch_rows, plan.micro_batch_rows, plan.accumulation_steps) == expected


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"batch_size": 8, "training": {"micro_batch_size": 3}}, "training.micro_batch_size"),
        ({"batch_size": 4, "training": {"micro_batch_size": 8}}, "training.micro_batch_size"),
        ({"batch_size": 4, "training": {"gradient_accumulation": 8}}, "training.gradient_accumulation"),
        (
            {"batch_size": 8, "training": {"micro_batch_size": 2, "gradient_accumulation": 2}},
            "training.micro_batch_size",
        ),
        ({"training": {"max_seq_length": 8193}}, "training.max_seq_length"),
        ({"lora": {"target_modules": []}}, "lora.target_modules"),
        ({"lora": {"target_modules": ["q_proj", "lm_head"]}}, "lora.target_modules"),
        ({"lora": {"init": "pissa"}, "quantization": {"type": "nf4"}}, "lora.init"),
        ({"lora": {"init": "olora"}, "quantization": {"type": "int8"}}, "lora.init"),
        ({"lora": {"init": "loftq"}}, "lora.init"),
        ({"lora": {"init": "loftq", "use_dora": True}, "quantization": {"type": "nf4"}}, "lora.init"),
        ({"learning_rate_multiplier": 1e6}, "method.supervised.hyperparameters.learning_rate_multiplier"),
        ({"learning_rate_multiplier": 5e-324}, "method.supervised.hyperparameters.learning_rate_multiplier"),
    ],
)
def test_what_cannot_be_done_names_its_field(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        resolve(**changes)
    assert caught.value.param == param


def test_an_unknown_target_is_answered_with_those_that_exist() -> None:
    with pytest.raises(InvalidRequestError, match=r"no module named Wqkv; it has down_proj, gate_proj") as caught:
        resolve(lora={"target_modules": ["Wqkv"]})
    assert caught.value.code == "unknown_target_modules"


def test_inits_pass_with_the_weights_that_they_need() -> None:
    assert resolve(lora={"init": "loftq"}, quantization={"type": "fp4"}).lora_init == "loftq"
    assert resolve(lora={"init": "pissa"}).lora_init == "pissa"


def test_the_longest_row_decides_the_length_up_to_the_context() -> None:
    assert resolve(report(longest=64)).max_seq_tokens == 64
    assert resolve(report(longest=65)).max_seq_tokens == 128
    assert resolve(report(longest=9000)).max_seq_tokens == 8192
    assert resolve().max_seq_tokens == 2048
    assert resolve(report(longest=65), training={"max_seq_length": 100}).max_seq_tokens == 100


def test_checkpointing_starts_with_large_micro_batches() -> None:
    assert not resolve(report(longest=960)).gradient_checkpointing
    assert resolve(report(longest=1024)).gradient_checkpointing
    assert resolve(report(), training={"gradient_checkpointing": True}).gradient_checkpointing
    assert not resolve(report(longest=8000), training={"gradient_checkpointing": False}).gradient_checkpointing


def test_learning_rates() -> None:
    assert resolve(learning_rate_multiplier=0.5).learning_rate == BASE_LEARNING_RATE / 2
    assert resolve(training={"learning_rate": 3e-5}).learning_rate == 3e-5


def test_evaluations_are_eight_a_run_and_within_it() -> None:
    with_file = {"validation_file": "file-2"}
    assert resolve(report(rows=800), **with_file).eval_steps == 300 // 8
    assert resolve(report(rows=800), training={"max_steps": 16}, **with_file).eval_steps == 2
    assert resolve(report(rows=3), **with_file).eval_steps == 1
    assert resolve(**with_file).eval_steps == 50
    assert resolve(report(), training={"eval_steps": 7}, **with_file).eval_steps == 7
    assert resolve(report(), training={"eval_steps": None}, **with_file).eval_steps is None
    assert resolve(report(), training={"eval_steps": 7}).eval_steps is None


def test_steps_of_a_run() -> None:
    plan = make_plan(micro_batch_rows=4, accumulation_steps=2, epochs=3)
    assert [plan.total_steps(rows) for rows in (1, 8, 9, 16)] == [3, 3, 6, 6]
    assert plan.model_copy(update={"max_steps": 4}).total_steps(100) == 4


@pytest.mark.parametrize(
    ("batch", "micro", "accumulation", "devices", "expected"),
    [
        ("auto", "auto", "auto", 2, (8, 4, 1)),
        ("auto", "auto", "auto", 4, (8, 2, 1)),
        ("auto", "auto", "auto", 16, (16, 1, 1)),
        ("auto", 2, 3, 4, (24, 2, 3)),
        (12, "auto", "auto", 2, (12, 3, 2)),
        (12, 2, "auto", 2, (12, 2, 3)),
        (12, "auto", 3, 2, (12, 2, 3)),
        (12, 3, 2, 2, (12, 3, 2)),
    ],
)
def test_several_devices_share_the_batch(
    batch: Any, micro: Any, accumulation: Any, devices: int, expected: tuple[int, ...]
) -> None:
    parts = {"micro_batch_size": micro, "gradient_accumulation": accumulation}
    plan = resolve(batch_size=batch, training=parts, resources={"count": devices})
    assert (plan.batch_rows, plan.micro_batch_rows, plan.accumulation_steps) == expected
    assert plan.devices == devices
    smaller = plan.halve_micro_batch()
    if smaller is not None:
        assert smaller.batch_rows == smaller.micro_batch_rows * smaller.accumulation_steps * devices == plan.batch_rows


def test_a_batch_that_cannot_be_shared_evenly_is_answered_with_the_nearest() -> None:
    with pytest.raises(InvalidRequestError, match="the nearest that can: 8 and 12") as caught:
        resolve(batch_size=10, resources={"count": 4})
    assert caught.value.param == "method.supervised.hyperparameters.batch_size"
    with pytest.raises(InvalidRequestError, match=r"the nearest that can: 4$"):
        resolve(batch_size=3, resources={"count": 4})
    with pytest.raises(InvalidRequestError, match="does not divide batch_size 12, which is 2 devices' together"):
        resolve(batch_size=12, training={"micro_batch_size": 4}, resources={"count": 2})
