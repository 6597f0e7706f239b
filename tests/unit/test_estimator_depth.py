"""Where layers repeat, and that a shallow recording gives the deep one event for event."""

from dataclasses import replace
from typing import Any

import pytest

from tests.support.architectures import make_request
from workers.estimator.build import build_model, read_config
from workers.estimator.depth import Plan, Recording, plan_depth, shrink_config, stretch
from workers.estimator.request import Request
from workers.estimator.step import record_steps

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning")

QLORA: dict[str, Any] = {
    "lora": {"r": 4, "target_modules": "all-linear"},
    "quantization": {"type": "nf4"},
    "training": {"max_seq_length": 32, "gradient_checkpointing": True},
}


@pytest.mark.parametrize(
    ("family", "depth", "plan"),
    [
        ("llama", 80, Plan(first=2, period=1, copies=76, depth=80)),
        ("llama", 3, Plan(first=0, period=1, copies=0, depth=3)),
        ("gemma2", 42, Plan(first=3, period=2, copies=18, depth=42)),
        ("deepseek_v3", 61, Plan(first=4, period=1, copies=55, depth=61)),
    ],
)
def test_periods_are_found(family: str, depth: int, plan: Plan) -> None:
    config = read_config(Request.model_validate(make_request(family, depth=depth)))
    assert plan_depth(config) == plan


def test_the_shallow_configuration_keeps_the_kinds_of_layers() -> None:
    config = read_config(Request.model_validate(make_request("gemma3_text", depth=62)))
    plan = plan_depth(config)
    small = shrink_config(config, plan)
    kinds = config.layer_types
    assert small.num_hidden_layers == plan.depth - plan.shift
    assert small.layer_types == kinds[: plan.last] + kinds[plan.last + plan.shift :]


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_stretched_recording_is_the_deep_one(family: str) -> None:
    request = Request.model_validate(make_request(family, depth=9, **QLORA))
    stretched, traced = _record(request, whole=False), _record(request, whole=True)
    assert stretched.births == traced.births
    assert stretched.events == traced.events
    assert stretched.flops == traced.flops


def _record(request: Request, *, whole: bool) -> Recording:
    config = read_config(request)
    plan = plan_depth(config)
    if whole:
        plan = replace(plan, copies=0)
    assert whole or plan.copies > 0
    return stretch(record_steps(build_model(request, shrink_config(config, plan)), request), plan)
