"""What `model` of a job means: a base model, or a fine-tuned one, or one of its checkpoints, to go on from."""

import re
from dataclasses import dataclass
from typing import Protocol

from orchestrator.domain.adapter_checks import WEIGHTS
from orchestrator.domain.artifacts import Adapter, Checkpoint, build_model_name
from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.jobs import Job
from orchestrator.domain.parents import FINE_TUNED, Parent, Shape, inherit, split_model_name
from orchestrator.domain.pool import BaseModel
from orchestrator.store import adapters, checkpoints, jobs, teams
from orchestrator.store.session import ReadTx, Store, WriteTx

_END_OF_ID = re.compile(r"[0-9a-f]{8}")


class ResolveModel(Protocol):
    def resolve(self, name: str) -> BaseModel:
        """May ask the object store or the hub, so no transaction is open around it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Found:
    """A parent, and the job that made it."""

    parent: Parent
    job: Job


def resolve_model(
    store: Store, models: ResolveModel, spec: Shape, team_id: str | None
) -> tuple[Shape, BaseModel, Parent | None]:
    """The spec with what it takes from its parent, the base model, and the parent if there is one.

    A name that is not the team's own is looked for as a base model's, so the answer to another team's is the answer to
    an unknown one: InvalidRequestError (model_not_found). Raises the errors of `ResolveModel` and `inherit` too.
    """
    found = None
    if spec.model.startswith(FINE_TUNED):
        with store.read() as tx:
            found = _find_parent(tx, spec.model, team_id)
    if found is None:
        return spec, models.resolve(spec.model), None
    parent, job = found.parent, found.job
    model = models.resolve(job.model_name)
    if job.model_revision not in {None, model.revision}:
        raise InvalidRequestError(
            f"{parent.name} was trained on revision {job.model_revision} of {job.model_name}, which is registered with "
            f"revision {model.revision} now",
            code="base_model_changed",
            param="model",
        )
    assert job.plan is not None, "a job has weights only with a plan"
    is_checkpoint = parent.checkpoint_id is not None
    return inherit(spec, job.plan, model.facts, is_checkpoint=is_checkpoint), model, parent


def hold_parent(tx: WriteTx, parent: Parent) -> None:
    """Keep it from being deleted until the transaction ends; from then on the job that names it does.

    Raises InvalidRequestError (model_not_found) when it went meanwhile.
    """
    is_there = (
        adapters.lock_adapter(tx, parent.adapter_id)
        if parent.adapter_id is not None
        else checkpoints.lock_checkpoint(tx, parent.parent_id)
    )
    if not is_there:
        raise InvalidRequestError(f"{parent.name} was deleted", code="model_not_found", param="model")


def _find_parent(tx: ReadTx, name: str, team_id: str | None) -> Found | None:
    """Of the team's own, or of any team with None."""
    model_name, step = split_model_name(name)
    adapter = adapters.find_adapter_by_name(tx, model_name, team_id)
    if step is None:
        return None if adapter is None else _of_adapter(adapter, jobs.get_job(tx, adapter.job_id))
    job = jobs.get_job(tx, adapter.job_id) if adapter is not None else _find_maker(tx, model_name, team_id)
    checkpoint = None if job is None else checkpoints.find_at_step(tx, job.job_id, step)
    return None if job is None or checkpoint is None else _of_checkpoint(checkpoint, name, job)


def _find_maker(tx: ReadTx, model_name: str, team_id: str | None) -> Job | None:
    """The job whose adapter has, had or would have this name: it ends in the job's last eight characters."""
    end = model_name.rpartition(":")[2]
    if not _END_OF_ID.fullmatch(end):
        return None
    names = {team.team_id: team.name for team in teams.list_teams(tx)}
    for job in jobs.list_ending_in(tx, end, team_id):
        made = job.fine_tuned_model or build_model_name(
            base_model=job.model_name, team_name=names[job.team_id], suffix=job.spec.suffix, job_id=job.job_id
        )
        if made == model_name:
            return job
    return None


def _of_adapter(adapter: Adapter, job: Job) -> Found:
    parent = Parent(
        name=adapter.name,
        job_id=adapter.job_id,
        adapter_id=adapter.adapter_id,
        checkpoint_id=None,
        step=adapter.manifest["step"],
        key_prefix=adapter.key_prefix,
        weights=next(file for file in adapter.files if file.name == WEIGHTS),
    )
    return Found(parent=parent, job=job)


def _of_checkpoint(checkpoint: Checkpoint, name: str, job: Job) -> Found | None:
    weights = next((file for file in checkpoint.files if file.name == WEIGHTS), None)
    if weights is None:
        return None
    parent = Parent(
        name=name,
        job_id=job.job_id,
        adapter_id=None,
        checkpoint_id=checkpoint.checkpoint_id,
        step=checkpoint.step,
        key_prefix=checkpoint.key_prefix,
        weights=weights,
    )
    return Found(parent=parent, job=job)
