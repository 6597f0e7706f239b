"""What DDP and FSDP allocate, held against torch's own on a CPU: real models, real steps, storages counted."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.support.real_steps import TOLERANCE_BYTES, count_stored, make_plain_request, make_real, predict, train
from tests.support.storages import StorageCount, find_peak, watching_fsdp
from workers.estimator.build import find_layers
from workers.estimator.request import Devices
from workers.estimator.sharding import shard

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning")
COUNT = 4
WAYS: dict[str, dict[str, Any] | None] = {"full": None, "lora": {"r": 6, "target_modules": "all-linear"}}


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


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("devices")
def test_fsdp_peaks_where_torchs_does(way: str, checkpointing: bool) -> None:
    request = make_plain_request(WAYS[way], gradient_checkpointing=checkpointing)
    predicted = find_peak(shard(predict(request), Devices(count=COUNT, sharding="fsdp")))
    count, model = StorageCount(), make_real(request)
    mesh = init_device_mesh("cpu", (COUNT,))
    with watching_fsdp(count):
        for layer in find_layers(model):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        count_stored(model, count)
        train(model, request, count)
    assert predicted == pytest.approx(count.peak_bytes, abs=TOLERANCE_BYTES)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("one_device")
def test_ddp_makes_the_buckets_that_torchs_does(way: str) -> None:
    request = make_plain_request(WAYS[way])
    recording = shard(predict(request), Devices(count=COUNT, sharding="ddp"))
    count, model = StorageCount(), make_real(request)
    count_stored(model, count)
    with count:
        ddp = DistributedDataParallel(model)
    train(ddp, request, count)
    assert find_peak(recording) == pytest.approx(count.peak_bytes, abs=TOLERANCE_BYTES)
    buckets = {born.size_bytes for born in recording.births[-3:]}
    assert buckets <= set(count.born)
