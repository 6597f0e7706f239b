"""Two training processes under one supervisor: they train what one process would, and live and die together."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as load_tensors

from orchestrator.domain.failures import FailureKind
from orchestrator.domain.ids import new_attempt_id
from orchestrator.domain.protocol import (
    AttemptSpec,
    CheckpointSource,
    CheckpointStored,
    DeviceGrant,
    Entry,
    Failed,
    Metric,
    Pulled,
    RemoteFile,
    Stopped,
    Succeeded,
)
from orchestrator.objects.client import Objects
from orchestrator.runtime.processes import find_attempt_processes
from orchestrator.runtime.supervisor import Supervisor
from tests.support.attempt_specs import wait_for
from tests.support.training import PAUSE, PREFIX, make_attempt, make_plan, make_rows

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the contract uses Linux's parent-death signal")

LIMIT_SECONDS = 60
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


class Run:
    """A supervised attempt with the real worker, and what it said."""

    def __init__(self, spec: AttemptSpec) -> None:
        self.spec = spec
        self.supervisor = Supervisor(spec, lease_generation=1, stop_grace_seconds=20, environment=ENVIRONMENT)
        self.entries: list[Entry] = []
        self.supervisor.start()

    def pull(self) -> Pulled:
        pulled = self.supervisor.pull(len(self.entries), lease_generation=1)
        self.entries += pulled.entries
        return pulled

    def finish(self) -> Any:
        """Its outcome; None for none."""
        ended = self.supervisor.wait_ended(LIMIT_SECONDS)
        while self.pull().more:
            pass
        assert ended, self.entries
        assert find_attempt_processes(self.spec.attempt_id) == set()
        return next((e.report for e in self.entries if e.report.kind in {"succeeded", "failed", "stopped"}), None)

    def wait_for_step(self, step: int) -> None:
        wait_for(lambda: self.pull() and any(m.step >= step for m in self.metrics), seconds=LIMIT_SECONDS)

    @property
    def metrics(self) -> list[Metric]:
        return [e.report for e in self.entries if isinstance(e.report, Metric) and "train_loss" in e.report.values]

    @property
    def losses(self) -> dict[int, float]:
        return {metric.step: metric.values["train_loss"] for metric in self.metrics}


class Runs:
    def __init__(self, folder: Path, model: Path, objects: Objects) -> None:
        self._folder, self._model, self._objects = folder, model, objects
        self._started: list[Run] = []

    def start(self, *, devices: int, accumulation: int, reserved_bytes: int = 8 * 1024**3, **changes: Any) -> Run:
        plan_changes = changes.pop("plan", {})
        plan = make_plan(
            micro_batch_rows=1,
            accumulation_steps=accumulation,
            devices=devices,
            batch_rows=devices * accumulation,
            **plan_changes,
        )
        attempt_id = new_attempt_id()
        spec = make_attempt(self._folder / attempt_id, self._model, plan=plan, attempt_id=attempt_id, **changes)
        key = f"inputs/{attempt_id}"
        self._objects.put(key, (self._folder / attempt_id / "train.jsonl").read_bytes())
        training = spec.training_file.model_copy(update={"url": self._objects.presign_get(key, 600)})
        more = tuple(
            DeviceGrant(
                device_id=f"node/cpu:{index}",
                kind="cpu",
                index=index,
                device_bytes=16 * 1024**3,
                reserved_bytes=reserved_bytes,
            )
            for index in range(1, devices)
        )
        prefix = PREFIX.replace("attempt-test", attempt_id)
        update = {"training_file": training, "upload": self._objects.presign_post(prefix, 600), "more_devices": more}
        self._started.append(Run(spec.model_copy(update=update)))
        return self._started[-1]

    def read_adapter(self, outcome: Succeeded) -> dict[str, Any]:
        return load_tensors(self._objects.get(outcome.key_prefix + "adapter_model.safetensors"))

    def read_checkpoint(self, stored: CheckpointStored) -> CheckpointSource:
        files = tuple(
            RemoteFile(
                name=file.name,
                url=self._objects.presign_get(stored.key_prefix + file.name, 600),
                size_bytes=file.size_bytes,
                sha256=file.sha256,
            )
            for file in stored.files
        )
        return CheckpointSource(step=stored.step, files=files)

    def close(self) -> None:
        for run in self._started:
            assert run.supervisor.close()


@pytest.fixture
def runs(tmp_path: Path, tiny_model: Path, objects: Objects) -> Iterator[Runs]:
    found = Runs(tmp_path, tiny_model, objects)
    yield found
    found.close()


def test_two_ranks_train_what_one_process_trains(runs: Runs) -> None:
    together = runs.start(devices=2, accumulation=2)
    outcome = together.finish()
    assert isinstance(outcome, Succeeded), [e.report for e in together.entries]
    alone = runs.start(devices=1, accumulation=4)
    expected = alone.finish()
    assert isinstance(expected, Succeeded)
    assert outcome.step == expected.step == 4
    assert outcome.trained_tokens == expected.trained_tokens
    assert together.losses == pytest.approx(alone.losses, rel=1e-4)
    mine, theirs = runs.read_adapter(outcome), runs.read_adapter(expected)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        np.testing.assert_allclose(tensor, theirs[name], atol=2e-4, err_msg=name)


@pytest.mark.slow
def test_a_gang_that_was_paused_goes_on_as_if_it_had_not_been(runs: Runs) -> None:
    plan = {"lora_dropout": 0.2}
    whole = runs.start(devices=2, accumulation=1, plan=plan)
    expected = whole.finish()
    first = runs.start(devices=2, accumulation=1, plan=plan)
    first.wait_for_step(1)
    first.supervisor.stop(PAUSE, lease_generation=1, grace_seconds=20)
    stopped = first.finish()
    assert isinstance(stopped, Stopped)
    stored = next(e.report for e in first.entries if isinstance(e.report, CheckpointStored))
    second = runs.start(devices=2, accumulation=1, plan=plan, resume_from=runs.read_checkpoint(stored))
    outcome = second.finish()
    assert isinstance(outcome, Succeeded)
    assert first.losses | second.losses == pytest.approx(whole.losses, rel=1e-5)
    assert outcome.trained_tokens == expected.trained_tokens


@pytest.mark.slow
def test_a_rank_that_runs_out_of_memory_is_what_ended_the_attempt(runs: Runs) -> None:
    run = runs.start(devices=2, accumulation=1, reserved_bytes=1024**2, rows=make_rows(4))
    outcome = run.finish()
    assert isinstance(outcome, Failed)
    assert outcome.failure is FailureKind.OUT_OF_MEMORY
