"""What DDP and FSDP allocate, held against torch's own on a CPU: real models, real steps, storages counted."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.support.architectures import make_request
from tests.support.storages import StorageCount, find_peak, watching_fsdp
from workers.estimator.build import build_model, find_layers, read_config
from workers.estimator.depth import Plan, Recording, stretch
from workers.estimator.request import Devices, Request
from workers.estimator.sharding import shard
from workers.estimator.step import record_steps

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning")
DEPTH, TOKENS, COUNT = 4, 32, 4
TOLERANCE_BYTES = 8192
"""Of numbers by the dozen that on a GPU stay on the host: AdamW's step counts, and the loss."""


@pytest.fixture
def devices() -> Iterator[None]:
    """Several devices of which only the first is there: what collectives would bring from others is left out."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=COUNT)
    yield
    dist.destroy_process_group()


@pytest.fixture
def one_device() -> Iterator[None]:
    """DDP's buckets are the same however many take part."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


WAYS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"lora": {"r": 6, "target_modules": "all-linear"}},
}


def _make_request(way: str, *, checkpointing: bool) -> Request:
    """A plain loop of float32, so that CPU and GPU run the same operations."""
    training = {
        "max_seq_length": TOKENS,
        "padded": False,
        "dtype": "float32",
        "attention": "eager",
        "loss": "materialized",
        "optimizer": "adamw_torch",
        "keeps_outputs": True,
        "gradient_checkpointing": checkpointing,
    }
    fields = make_request("llama", depth=DEPTH, training=training, **WAYS[way])
    fields["model_config"] |= {"hidden_size": 256, "intermediate_size": 510}
    return Request.model_validate(fields)


def _record(request: Request) -> Recording:
    recorded = record_steps(build_model(request, read_config(request)), request)
    return stretch(recorded, Plan(first=0, period=1, copies=0, depth=DEPTH))


def _make_real(request: Request) -> nn.Module:
    """The same model with memory behind it."""
    model = build_model(request, read_config(request)).to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(0.01)
    return model


def _train(model: nn.Module, count: StorageCount) -> None:
    """Two steps; the first has half as many tokens, as the estimator assumes of loops that keep their outputs."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, foreach=True)
    with count:
        for tokens in (TOKENS // 2, TOKENS):
            ids = torch.zeros(1, tokens, dtype=torch.int64)
            outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, num_items_in_batch=1)
            outputs.loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("devices")
def test_fsdp_peaks_where_torchs_does(way: str, checkpointing: bool) -> None:
    request = _make_request(way, checkpointing=checkpointing)
    predicted = find_peak(shard(_record(request), Devices(count=COUNT, sharding="fsdp")))
    count, model = StorageCount(), _make_real(request)
    mesh = init_device_mesh("cpu", (COUNT,))
    with watching_fsdp(count):
        for layer in find_layers(model):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        for tensor in (*model.parameters(), *model.buffers()):
            count.add(tensor)
        _train(model, count)
    assert predicted == pytest.approx(count.peak_bytes, abs=TOLERANCE_BYTES)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("one_device")
def test_ddp_makes_the_buckets_that_torchs_does(way: str) -> None:
    request = _make_request(way, checkpointing=False)
    recording = shard(_record(request), Devices(count=COUNT, sharding="ddp"))
    count, model = StorageCount(), _make_real(request)
    for tensor in (*model.parameters(), *model.buffers()):
        count.add(tensor)
    with count:
        ddp = DistributedDataParallel(model)
    _train(ddp, count)
    assert find_peak(recording) == pytest.approx(count.peak_bytes, abs=TOLERANCE_BYTES)
    buckets = {born.size_bytes for born in recording.births[-3:]}
    assert buckets <= set(count.born)
