"""Jobs that two devices of a real Ray node train: the same adapter as one device's, whole retries, whole bills."""

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from api.client import Tunepool
from api.client.results import Job
from tests.e2e.jobs import MODEL, make_spec, write_rows
from tests.support.clusters import cpu_device, run_cluster
from tests.support.planes import read_job_mebibytes, run_plane
from tests.support.pool_audit import find_faults, read_history
from tests.support.servers import ApiServer, run_server
from tests.support.stack import training_processes, wait_final, wait_for, wait_step
from tests.support.storage import StorageServer

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]
PAIR = ("node/cpu:0", "node/cpu:1")
PATIENCE_SECONDS = 300.0


class Pool:
    """One node with two devices, each of which holds one job."""

    def __init__(self, server: ApiServer, client: Tunepool, file_id: str) -> None:
        self.server, self.client, self._file_id = server, client, file_id

    def submit(self, *, steps: int, count: int) -> Job:
        """Two rows a step, one at a time, on however many devices."""
        spec = make_spec(self.client, self._file_id, steps=steps, micro_batch_size=1, checkpoint_steps=3)
        return self.client.jobs.create(**{**spec, "lora": {"r": 4}, "resources": {"count": count}})

    def finish(self, job: Job) -> Job:
        return wait_final(self.client, job.id, seconds=PATIENCE_SECONDS)

    def read_adapter(self, job: Job, folder: Path) -> dict[str, np.ndarray]:
        return load_file(self.client.adapters.download(job, folder) / "adapter_model.safetensors")


@pytest.fixture
def pool(storage_server: StorageServer, sqlite_url: str, tmp_path: Path, tiny_model: Path) -> Iterator[Pool]:
    settings = {
        "model_roots": (tiny_model.parent,),
        "estimator": "closed_form",
        "attempt_lease_seconds": 20,
        "poll_seconds": 0.1,
    }
    with run_server(storage_server, sqlite_url, tmp_path / "data", **settings) as server:
        server.services.models.add(server.admin, MODEL, str(tiny_model))
        with Tunepool(server.url, server.admin_key) as client:
            mebibytes = read_job_mebibytes(client, count=2, micro_batch_size=1) + 8
            declared = [cpu_device("node", mebibytes=mebibytes, index=index) for index in range(2)]
            with run_cluster(declared) as cluster, run_plane(server, cluster):
                wait_for(lambda: len(client.pool.get().devices) == 2 or None, "the node", seconds=PATIENCE_SECONDS)
                yield Pool(server, client, client.files.create(write_rows(tmp_path / "train.jsonl")).id)


def test_two_devices_train_what_one_trains_and_a_killed_rank_retries_the_whole(pool: Pool, tmp_path: Path) -> None:
    together, other = pool.submit(steps=6, count=2), pool.submit(steps=30, count=2)
    alone = pool.submit(steps=6, count=1)

    wait_step(pool.client, other.id, 4, seconds=PATIENCE_SECONDS)
    attempt = pool.client.jobs.attempts(other.id)[-1]
    assert attempt.device_ids == PAIR
    (second,) = [p for p in training_processes(attempt.id) if p.environ().get("RANK") == "1"]
    second.send_signal(signal.SIGKILL)

    ended = {job.id: pool.finish(job) for job in (together, other, alone)}
    assert {job.status for job in ended.values()} == {"succeeded"}, [job.error for job in ended.values()]
    tried = pool.client.jobs.attempts(other.id)
    assert [one.failure.code if one.failure else None for one in tried] == ["worker_lost", None]
    assert [one.device_ids for one in tried] == [PAIR, PAIR]
    assert tried[1].resumed_from_step is not None
    assert tried[1].resumed_from_step >= 3

    mine = pool.read_adapter(ended[together.id], tmp_path / "together")
    theirs = pool.read_adapter(ended[alone.id], tmp_path / "alone")
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        np.testing.assert_allclose(tensor, theirs[name], atol=1e-3, err_msg=name)

    wait_for(lambda: not any(d.uses for d in pool.client.pool.get().devices) or None, "the last release")
    assert find_faults(read_history(pool.server.services.store)) == []
    cost = pool.client.jobs.cost(together.id)
    assert len(cost.entries) == 2
    assert cost.billed_usd_micros == sum(entry.amount_usd_micros for entry in cost.entries)
    assert len({entry.seconds for entry in cost.entries}) == 1
    assert not any(training_processes(one.id) for one in tried)
