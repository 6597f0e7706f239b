"""What only a real Ray cluster shows: two nodes, control planes that die, workers that die, memory that is taken."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.domain.elastic import DeviceGroup
from orchestrator.domain.errors import AttemptGoneError, ClusterUnavailableError
from orchestrator.domain.protocol import AttemptSpec, Entry, Progress, Pulled, StopReason
from orchestrator.runtime.launcher import Launch, PullRequest
from orchestrator.runtime.processes import ATTEMPT_VARIABLE, find_attempt_processes, read_environment
from orchestrator.runtime.ray import RayLauncher
from orchestrator.runtime.workspace import find_record
from tests.support.attempt_specs import MIB, make_spec, progress, wait_for
from tests.support.clusters import Cluster, cpu_device, run_cluster

NODES = (cpu_device("node-a", mebibytes=1024), cpu_device("node-b", mebibytes=512))
PAUSE = StopReason(reason="paused", save=True)
LAUNCH_SECONDS = 8.0
Make = Callable[..., AttemptSpec]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with run_cluster(*[[node] for node in NODES]) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def launcher(cluster: Cluster) -> RayLauncher:
    return cluster.launcher(launch_seconds=LAUNCH_SECONDS, margin_seconds=1.0)


@pytest.fixture
def make(launcher: RayLauncher, tmp_path: Path) -> Iterator[Make]:
    """A spec of an attempt for node-b; it is released and proved gone afterwards."""
    made: list[AttemptSpec] = []

    def make(*steps: dict[str, Any], **options: Any) -> AttemptSpec:
        made.append(make_spec(tmp_path, *steps, **options))
        return made[-1]

    yield make
    for spec in made:
        launcher.release(spec.attempt_id)
        assert launcher.confirm_gone(spec.attempt_id, node_name="node-b")
    assert list(tmp_path.glob("attempt-*")) == []


def launch(launcher: RayLauncher, spec: AttemptSpec, *, node_name: str = "node-b", generation: int = 1) -> None:
    launcher.launch(Launch(spec=spec, node_name=node_name, lease_generation=generation))


def ask(launcher: RayLauncher, spec: AttemptSpec, cursor: int = 0, *, generation: int = 1) -> Pulled | Exception:
    asked = PullRequest(attempt_id=spec.attempt_id, lease_generation=generation, cursor=cursor)
    return launcher.pull([asked], timeout_seconds=10)[spec.attempt_id]


def pull(launcher: RayLauncher, spec: AttemptSpec, cursor: int = 0, *, generation: int = 1) -> Pulled:
    answer = ask(launcher, spec, cursor, generation=generation)
    assert isinstance(answer, Pulled)
    return answer


def wait_until_up(launcher: RayLauncher, spec: AttemptSpec) -> None:
    """The stub reports its start when it listens for orders."""
    wait_for(lambda: pull(launcher, spec).entries)


def actor_of(spec: AttemptSpec) -> psutil.Process:
    """The process of the attempt's supervisor."""
    record = find_record(spec.attempt_id)
    assert record is not None
    return psutil.Process(record.pid)


def test_the_devices_of_all_nodes_are_listed(launcher: RayLauncher) -> None:
    assert tuple(launcher.list_devices()) == NODES


