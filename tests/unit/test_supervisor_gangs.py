"""Several processes of one attempt under one supervisor: one leads, and none outlives another one's failure."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.domain.failures import FailureKind
from orchestrator.domain.protocol import Failed, Pulled, StopReason
from orchestrator.runtime.child import child_environment
from orchestrator.runtime.processes import find_attempt_processes
from orchestrator.runtime.supervisor import Supervisor
from tests.support.attempt_specs import STUB_COMMAND, make_spec, wait_for

HANG = {"ignore": "stop"}
PAUSE = StopReason(reason="paused", save=True)


def on(rank: int, **step: Any) -> dict[str, Any]:
    return {"rank": [rank, step]}


def failed(kind: FailureKind, message: str) -> dict[str, Any]:
    return {"kind": "failed", "failure": kind.value, "message": message}


class Gang:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.supervisor: Supervisor | None = None

    def start(self, *steps: dict[str, Any], devices: int = 2) -> Supervisor:
        spec = make_spec(self._folder, *steps, devices=devices)
        self.attempt_id = spec.attempt_id
        self.supervisor = Supervisor(spec, lease_generation=1, stop_grace_seconds=2.0, command=STUB_COMMAND)
        self.supervisor.start()
        return self.supervisor

    def finish(self) -> Pulled:
        assert self.supervisor is not None
        assert self.supervisor.wait_ended(20)
        assert find_attempt_processes(self.attempt_id) == set()
        return self.supervisor.pull(0, lease_generation=1)


@pytest.fixture
def gang(tmp_path: Path) -> Iterator[Gang]:
    found = Gang(tmp_path)
    yield found
    assert found.supervisor is not None
    assert found.supervisor.close()


def outcomes(pulled: Pulled) -> list[Any]:
    return [e.report for e in pulled.entries if e.report.kind in {"failed", "stopped", "succeeded"}]


def test_each_process_knows_its_rank_and_they_meet_on_this_node_alone(gang: Gang, tmp_path: Path) -> None:
    files = [tmp_path / f"{rank}.json" for rank in range(3)]
    gang.start(*(on(rank, environment=str(path)) for rank, path in enumerate(files)), {"wait": "stop"}, devices=3)
    for rank, path in enumerate(files):
        wait_for(lambda path=path: path.exists() and path.read_text().endswith("}"))
        found = json.loads(path.read_text())
        assert (found["RANK"], found["LOCAL_RANK"], found["WORLD_SIZE"]) == (str(rank), str(rank), "3")
        assert (found["GLOO_SOCKET_IFNAME"], found["NCCL_SOCKET_IFNAME"]) == ("lo", "lo")


def test_a_process_sees_all_gpus_of_its_attempt_in_order(tmp_path: Path) -> None:
    grants = make_spec(tmp_path, devices=3).devices
    gpus = [
        grant.model_copy(update={"kind": "cuda", "index": index})
        for grant, index in zip(grants, (2, 0, 3), strict=True)
    ]
    found = child_environment({}, attempt_id="a", work_dir=tmp_path, devices=gpus)
    assert found["CUDA_VISIBLE_DEVICES"] == "2,0,3"


def test_an_attempt_goes_on_while_others_have_ended_well_and_ends_with_the_first(gang: Gang) -> None:
    supervisor = gang.start(on(1, exit=0), {"wait": "stop"})
    wait_for(lambda: len(find_attempt_processes(gang.attempt_id)) == 1)
    supervisor.stop(PAUSE, lease_generation=1, grace_seconds=15)
    pulled = gang.finish()
    assert [report.kind for report in outcomes(pulled)] == ["stopped"]
    assert pulled.exit_code == 0


def test_when_the_first_has_stopped_the_others_are_ended(gang: Gang) -> None:
    supervisor = gang.start(on(1, **HANG), {"wait": "stop"})
    supervisor.stop(PAUSE, lease_generation=1, grace_seconds=15)
    pulled = gang.finish()
    assert [report.kind for report in outcomes(pulled)] == ["stopped"]
    assert pulled.exit_code == 0


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_one_that_is_killed_ends_them_all_and_is_the_reason(gang: Gang, rank: int) -> None:
    gang.start(on(rank, kill=True), HANG, devices=3)
    pulled = gang.finish()
    assert outcomes(pulled) == []
    assert pulled.exit_code == -signal.SIGKILL


def test_want_of_memory_anywhere_is_the_outcome(gang: Gang) -> None:
    gang.start(
        on(0, report=failed(FailureKind.PLATFORM, "a rank was missed")),
        on(1, report=failed(FailureKind.OUT_OF_MEMORY, "too much")),
        on(1, exit=1),
        HANG,
    )
    (outcome,) = outcomes(gang.finish())
    assert isinstance(outcome, Failed)
    assert (outcome.failure, outcome.message) == (FailureKind.OUT_OF_MEMORY, "too much")


def test_of_other_failures_the_first_is_the_outcome(gang: Gang) -> None:
    gang.start(on(0, report=failed(FailureKind.USER, "a wrong setting")), on(0, exit=1), HANG)
    (outcome,) = outcomes(gang.finish())
    assert isinstance(outcome, Failed)
    assert outcome.message == "a wrong setting"
