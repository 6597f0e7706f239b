"""What is written or remembered instead of run must be what running gives."""

from typing import Any

import pytest
import torch

from tests.support.architectures import make_request
from workers.estimator.build import build_model, read_config
from workers.estimator.repeat import FirstStep
from workers.estimator.replay import Replay
from workers.estimator.request import Request
from workers.estimator.step import record_steps
from workers.estimator.tracker import Tracker

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning")
ATEN = torch.ops.aten


def _meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize(
    ("func", "args"),
    [
        (ATEN.mul.Tensor, (_meta(3, 4), _meta(1, 4))),
        (ATEN.mul.Tensor, (_meta(3, 4, dtype=torch.int64), 2.0)),
        (ATEN.mul.Tensor, (_meta(3, 4, dtype=torch.int64), 2)),
        (ATEN.mul.Tensor, (_meta(3, 4, dtype=torch.int64), True)),
        (ATEN.mm.default, (_meta(3, 4), _meta(5, 4).t())),
        (ATEN.add.Tensor, (_meta(2, 3, 4).transpose(0, 1), _meta(3, 2, 4))),
        (ATEN.cat.default, ([_meta(2, 4), _meta(3, 4)],)),
        (ATEN.native_layer_norm.default, (_meta(2, 4), [4], None, None, 1e-5)),
        (ATEN._foreach_sqrt.default, ([_meta(2), _meta(3)],)),
    ],
)
def test_what_is_remembered_has_the_layout_of_what_was_run(func: Any, args: tuple[Any, ...]) -> None:
    replay = Replay()
    replay.run(ATEN.mul.Tensor, (_meta(3, 4, dtype=torch.int64), 2), None)
    real = func(*args)
    for result in (replay.run(func, args, None), replay.run(func, args, None)):
        assert type(result) is type(real)
        assert _layouts(result) == _layouts(real)


def _layouts(result: Any) -> list[tuple[Any, ...]]:
    tensors = [result] if isinstance(result, torch.Tensor) else list(result)
    return [(item.shape, item.stride(), item.dtype, item.untyped_storage().nbytes()) for item in tensors]


def test_views_and_changes_in_place_are_run_every_time() -> None:
    replay, tensor = Replay(), _meta(3, 4)
    for _ in range(2):
        view = replay.run(ATEN.view.default, (tensor, [12]), None)
        assert view.untyped_storage()._cdata == tensor.untyped_storage()._cdata
        assert replay.run(ATEN.mul_.Tensor, (tensor, 2), None) is tensor


def test_real_values_are_looked_at_every_time() -> None:
    replay = Replay()
    values = [replay.run(ATEN.mul.Tensor, (torch.tensor(number), 2), None) for number in (3, 4)]
    assert [int(value) for value in values] == [6, 8]


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_torch", "adamw_8bit", "sgd_momentum", "adafactor"])
@pytest.mark.parametrize("lora", [{"r": 4}, None])
def test_the_written_second_step_is_the_run_one(
    optimizer: str, lora: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"max_seq_length": 32, "optimizer": optimizer, "loss": "materialized"}
    fields = make_request("llama", depth=2, lora=lora, training=training)
    request = Request.model_validate(fields)
    written = _record(request)
    monkeypatch.setattr(FirstStep, "leaves_only_gradients", lambda _self: False)
    run = _record(request)
    assert written.births == run.births
    assert written.events == run.events
    assert written.marks == run.marks
    assert written.flops == run.flops
    assert written.collective == run.collective


def _record(request: Request) -> Tracker:
    return record_steps(build_model(request, read_config(request)), request)
