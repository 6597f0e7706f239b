"""What a job takes from the adapter that it continues from, and what it may not change, by field."""

from typing import Any

import pytest

from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.parents import inherit, split_model_name
from orchestrator.domain.plan import TrainingPlan, resolve_plan
from orchestrator.domain.spec import JobSpec
from tests.support.plans import LLAMA_LINEARS, SMOLLM2_135M, make_plan

PARENT = "ft:smol:vision:v1:0a1b2c3d"
SHAPED: dict[str, Any] = {
    "lora_r": 8,
    "lora_alpha": 24,
    "lora_dropout": 0.1,
    "lora_target_modules": ("q_proj", "v_proj"),
    "use_rslora": True,
    "use_dora": True,
    "quantization": "nf4",
    "double_quant": False,
}


def resolve(plan: TrainingPlan, *, is_checkpoint: bool = False, **asked: Any) -> TrainingPlan:
    """The continued job's plan, by way of the stored form of its spec."""
    spec = JobSpec.model_validate({"model": PARENT, "training_file": "file-1", **asked})
    inherited = inherit(spec, plan, SMOLLM2_135M, is_checkpoint=is_checkpoint)
    stored = JobSpec.model_validate(inherited.model_dump(mode="json"))
    return resolve_plan(stored, SMOLLM2_135M, seed=7)


def test_what_is_not_given_is_the_parents() -> None:
    for asked in ({}, {"lora": {"alpha": "auto", "target_modules": "auto"}}, {"lora": {}, "quantization": {}}):
        plan = resolve(make_plan(**SHAPED), **asked)
        assert {name: getattr(plan, name) for name in SHAPED} == SHAPED


def test_what_is_no_matter_of_shape_may_be_changed() -> None:
    asked = {"lora": {"lora_alpha": 5, "dropout": 0.0, "use_rslora": False}, "quantization": {"type": "none"}}
    plan = resolve(make_plan(**SHAPED), **asked)
    assert (plan.lora_alpha, plan.lora_dropout, plan.use_rslora, plan.quantization) == (5, 0.0, False, "none")
    assert (plan.lora_r, plan.use_dora) == (8, True)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"r": 16}, "lora.r"),
        ({"target_modules": ["q_proj"]}, "lora.target_modules"),
        ({"target_modules": "all-linear"}, "lora.target_modules"),
        ({"use_dora": False}, "lora.use_dora"),
        ({"bias": "all"}, "lora.bias"),
        ({"init": "pissa"}, "lora.init"),
        ({"init_lora_weights": "gaussian"}, "lora.init"),
    ],
)
def test_another_shape_is_refused_by_its_field(asked: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        resolve(make_plan(**SHAPED), lora=asked)
    assert caught.value.param == param
    assert PARENT in caught.value.message


def test_the_same_shape_in_other_words_is_accepted() -> None:
    asked = {"r": 8, "target_modules": ["v_proj", "q_proj"], "use_dora": True, "bias": "none", "init": "default"}
    assert resolve(make_plan(**SHAPED), lora=asked).lora_target_modules == ("q_proj", "v_proj")
    everywhere = make_plan(lora_target_modules=tuple(sorted(LLAMA_LINEARS)))
    assert resolve(everywhere, lora={"target_modules": "all-linear"}) == resolve(everywhere)


def test_an_adapter_that_was_published_with_twice_the_rank_is_continued_with_it() -> None:
    plan = resolve(make_plan(lora_init="pissa", lora_r=8, lora_alpha=16))
    assert (plan.lora_r, plan.lora_alpha, plan.lora_init) == (16, 32, "default")
    with pytest.raises(InvalidRequestError) as caught:
        resolve(make_plan(lora_init="pissa", lora_r=8), lora={"r": 8})
    assert caught.value.param == "lora.r"


@pytest.mark.parametrize(
    ("changes", "is_checkpoint"),
    [
        ({"lora_init": "olora"}, True),
        ({"lora_init": "pissa", "lora_r": 1024}, False),
        ({"lora_init": "pissa", "use_rslora": True}, False),
    ],
)
def test_weights_that_fit_no_plan_are_refused(changes: dict[str, Any], is_checkpoint: bool) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        resolve(make_plan(**changes), is_checkpoint=is_checkpoint)
    assert (caught.value.code, caught.value.param) == ("parent_not_continuable", "model")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (PARENT, (PARENT, None)),
        (PARENT + ":ckpt-step-40", (PARENT, 40)),
        (PARENT + ":ckpt-step-", (PARENT + ":ckpt-step-", None)),
        ("smol:ckpt-step-4", ("smol:ckpt-step-4", None)),
        (PARENT + ":ckpt-step-" + "9" * 30, (PARENT + ":ckpt-step-" + "9" * 30, None)),
    ],
)
def test_names_of_checkpoints(name: str, expected: tuple[str, int | None]) -> None:
    assert split_model_name(name) == expected
