"""A control plane over a real database and object store, stepped by hand, with workers that do what the test says."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlalchemy import update

from orchestrator.domain.artifacts import Adapter
from orchestrator.domain.attempts import Attempt
from orchestrator.domain.failures import Failure
from orchestrator.domain.jobs import Job
from orchestrator.domain.models import LinearGroup, ModelFacts, ModelSourceKind
from orchestrator.domain.plan import TokenReport, resolve_plan
from orchestrator.domain.pool import BaseModel
from orchestrator.domain.protocol import (
    CheckpointStored,
    LogLine,
    Metric,
    ModelSource,
    Progress,
    StoredFile,
    Succeeded,
)
from orchestrator.domain.sizer import ClosedFormSizer, Sizer
from orchestrator.domain.states import JobState
from orchestrator.objects.client import Objects
from orchestrator.objects.layout import attempt_prefix
from orchestrator.scheduler.control import ControlPlane, ControlSettings
from orchestrator.scheduler.knowledge import Knowledge
from orchestrator.scheduler.resume import Manifest
from orchestrator.store import attempts, jobs, models, prices
from orchestrator.store.session import Store
from orchestrator.store.tables.jobs import jobs as job_rows
from tests.support.launchers import GIB, AnyReport, ScriptedLauncher
from tests.support.rows import add_job, make_adapter

FACTS = ModelFacts(
    model_type="llama",
    architecture="LlamaForCausalLM",
    hidden_size=64,
    intermediate_size=128,
    num_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=16,
    vocab_size=512,
    max_context_tokens=256,
    total_parameters=200_000,
    tied_embeddings=True,
    linear_groups=(LinearGroup(name="q_proj", out_features=64, in_features=64, count=2),),
    has_chat_template=True,
)
TOKENS = TokenReport(rows=40, total_tokens=4000, trained_tokens=1500, longest_row_tokens=120, longest_row_line=3)
PRICE_USD_MICROS_PER_HOUR = 3_600_000
SETTINGS = ControlSettings(
    owner="control-1",
    leader_lease_seconds=60,
    attempt_lease_seconds=120,
    stop_grace_seconds=10,
    launch_timeout_seconds=300,
    poll_seconds=0.25,
    presigned_seconds=900,
    retention_days=90,
    work_root="/work",
    cache_dir="/cache",
)


class FakeClock:
    """Monotonic seconds that pass only when the test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def describe_model(job: Job) -> ModelSource:
    return ModelSource(name=job.model_name, kind="path", revision="r1", path="/models/smol")


def accept_adapter(job: Job, attempt: Attempt, result: Succeeded) -> Adapter | Failure:
    """The same adapter for the same attempt each time, as verification promises."""
    made = make_adapter(attempt, created_at=attempt.created_at, name=f"ft:smol:team::{attempt.attempt_id[-8:]}")
    suffix = attempt.attempt_id.removeprefix("attempt-")
    return replace(made, adapter_id=f"adapter-{suffix}", files=result.files, key_prefix=result.key_prefix)