def test_a_new_control_plane_goes_on_where_a_killed_one_stopped(
    cluster: Cluster, launcher: RayLauncher, make: Make, tmp_path: Path
) -> None:
    """Nothing is lost, nothing comes twice, and the training is the same process all along."""
    spec = make(*[progress(step) for step in range(400)], {"wait": "stop"}, *[progress(s) for s in range(400, 450)])
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    first = subprocess.Popen(
        [sys.executable, "-c", FIRST_CONTROL_PLANE, str(tmp_path / "spec.json"), cluster.address],
        cwd=Path(__file__).parents[2],
        env=cluster.environment,
        stdout=subprocess.PIPE,
    )
    assert first.stdout is not None
    cursor = int(first.stdout.readline())
    driver_pid = int(first.stdout.readline())
    first.kill()
    first.wait()
    first.stdout.close()
    taken = cursor
    (process,) = find_attempt_processes(spec.attempt_id)
    entries: list[Entry] = []
    wait_for(
        lambda: entries.extend(pull(launcher, spec, taken + len(entries), generation=2).entries) or len(entries) > 200
    )
    launcher.stop(spec.attempt_id, lease_generation=2, stop=PAUSE, grace_seconds=20)
    assert find_attempt_processes(spec.attempt_id) <= {process}
    wait_for(
        lambda: (
            (p := pull(launcher, spec, taken + len(entries), generation=2))
            and (entries.extend(p.entries) or not (p.alive or p.more))
        )
    )
    assert [entry.seq for entry in entries] == list(range(taken + 1, taken + 1 + len(entries)))
    whole = pull(launcher, spec, generation=2)
    assert list(whole.entries[taken:]) == entries
    steps = [e.report.step for e in whole.entries if isinstance(e.report, Progress)]
    assert steps == list(range(450))
    wait_for(lambda: not psutil.pid_exists(driver_pid), seconds=5)


FIRST_CONTROL_PLANE = """
import os, sys, time
from pathlib import Path
from orchestrator.domain.protocol import AttemptSpec
from orchestrator.runtime.launcher import Launch, PullRequest
from orchestrator.runtime.ray import RayLauncher
from tests.support.attempt_specs import STUB_COMMAND

spec = AttemptSpec.model_validate_json(Path(sys.argv[1]).read_text())
token = os.environ["RAY_AUTH_TOKEN"]
launcher = RayLauncher(sys.argv[2], "tunepool", token, stop_grace_seconds=2, worker_command=STUB_COMMAND)
launcher.launch(Launch(spec=spec, node_name="node-b", lease_generation=1))
cursor = 0
while cursor < 100:
    asked = PullRequest(attempt_id=spec.attempt_id, lease_generation=1, cursor=cursor)
    cursor += len(launcher.pull([asked], timeout_seconds=10)[spec.attempt_id].entries[:60])
print(cursor, launcher.driver_pid, sep="\\n", flush=True)
time.sleep(600)
"""


def test_two_control_planes_that_launch_at_once_make_one_supervisor(
    cluster: Cluster, launcher: RayLauncher, make: Make
) -> None:
    spec = make({"wait": "stop"})
    other = cluster.launcher(launch_seconds=LAUNCH_SECONDS)
    other.list_devices()
    both = [threading.Thread(target=launch, args=(each, spec)) for each in (launcher, other)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    wait_until_up(launcher, spec)
    assert len(find_attempt_processes(spec.attempt_id)) == 1
    assert pull(other, spec) == pull(launcher, spec)
    other.close()


def test_when_the_supervisor_is_killed_its_training_is_gone_within_a_second(launcher: RayLauncher, make: Make) -> None:
    spec = make({"ignore": "stop"})
    launch(launcher, spec)
    wait_for(lambda: len(pull(launcher, spec).entries) >= 2)
    actor_of(spec).kill()
    wait_for(lambda: not find_attempt_processes(spec.attempt_id), seconds=1.0)
    wait_for(lambda: isinstance(ask(launcher, spec), AttemptGoneError))
    assert launcher.confirm_gone(spec.attempt_id, node_name="node-b")
    assert not Path(spec.work_dir).exists()


def test_a_process_that_escaped_from_its_dead_supervisor_is_found_and_killed(
    launcher: RayLauncher, make: Make, tmp_path: Path
) -> None:
    spec = make({"escape": str(tmp_path / "pid")}, {"wait": "stop"})
    launch(launcher, spec)
    wait_for((tmp_path / "pid").exists)
    actor_of(spec).kill()
    (escaped,) = wait_for(lambda: len(left := find_attempt_processes(spec.attempt_id)) == 1 and left)
    assert str(escaped.pid) == (tmp_path / "pid").read_text()
    assert launcher.confirm_gone(spec.attempt_id, node_name="node-b")
    assert find_attempt_processes(spec.attempt_id) == set()


def test_ray_refuses_memory_that_is_taken_and_a_refused_launch_leaves_nothing(
    launcher: RayLauncher, make: Make
) -> None:
    first, second = (make({"wait": "stop"}, reserved_bytes=300 * MIB) for _ in range(2))
    launch(launcher, first)
    began = time.monotonic()
    with pytest.raises(ClusterUnavailableError, match="could not be started on node-b"):
        launch(launcher, second)
    assert time.monotonic() - began < LAUNCH_SECONDS + 15, "reported, not hung; though node-a has room"
    assert isinstance(ask(launcher, second), AttemptGoneError)
    assert not Path(second.work_dir).exists()
    launcher.release(first.attempt_id)
    launch(launcher, second)
    wait_until_up(launcher, second)


def test_the_actor_imports_no_torch_and_hands_no_token_on(cluster: Cluster, launcher: RayLauncher, make: Make) -> None:
    spec = make({"wait": "stop"})
    launch(launcher, spec)
    wait_until_up(launcher, spec)
    actor = actor_of(spec)
    assert not [line.path for line in actor.memory_maps() if "torch" in line.path]
    (process,) = find_attempt_processes(spec.attempt_id)
    environment = read_environment(process.pid)
    assert environment[ATTEMPT_VARIABLE] == spec.attempt_id
    assert cluster.token not in environment.values()
    assert not [name for name in environment if name.startswith(("RAY_", "TUNEPOOL_S3"))]
    assert environment.get("OMP_NUM_THREADS") == os.environ.get("OMP_NUM_THREADS"), "not Ray's 1"


def test_a_lost_driver_is_replaced_and_attempts_do_not_notice(launcher: RayLauncher, make: Make) -> None:
    spec = make({"wait": "stop"})
    launch(launcher, spec)
    wait_until_up(launcher, spec)
    before = launcher.driver_pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: isinstance(try_to_ask(launcher, spec), Pulled))
    assert launcher.driver_pid != before
    assert len(find_attempt_processes(spec.attempt_id)) == 1


