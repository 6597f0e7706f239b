"""Each family of models is traced, and the stretched recording is the deep model's own."""

from dataclasses import replace
from typing import Any

import pytest

from tests.support.architectures import ARCHITECTURES, make_request
from workers.estimator.allocator import simulate_reserved
from workers.estimator.answer import estimate
from workers.estimator.build import build_model, build_reference, read_config
from workers.estimator.depth import Plan, Recording, plan_depth, shrink_config, stretch
from workers.estimator.request import Request
from workers.estimator.step import record_steps

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning")

WAYS: dict[str, dict[str, Any]] = {
    "qlora": {
        "lora": {"r": 8, "target_modules": "all-linear"},
        "quantization": {"type": "nf4"},
        "training": {"micro_batch_size": 2, "max_seq_length": 64, "gradient_checkpointing": True},
    },
    "lora": {
        "lora": {"r": 8},
        "training": {
            "micro_batch_size": 2,
            "max_seq_length": 64,
            "attention": "flash",
            "loss": "materialized",
            "optimizer": "adamw_torch",
        },
    },
    "full": {
        "training": {
            "micro_batch_size": 2,
            "max_seq_length": 64,
            "attention": "eager",
            "loss": "materialized",
            "keeps_outputs": True,
            "optimizer": "adafactor",
        },
    },
    "dpo": {
        "training": {
            "micro_batch_size": 1,
            "max_seq_length": 64,
            "gradient_checkpointing": True,
            "method": "dpo",
            "evaluates": True,
            "loss": "materialized",
        },
    },
    "packed": {
        "lora": {"r": 8, "target_modules": "all-linear"},
        "training": {"micro_batch_size": 2, "max_seq_length": 64, "packing": True, "evaluates": True},
    },
}


def _record(request: Request, *, whole: bool) -> tuple[Recording, Plan]:
    config = read_config(request)
    plan = plan_depth(config)
    if whole:
        plan = replace(plan, copies=0)
    small = shrink_config(config, plan)
    tracker = record_steps(build_model(request, small), request, reference=build_reference(request, small))
    return stretch(tracker, plan), plan


@pytest.mark.parametrize("way", [pytest.param(way, marks=() if way == "qlora" else pytest.mark.slow) for way in WAYS])
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_a_family_is_stretched_exactly(family: str, way: str) -> None:
    request = Request.model_validate(make_request(family, **WAYS[way]))
    stretched, plan = _record(request, whole=False)
    traced, _ = _record(request, whole=True)
    assert plan.copies > 0
    assert stretched.births == traced.births
    assert stretched.flops == traced.flops
    assert len(stretched.events) == len(traced.events)
    assert _peak(stretched) == _peak(traced)
    reserved = [simulate_reserved(item, limit_bytes=None, empties_cache=False) for item in (stretched, traced)]
    assert reserved[0] == reserved[1]


def _peak(recording: Recording) -> int:
    live = most = 0
    for event in recording.events:
        live += recording.births[event].size_bytes if event >= 0 else -recording.births[~event].size_bytes
        most = max(most, live)
    return most


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_parameters_are_counted_as_the_model_has_them(family: str) -> None:
    request = Request.model_validate(make_request(family, **WAYS["full"]))
    answer = estimate(request)
    model = build_model(request, read_config(request))
    assert answer.total_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert answer.trainable_parameters == answer.total_parameters