class Rig:
    """One pool that outlives its control planes. `plane` is the present one; `restart` drops it, as kill -9 does."""

    def __init__(self, store: Store, objects: Objects, launcher: ScriptedLauncher, **settings: Any) -> None:
        self.store = store
        self.objects = objects
        self.launcher = launcher
        self.clock = FakeClock()
        self.settings = replace(SETTINGS, **settings)
        self.verify: Callable[[Job, Attempt, Succeeded], Adapter | Failure] = accept_adapter
        self.sizer: Sizer = ClosedFormSizer()
        with Store.write(store) as tx:  # not as a store that is about to be killed writes
            prices.insert_price(tx, "cpu", PRICE_USD_MICROS_PER_HOUR)
        self.plane = self.build()

    def build(self, **settings: Any) -> ControlPlane:
        return ControlPlane(
            self.store,
            self.objects,
            self.launcher,
            knowledge=Knowledge(
                describe_model=describe_model,
                verify_adapter=self._verify,
                sizer=self.sizer,
            ),
            settings=replace(self.settings, **settings),
            clock=self.clock,
        )

    def _verify(self, job: Job, attempt: Attempt, result: Succeeded) -> Adapter | Failure:
        """Asked late, so that a test may change `verify` while a control plane runs."""
        return self.verify(job, attempt, result)

    def restart(self) -> None:
        self.plane = self.build()

    def step(self, *loops: str, plane: ControlPlane | None = None) -> None:
        """One pass of each loop (of all, in order, by default). A programming error fails the test."""
        plane = plane or self.plane
        for name in loops or tuple(plane.runners):
            plane.runners[name].run_once()
        assert not plane.health.programming_errors, plane.health.snapshot()

    def pass_time(self, seconds: float) -> None:
        """Let monotonic time pass; database time does not."""
        self.clock.seconds += seconds

    def job(self, job_id: str) -> Job:
        with self.store.read() as tx:
            return jobs.get_job(tx, job_id)

    def attempts(self, job_id: str) -> list[Attempt]:
        with self.store.read() as tx:
            return attempts.list_attempts(tx, job_id)

    def make_due(self, job_id: str) -> None:
        """Let a retry's delay be over."""
        with self.store.write() as tx:
            tx.execute(update(job_rows).where(job_rows.c.job_id == job_id).values(not_before_at=None))

    def report(self, attempt: Attempt, *reports: AnyReport) -> None:
        self.launcher.worker(attempt.attempt_id).report(*reports)


def register_model(store: Store) -> None:
    """The base model that jobs name when a test does not care."""
    with store.write() as tx:
        models.upsert_model(
            tx,
            BaseModel(
                name="smol",
                source=ModelSourceKind.PATH,
                location="/models/smol",
                revision="r1",
                facts=FACTS,
                files=(),
                created_at=tx.now(),
            ),
        )


def add_ready_job(store: Store, *, needs_bytes: int = GIB, estimate: dict[str, Any] | None = None, **spec: Any) -> Job:
    """A job as validation leaves it: queued, with a plan, 15 steps long."""
    with store.write() as tx:
        job = add_job(tx, spec.pop("team_id", None), **spec)
        plan = resolve_plan(job.spec, FACTS, seed=job.seed, tokens=TOKENS)
        changes = {"plan": plan, "footprints": {"cpu": needs_bytes}, "estimate": estimate or {}, "total_steps": 15}
        return jobs.apply_job_transition(tx, job.job_id, JobState.QUEUED, message="Valid.", changes=changes)


def training_reports(first_step: int, last_step: int, *, total_steps: int = 15) -> list[AnyReport]:
    """A log line, a metric and the progress of each step, both ends included."""
    reports: list[AnyReport] = []
    for step in range(first_step, last_step + 1):
        reports.append(LogLine(stream="stdout", text=f"step {step}"))
        reports.append(Metric(step=step, values={"train_loss": 2.0 / step, "learning_rate": 1e-4}))
        reports.append(Progress(step=step, total_steps=total_steps, trained_tokens=100 * step))
    return reports


def success(attempt: Attempt, *, step: int = 15) -> Succeeded:
    prefix = attempt_prefix(attempt.job_id, attempt.attempt_id, attempt.number) + "adapter/"
    return Succeeded(
        key_prefix=prefix,
        files=(StoredFile(name="adapter_model.safetensors", size_bytes=7, sha256="a" * 64),),
        step=step,
        trained_tokens=100 * step,
        metrics={"train_loss": 0.1},
        lineage={},
    )


def upload_checkpoint(objects: Objects, attempt: Attempt, *, step: int) -> CheckpointStored:
    """What a worker leaves in the object store, manifest last, and the report that it would make of it."""
    prefix = f"{attempt_prefix(attempt.job_id, attempt.attempt_id, attempt.number)}checkpoints/step-{step:08d}/"
    file = StoredFile(name="adapter_model.safetensors", size_bytes=5, sha256="b" * 64)
    objects.put(prefix + file.name, b"12345")
    manifest = Manifest(version=1, step=step, files=(file,), metrics={"train_loss": 0.5})
    objects.put(prefix + "manifest.json", manifest.model_dump_json().encode())
    return CheckpointStored(step=step, key_prefix=prefix, files=(file,), metrics={}, save_seconds=0.4)
