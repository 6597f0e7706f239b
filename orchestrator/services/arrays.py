"""Arrays of jobs: submitted together or not at all, shown side by side, limited and cancelled as one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.domain.arrays import JobArray, Variant, find_differences
from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.ids import new_array_id, new_job_id
from orchestrator.domain.jobs import Job
from orchestrator.domain.pages import Page
from orchestrator.domain.states import FINAL_JOB_STATES, JobState
from orchestrator.domain.teams import Caller
from orchestrator.services import idempotency
from orchestrator.services.idempotency import Repeat
from orchestrator.services.jobs import cancel_job
from orchestrator.services.submissions import Prepared, Submissions, choose_team
from orchestrator.services.teams import require_member
from orchestrator.store import arrays, audit, metrics, teams
from orchestrator.store.session import ReadTx, Store, WriteTx

SCOPE = "POST /v1/fine_tuning/job_arrays"
EVALUATION_LOSS = "eval_loss"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What holds for an array as a whole. `name` is for people; `max_parallel` is None for no limit."""

    name: str | None = None
    max_parallel: int | None = None
    team: str | None = None


@dataclass(frozen=True, kw_only=True)
class Member:
    """`varied` has the fields in which the array's jobs differ, by their path with dots; `best_eval_loss` is the least
    that the job's kept metrics have so far."""

    job: Job
    varied: Mapping[str, Any]
    best_eval_loss: float | None


@dataclass(frozen=True, kw_only=True)
class ArrayView:
    array: JobArray
    team_name: str
    counts: Mapping[JobState, int]
    """Only of states that a job is in."""


@dataclass(frozen=True, kw_only=True)
class ArrayDetail(ArrayView):
    members: tuple[Member, ...]
    """In the order in which they were submitted."""


@dataclass(frozen=True)
class Arrays:
    store: Store
    submissions: Submissions

    def create(self, caller: Caller, variants: Sequence[Variant], terms: Terms, *, repeat: Repeat) -> ArrayDetail:
        """Accept all jobs or none. The same request again gives the first one's array.

        Raises what a submission raises (see `Submissions`), with `param` naming the value at fault.
        """
        require_member(caller)
        if (first := self._find_first(caller, repeat)) is not None:
            return first
        prepared = [self._prepare(caller, variant, terms) for variant in variants]
        with self.store.write() as tx:
            array_id = new_array_id()
            first_id = idempotency.claim(tx, caller, scope=SCOPE, repeat=repeat, object_id=array_id)
            if first_id is None:
                self._insert(tx, caller, list(zip(variants, prepared, strict=True)), terms, array_id=array_id)
            return _describe(tx, caller, first_id or array_id)

    def _find_first(self, caller: Caller, repeat: Repeat) -> ArrayDetail | None:
        if not repeat.may_be_one:
            return None
        with self.store.read() as tx:
            array_id = idempotency.find_first(tx, caller, scope=SCOPE, repeat=repeat)
            return None if array_id is None else _describe(tx, caller, array_id)

    def _prepare(self, caller: Caller, variant: Variant, terms: Terms) -> Prepared:
        try:
            return self.submissions.prepare(caller, variant.spec, team=terms.team)
        except InvalidRequestError as error:
            raise variant.variation.locate(error) from error

    def _insert(
        self, tx: WriteTx, caller: Caller, prepared: list[tuple[Variant, Prepared]], terms: Terms, *, array_id: str
    ) -> None:
        team_id, spec = choose_team(tx, caller, terms.team), prepared[0][0].spec
        array = JobArray(
            array_id=array_id,
            team_id=team_id,
            created_by=caller.key_id,
            name=terms.name or spec.suffix or spec.model,
            max_parallel=terms.max_parallel,
            created_at=tx.now(),
        )
        arrays.insert_array(tx, array)
        for variant, ready in prepared:
            try:
                self.submissions.insert(tx, caller, ready, job_id=new_job_id(), team_id=team_id, array_id=array_id)
            except InvalidRequestError as error:
                raise variant.variation.locate(error) from error
        said = {"name": array.name, "jobs": len(prepared), "max_parallel": array.max_parallel}
        audit.append_entry(tx, caller, "array.create", array_id, team_id=team_id, data=said)

    def get(self, caller: Caller, array_id: str) -> ArrayDetail:
        with self.store.read() as tx:
            return _describe(tx, caller, array_id)

    def list(self, caller: Caller, *, limit: int = 20, after: str | None = None) -> Page[ArrayView]:
        """Newest first."""
        with self.store.read() as tx:
            page = arrays.list_arrays(tx, caller.visible_team_id, limit=limit, after=after)
            counts = arrays.count_states(tx, [array.array_id for array in page.items])
            names = {team.team_id: team.name for team in teams.list_teams(tx)}
        views = (
            ArrayView(array=array, team_name=names[array.team_id], counts=counts[array.array_id])
            for array in page.items
        )
        return Page(items=tuple(views), has_more=page.has_more)

    def set_max_parallel(self, caller: Caller, array_id: str, max_parallel: int | None) -> ArrayDetail:
        """How many of its jobs may run at once from now on; those that run go on. Safe to repeat."""
        require_member(caller)
        with self.store.write() as tx:
            array = arrays.get_array(tx, array_id, caller.visible_team_id)
            if array.max_parallel != max_parallel:
                arrays.record_max_parallel(tx, array_id, max_parallel)
                said = {"max_parallel": {"from": array.max_parallel, "to": max_parallel}}
                audit.append_entry(tx, caller, "array.change", array_id, team_id=array.team_id, data=said)
            return _describe(tx, caller, array_id)

    def cancel(self, caller: Caller, array_id: str) -> ArrayDetail:
        """Cancel every job that has not ended, as `Jobs.cancel` does; the others stay as they are. Safe to repeat."""
        require_member(caller)
        with self.store.write() as tx:
            array = arrays.get_array(tx, array_id, caller.visible_team_id)
            unfinished = [job for job in arrays.lock_members(tx, array_id) if job.state not in FINAL_JOB_STATES]
            for job in unfinished:
                cancel_job(tx, job)
            if any(job.cancel_requested_at is None for job in unfinished):
                said = {"jobs": len(unfinished)}
                audit.append_entry(tx, caller, "array.cancel", array_id, team_id=array.team_id, data=said)
            return _describe(tx, caller, array_id)


def _describe(tx: ReadTx, caller: Caller, array_id: str) -> ArrayDetail:
    array = arrays.get_array(tx, array_id, caller.visible_team_id)
    members = arrays.list_members(tx, array_id)
    best = metrics.find_least(tx, [job.job_id for job in members if job.attempts], EVALUATION_LOSS)
    varied = find_differences([job.spec for job in members])
    return ArrayDetail(
        array=array,
        team_name=teams.get_team(tx, array.team_id).name,
        counts=arrays.count_states(tx, [array_id])[array_id],
        members=tuple(
            Member(job=job, varied=differs, best_eval_loss=best.get(job.job_id))
            for job, differs in zip(members, varied, strict=True)
        ),
    )
