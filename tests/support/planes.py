"""A control plane in this process, over a real server's database and a real cluster, and what a job reserves there."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from api.client import Tunepool
from orchestrator.wiring import build_control_plane
from tests.e2e.jobs import make_spec
from tests.support.clusters import Cluster
from tests.support.servers import ApiServer


@contextmanager
def run_plane(server: ApiServer, cluster: Cluster) -> Iterator[None]:
    """With the real workers. A programming error of its loops fails the test."""
    launcher = cluster.launcher(worker_command=None, stop_grace_seconds=20.0)
    plane = build_control_plane(server.settings, server.services, launcher)
    stop = threading.Event()
    thread = threading.Thread(target=plane.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
    assert not plane.health.programming_errors, plane.health.snapshot()


def read_job_mebibytes(admin: Tunepool, *, count: int = 1, **training: object) -> int:
    """What one job of `tests.e2e.jobs` reserves on each of so many CPU devices, rounded up."""
    spec = make_spec(admin, "", steps=1, **training) | {"resources": {"count": count}}
    del spec["training_file"]
    found = admin.estimates.create(**spec, rows=24, tokens=24 * 40, longest_row_tokens=64)
    return -(-int(found.model_dump()["memory"]["cpu"]["total_bytes"]) // 2**20)
