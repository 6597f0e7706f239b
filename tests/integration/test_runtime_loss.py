"""A Ray cluster that is lost and comes back at the same address, as in the embedded stack: one node on loopback."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.domain.errors import AttemptGoneError, ClusterUnavailableError
from orchestrator.domain.protocol import AttemptSpec, Pulled
from orchestrator.runtime.launcher import Launch, PullRequest
from orchestrator.runtime.processes import find_attempt_processes
from orchestrator.runtime.ray import RayLauncher
from tests.support.attempt_specs import make_spec, wait_for
from tests.support.clusters import Cluster, cpu_device, run_cluster

NODE = cpu_device("node-a")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with run_cluster([NODE]) as cluster:
        yield cluster


def launch(launcher: RayLauncher, spec: AttemptSpec) -> None:
    launcher.launch(Launch(spec=spec, node_name=NODE.node_name, lease_generation=1))
    wait_for(lambda: isinstance(answer := ask(launcher, spec), Pulled) and answer.entries)


def ask(launcher: RayLauncher, spec: AttemptSpec) -> Pulled | Exception | None:
    asked = PullRequest(attempt_id=spec.attempt_id, lease_generation=1, cursor=0)
    try:
        return launcher.pull([asked], timeout_seconds=2).get(spec.attempt_id)
    except ClusterUnavailableError as error:
        return error


def test_a_cluster_that_was_killed_and_restarted_is_found_again_by_the_same_launcher(
    cluster: Cluster, tmp_path: Path
) -> None:
    launcher = cluster.launcher(margin_seconds=1.0)
    lost = make_spec(tmp_path, {"ignore": "stop"})
    launch(launcher, lost)
    cluster.kill()
    wait_for(lambda: not find_attempt_processes(lost.attempt_id), seconds=2)
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises(ClusterUnavailableError):
            launcher.list_devices()
        assert time.monotonic() - began < 20, "no call hangs"

    cluster.start_head([NODE])
    wait_for(lambda: devices_of(launcher) == (NODE,), seconds=60)
    assert isinstance(ask(launcher, lost), AttemptGoneError)
    assert launcher.confirm_gone(lost.attempt_id, node_name=NODE.node_name)
    assert not Path(lost.work_dir).exists(), "the new cluster dropped what the old one left"

    again = make_spec(tmp_path, {"wait": "stop"})
    launch(launcher, again)
    launcher.release(again.attempt_id)
    assert launcher.confirm_gone(again.attempt_id, node_name=NODE.node_name)


def devices_of(launcher: RayLauncher) -> tuple[object, ...] | None:
    try:
        return tuple(launcher.list_devices())
    except ClusterUnavailableError:
        return None


@pytest.mark.slow
def test_a_head_that_hangs_neither_hangs_nor_ends_its_callers(cluster: Cluster, tmp_path: Path) -> None:
    """Its control store is stopped, not killed: connections open, and nobody answers."""
    launcher = cluster.launcher(margin_seconds=1.0)
    spec = make_spec(tmp_path, {"wait": "stop"})
    launch(launcher, spec)
    head = cluster.find_process("gcs_server")
    head.send_signal(signal.SIGSTOP)
    assert isinstance(ask(launcher, spec), Pulled), "a supervisor answers without the head"
    began = time.monotonic()
    with pytest.raises(ClusterUnavailableError):
        launcher.list_devices()
    assert time.monotonic() - began < 20
    head.send_signal(signal.SIGCONT)
    wait_for(lambda: devices_of(launcher) == (NODE,), seconds=120)
    assert isinstance(ask(launcher, spec), Pulled), "the attempt has not noticed"
    launcher.release(spec.attempt_id)
    assert launcher.confirm_gone(spec.attempt_id, node_name=NODE.node_name)
