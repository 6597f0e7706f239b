"""Jobs that go on from an adapter or a checkpoint, on both engines: whose, how, and what is kept for them."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator.domain.artifacts import Adapter, Checkpoint, FileStatus, build_model_name
from orchestrator.domain.errors import ConflictError, InvalidRequestError
from orchestrator.domain.jobs import Job
from orchestrator.domain.models import ModelSourceKind
from orchestrator.domain.outcomes import succeeded
from orchestrator.domain.pool import BaseModel
from orchestrator.domain.protocol import StoredFile
from orchestrator.domain.spec import EstimateSpec, JobSpec
from orchestrator.domain.states import AttemptState, JobState
from orchestrator.domain.teams import Caller
from orchestrator.services.estimates import Estimates
from orchestrator.services.idempotency import Repeat
from orchestrator.services.jobs import Jobs
from orchestrator.services.submissions import Submissions
from orchestrator.store import adapters, attempts, checkpoints, jobs
from orchestrator.store.session import Store
from tests.support.adapters import FACTS, make_plan
from tests.support.callers import make_caller as make_stranger
from tests.support.rows import add_attempt, add_file, add_job, add_key, make_adapter, make_checkpoint
from tests.support.threads import run_together

WEIGHTS = StoredFile(name="adapter_model.safetensors", size_bytes=10, sha256="1" * 64)


@dataclass
class Registry:
    """One base model, whose revision may change."""

    revision: str = "r1"

    def resolve(self, name: str) -> BaseModel:
        if name != "smol":
            raise InvalidRequestError(f"{name!r} is not registered", code="model_not_found", param="model")
        return BaseModel(
            name=name,
            source=ModelSourceKind.PATH,
            location="/models/smol",
            revision=self.revision,
            facts=FACTS,
            files=(),
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
        )


@dataclass
class World:
    store: Store
    registry: Registry
    service: Jobs
    caller: Caller
    adapter: Adapter
    checkpoint: Checkpoint

    @property
    def checkpoint_name(self) -> str:
        return f"{self.adapter.name}:ckpt-step-{self.checkpoint.step}"

    def submit(self, model: str, caller: Caller | None = None, **spec: Any) -> Job:
        caller = caller or self.caller
        with self.store.write() as tx:
            file = add_file(tx, caller.team_id, status=FileStatus.PROCESSED, report={"rows": 20})
        asked = JobSpec.model_validate({"model": model, "training_file": file.file_id, **spec})
        return self.service.create(caller, asked, repeat=Repeat(fingerprint=file.file_id))

    def refused(self, model: str, caller: Caller | None = None, **spec: Any) -> InvalidRequestError:
        with pytest.raises(InvalidRequestError) as caught:
            self.submit(model, caller, **spec)
        return caught.value

    def delete(self) -> None:
        with self.store.write() as tx:
            adapters.mark_deleted(tx, self.adapter.adapter_id, self.caller.team_id)


def make_caller(store: Store, name: str) -> Caller:
    """Somebody of a new team, with a key."""
    caller = make_stranger(store, name=name)
    with store.write() as tx:
        return replace(caller, key_id=add_key(tx, caller.team_id).key_id)


@pytest.fixture
def world(store: Store) -> World:
    caller = make_caller(store, "vision")
    with store.write() as tx:
        job = add_job(tx, caller.team_id, suffix="v1")
        plan = make_plan(lora_alpha=12, lora_dropout=0.1, lora_target_modules=("q_proj",), quantization="nf4")
        jobs.apply_job_transition(tx, job.job_id, JobState.QUEUED, message="Valid.", changes={"plan": plan})
        attempt = add_attempt(tx, job)
        for state in (AttemptState.LAUNCHING, AttemptState.RUNNING, AttemptState.VERIFYING):
            attempts.apply_attempt_transition(tx, attempt.attempt_id, attempt.lease_token, state)
        kept = replace(make_checkpoint(attempt, step=4, created_at=tx.now()), files=(WEIGHTS,))
        checkpoint = checkpoints.insert_checkpoint(tx, kept)
        name = build_model_name(base_model="smol", team_name="vision", suffix="v1", job_id=job.job_id)
        made = make_adapter(attempt, created_at=tx.now(), name=name)
        adapter = adapters.insert_adapter(tx, replace(made, manifest={"step": 9}))
        attempts.end_attempt(tx, attempt.attempt_id, attempt.lease_token, succeeded(), ended_at=tx.now())
    registry = Registry()
    return World(store, registry, Jobs(store, Submissions(store, registry)), caller, adapter, checkpoint)


def test_a_job_continues_on_the_base_model_with_the_parents_settings(world: World) -> None:
    job = world.submit(world.adapter.name, lora={"dropout": 0.0}, suffix="v2")
    assert (job.model_name, job.model_revision, job.spec.model) == ("smol", "r1", world.adapter.name)
    assert (job.spec.lora.r, job.spec.lora.alpha, job.spec.lora.dropout) == (4, 12, 0.0)
    assert (job.spec.lora.target_modules, job.spec.quantization.type) == (("q_proj",), "nf4")
    assert job.parent is not None
    assert job.parent.lineage == {
        "name": world.adapter.name,
        "job_id": world.adapter.job_id,
        "adapter_id": world.adapter.adapter_id,
        "checkpoint_id": None,
        "step": 9,
        "weights_sha256": "1" * 64,
    }
    assert (job.parent.key_prefix, job.parent.weights) == (world.adapter.key_prefix, WEIGHTS)
    assert world.service.get(world.caller, job.job_id) == job
    (event,) = world.service.events(world.caller, job.job_id).items
    assert world.adapter.name in event.message


def test_a_checkpoint_is_continued_from_too_even_without_its_adapter(world: World) -> None:
    for _ in range(2):
        job = world.submit(world.checkpoint_name)
        assert job.parent is not None
        assert (job.parent.checkpoint_id, job.parent.step) == (world.checkpoint.checkpoint_id, 4)
        assert job.parent.key_prefix == world.checkpoint.key_prefix
        world.service.cancel(world.caller, job.job_id)
        with world.store.write() as tx:
            if adapters.find_adapter_of_job(tx, world.adapter.job_id) is not None:
                adapters.mark_deleted(tx, world.adapter.adapter_id)


def test_anothers_model_is_an_unknown_one(world: World) -> None:
    thief = make_caller(world.store, "thieves")
    for name in (world.adapter.name, world.checkpoint_name):
        error = world.refused(name, thief)
        assert (error.code, error.param) == ("model_not_found", "model")
        assert error.message == f"{name!r} is not registered"
    for name in ("ft:smol:vision:v1:00000000", f"{world.adapter.name}:ckpt-step-5", "ft:", "ft:%:ckpt-step-4"):
        assert world.refused(name).message == f"{name!r} is not registered"


def test_another_rank_is_refused_by_its_field(world: World) -> None:
    error = world.refused(world.adapter.name, lora={"r": 8})
    assert (error.code, error.param) == ("differs_from_parent", "lora.r")


def test_a_base_model_that_was_changed_is_refused(world: World) -> None:
    made = world.submit("smol")
    world.registry.revision = "r2"
    assert world.submit("smol").model_revision == "r2"
    with world.store.write() as tx:
        plan = make_plan()
        jobs.apply_job_transition(tx, made.job_id, JobState.QUEUED, message="Valid.", changes={"plan": plan})
        attempt = add_attempt(tx, made)
        adapter = make_adapter(attempt, created_at=tx.now())
        adapters.insert_adapter(tx, replace(adapter, manifest={"step": 1}))
    assert world.refused(adapter.name).code == "base_model_changed"


def test_a_parent_stays_until_its_jobs_have_ended(world: World) -> None:
    job = world.submit(world.adapter.name)
    with pytest.raises(ConflictError) as caught:
        world.delete()
    assert caught.value.code == "model_in_use"
    assert job.job_id in caught.value.message
    world.service.cancel(world.caller, job.job_id)
    world.delete()
    assert world.service.get(world.caller, job.job_id).parent == job.parent


def test_a_checkpoint_stays_until_its_jobs_have_ended(world: World) -> None:
    job = world.submit(world.checkpoint_name)
    with world.store.write() as tx:
        assert not checkpoints.delete_checkpoint(tx, world.checkpoint.checkpoint_id)
        assert checkpoints.find_latest(tx, world.adapter.job_id) == world.checkpoint
    world.service.cancel(world.caller, job.job_id)
    with world.store.write() as tx:
        assert checkpoints.delete_checkpoint(tx, world.checkpoint.checkpoint_id)
    assert world.refused(world.checkpoint_name).code == "model_not_found"


def test_deleting_and_continuing_at_once_never_both_succeed(world: World) -> None:
    def submit() -> str:
        try:
            return world.submit(world.adapter.name).job_id
        except InvalidRequestError as error:
            return error.code

    def delete() -> str:
        try:
            world.delete()
        except ConflictError as error:
            return error.code
        return "deleted"

    submitted, deleted = run_together([submit, delete])
    assert (submitted == "model_not_found") == (deleted == "deleted")


def test_an_estimate_is_that_of_the_continued_job(world: World) -> None:
    estimates = Estimates(world.store, world.registry)
    found = estimates.estimate(world.caller, EstimateSpec(model=world.adapter.name, rows=20))
    assert (found.model, found.plan.lora_r, found.plan.quantization) == ("smol", 4, "nf4")
    with pytest.raises(InvalidRequestError) as caught:
        estimates.estimate(make_stranger(world.store), EstimateSpec(model=world.adapter.name, rows=20))
    assert caught.value.code == "model_not_found"
