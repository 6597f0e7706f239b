"""A worker's part of a job, played: it reports steps and checkpoints, and uploads an adapter that passes all checks."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from safetensors.numpy import save

from orchestrator.domain.attempts import Attempt
from orchestrator.domain.models import LinearGroup
from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.protocol import CheckpointStored, Phase, Stopped, StoredFile, Succeeded
from orchestrator.domain.spec import JobSpec
from orchestrator.objects.client import Objects
from tests.support.adapters import PEFT_CONFIG
from tests.support.control import training_reports, upload_checkpoint
from tests.support.servers import ApiServer

TURN_SECONDS = 0.05
ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})


class Trainer:
    """The scripted worker of one job's newest attempt."""

    def __init__(self, server: ApiServer, job_id: str) -> None:
        self._server = server
        self.job_id = job_id

    @property
    def attempt(self) -> Attempt:
        return self._server.services.jobs.attempts(self._server.admin, self.job_id)[-1]

    def begin(self) -> None:
        """Let the loops validate, place and launch the job."""
        self._server.step()
        assert self.attempt.state.value == "running"
        self.report(Phase(phase="training"))

    def report(self, *reports: Any) -> None:
        self._server.launcher.worker(self.attempt.attempt_id).report(*reports)

    def train(self, first_step: int, last_step: int) -> None:
        job = self._server.services.jobs.get(self._server.admin, self.job_id)
        assert job.total_steps is not None
        self.report(*training_reports(first_step, last_step, total_steps=job.total_steps))
        self._server.step()

    def save(self, step: int) -> CheckpointStored:
        stored = upload_checkpoint(self._server.services.objects, self.attempt, step=step)
        self.report(stored)
        self._server.step()
        return stored

    def succeed(self) -> None:
        """Train what is left, upload the adapter, and let the loops publish it."""
        job = self._server.services.jobs.get(self._server.admin, self.job_id)
        assert job.plan is not None
        assert job.total_steps is not None
        model = self._server.services.models.get(self._server.admin, job.model_name)
        self.train(job.current_step + 1, job.total_steps)
        prefix = upload_prefix(self.attempt)
        files = upload_adapter(
            self._server.services.objects, prefix, job.plan, model.facts.linear_groups, base_model=model.name
        )
        self.report(
            Succeeded(
                key_prefix=prefix,
                files=files,
                step=job.total_steps,
                trained_tokens=100 * job.total_steps,
                metrics={"train_loss": 0.1},
                lineage={"base_model_revision": model.revision},
            )
        )
        self._server.step()


class Workers(threading.Thread):
    """Steps the loops, lets attempts of jobs that `trains` train to their end, with one checkpoint on the way, and
    ends the others when they are asked to stop."""

    def __init__(self, server: ApiServer, trains: Callable[[JobSpec], bool]) -> None:
        super().__init__(name="workers")
        self._server = server
        self._trains = trains
        self._ended = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._ended.wait(TURN_SECONDS):
                self._turn()
        except BaseException as error:
            self.error = error

    def _turn(self) -> None:
        self._server.step()
        for worker in list(self._server.launcher.workers.values()):
            job_id = worker.launch.spec.job_id
            if worker.alive and worker.stops:
                worker.report(Stopped(reason=worker.stops[-1].reason, step=0))
            elif worker.alive and self._trains(self._server.services.jobs.get(self._server.admin, job_id).spec):
                trainer = Trainer(self._server, job_id)
                trainer.train(1, 2)
                trainer.save(2)
                trainer.succeed()

    def stop(self) -> None:
        self._ended.set()
        self.join()
        if self.error is not None:
            raise self.error


@contextmanager
def working(
    server: ApiServer, *, trains: Callable[[JobSpec], bool] = lambda spec: bool(spec.metadata)
) -> Iterator[None]:
    """Jobs that `trains` (those with metadata) are worked off while the block runs; others run until they are asked to
    stop."""
    workers = Workers(server, trains)
    workers.start()
    try:
        yield
    finally:
        workers.stop()


def upload_prefix(attempt: Attempt) -> str:
    return f"jobs/{attempt.job_id}/attempts/{attempt.number:04d}-{attempt.attempt_id}/adapter/"


def upload_adapter(
    objects: Objects, prefix: str, plan: TrainingPlan, groups: tuple[LinearGroup, ...], *, base_model: str = "tiny"
) -> tuple[StoredFile, ...]:
    """LoRA matrices of the plan's rank for each targeted layer, in PEFT's format."""
    random = np.random.default_rng(plan.seed)
    arrays: dict[str, np.ndarray] = {}
    for group in groups:
        part = "self_attn" if group.name in ATTENTION else "mlp"
        for layer in range(group.count if group.name in plan.lora_target_modules else 0):
            name = f"base_model.model.model.layers.{layer}.{part}.{group.name}"
            arrays[f"{name}.lora_A.weight"] = random.normal(size=(plan.lora_r, group.in_features)).astype("float32")
            arrays[f"{name}.lora_B.weight"] = random.normal(size=(group.out_features, plan.lora_r)).astype("float32")
    config = {
        **PEFT_CONFIG,
        "base_model_name_or_path": base_model,
        "r": plan.lora_r,
        "lora_alpha": plan.lora_alpha,
        "lora_dropout": plan.lora_dropout,
        "use_rslora": plan.use_rslora,
        "target_modules": list(plan.lora_target_modules),
    }
    bodies = {
        "adapter_model.safetensors": save(arrays, metadata={"format": "pt"}),
        "adapter_config.json": json.dumps(config).encode(),
        "README.md": b"# An adapter\n",
    }
    for name, body in bodies.items():
        objects.put(prefix + name, body)
    return tuple(
        StoredFile(name=name, size_bytes=len(body), sha256=hashlib.sha256(body).hexdigest())
        for name, body in bodies.items()
    )