def test_a_driver_that_hangs_is_given_up_in_time_and_replaced(launcher: RayLauncher) -> None:
    launcher.list_devices()
    hung = launcher.driver_pid
    assert hung is not None
    os.kill(hung, signal.SIGSTOP)
    began = time.monotonic()
    asked = PullRequest(attempt_id="attempt-0", lease_generation=1, cursor=0)
    with pytest.raises(ClusterUnavailableError, match="did not answer within"):
        launcher.pull([asked], timeout_seconds=1)
    assert time.monotonic() - began < 5
    wait_for(lambda: not psutil.pid_exists(hung))
    assert tuple(launcher.list_devices()) == NODES


def try_to_ask(launcher: RayLauncher, spec: AttemptSpec) -> Pulled | Exception:
    try:
        return ask(launcher, spec)
    except ClusterUnavailableError as error:
        return error


@pytest.mark.slow
def test_a_wrong_token_is_refused(cluster: Cluster) -> None:
    """Ray itself tries for 20 s."""
    stranger = RayLauncher(cluster.address, "tunepool", "f" * 32, stop_grace_seconds=1)
    with pytest.raises(ClusterUnavailableError):
        stranger.list_devices()
    stranger.close()


ASKED = """
import sys
import ray
from ray.autoscaler._private.constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.experimental.internal_kv import _internal_kv_get
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
print(_internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL).decode())
"""
"""What Ray's autoscaler (v1) reads at its next look."""


def test_the_head_keeps_what_devices_were_asked_for_last(cluster: Cluster, launcher: RayLauncher) -> None:
    def asked() -> object:
        command = [sys.executable, "-c", ASKED, cluster.address]
        done = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    one = DeviceGroup(device_type="cpu", bytes_by_index={0: 512 * MIB})
    two = DeviceGroup(device_type="cpu", bytes_by_index={0: 1024 * MIB, 1: 1024 * MIB})
    launcher.request_devices([one, one, two])
    single = {"tunepool_device_0_mib": 512}
    assert asked() == [single, single, {"tunepool_device_0_mib": 1024, "tunepool_device_1_mib": 1024}]
    launcher.request_devices([])
    assert asked() == []
