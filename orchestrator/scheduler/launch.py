"""How an assigned attempt is started, once.

Invariants: the move to launching, which starts the bill, is written before the cluster is asked. Only the process that
wrote it asks, again and again if it must, always for the same generation; after a crash in between nobody asks any
more, and the attempt is proved gone and retried under a new name.
"""

from collections.abc import Sequence
from datetime import datetime

import structlog

from orchestrator.domain import outcomes
from orchestrator.domain.artifacts import Checkpoint
from orchestrator.domain.attempts import Attempt
from orchestrator.domain.errors import InvalidRequestError, LeaseLostError, NotFoundError
from orchestrator.domain.failures import Failure, FailureKind
from orchestrator.domain.ids import new_checkpoint_id
from orchestrator.domain.outcomes import AttemptEnd
from orchestrator.domain.states import FINAL_ATTEMPT_STATES, AttemptState
from orchestrator.objects.client import Objects
from orchestrator.runtime.launcher import Launch, Launcher
from orchestrator.scheduler.contacts import Contacts
from orchestrator.scheduler.lead import Leadership
from orchestrator.scheduler.loop import Loop
from orchestrator.scheduler.orders import Orders, read_inputs
from orchestrator.scheduler.resume import FoundCheckpoint, find_newest_checkpoint
from orchestrator.store import attempts, checkpoints, events
from orchestrator.store.session import Store

PARALLEL_LAUNCHES = 4

log = structlog.get_logger(__name__)


class Launching:
    """`orders` builds the message; `contacts` keeps a launch under way from being taken for a lost one."""

    def __init__(
        self,
        store: Store,
        objects: Objects,
        launcher: Launcher,
        *,
        leadership: Leadership,
        orders: Orders,
        contacts: Contacts,
        stop_grace_seconds: int,
    ) -> None:
        self._store = store
        self._objects = objects
        self._launcher = launcher
        self._leadership = leadership
        self._orders = orders
        self._contacts = contacts
        self._stop_grace_seconds = stop_grace_seconds
        self._unanswered: dict[str, Launch] = {}

    def loop(self, *, interval_seconds: float) -> Loop[Sequence[Attempt], Attempt]:
        return Loop(
            name="launch",
            interval_seconds=interval_seconds,
            load=self.load,
            decide=lambda waiting: waiting,
            apply=self.apply,
            subject=lambda attempt: attempt.attempt_id,
            parallel=PARALLEL_LAUNCHES,
            wakes=("watch",),
        )

    def load(self) -> Sequence[Attempt]:
        """Assigned attempts, and those whose launch we asked for without an answer."""
        # Taken before the rows are read: an order that is newer than the rows must not be dropped for them.
        unanswered = dict(self._unanswered)
        with self._store.read() as tx:
            mine = [a for a in attempts.list_active(tx) if a.lease_owner == self._leadership.owner]
        launching = {a.attempt_id: a for a in mine if a.state is AttemptState.LAUNCHING}
        for attempt_id, launch in unanswered.items():
            attempt = launching.get(attempt_id)
            if attempt is None or attempt.lease_generation != launch.lease_generation:
                self._drop(attempt_id)
        return [a for a in mine if a.state is AttemptState.ASSIGNED or a.attempt_id in self._unanswered]

    def apply(self, attempt: Attempt) -> None:
        launch = self._unanswered.get(attempt.attempt_id) or self._prepare(attempt)
        if launch is None:
            return
        if not self._leadership.is_leading():
            raise LeaseLostError("Another control plane may lead now.")
        self._launcher.launch(launch)
        self._drop(attempt.attempt_id)
        log.info("attempt launched", attempt=attempt.attempt_id, job=attempt.job_id, node=attempt.node_name)
        with self._store.read() as tx:
            ended_meanwhile = attempts.get_attempt(tx, attempt.attempt_id).state in FINAL_ATTEMPT_STATES
        if ended_meanwhile:
            self._launcher.release(attempt.attempt_id)

    def _drop(self, attempt_id: str) -> None:
        self._unanswered.pop(attempt_id, None)
        self._contacts.note_launched(attempt_id)

    def _prepare(self, attempt: Attempt) -> Launch | None:
        """Build the message, then write down that the cluster is asked. None when there is nothing to launch."""
        try:
            with self._store.read() as tx:
                inputs = read_inputs(tx, attempt, grace_seconds=self._stop_grace_seconds)
            if inputs.job.cancel_requested_at is not None:
                self._give_up(attempt, outcomes.cancelled())
                return None
            if inputs.job.pause_requested_at is not None or attempt.preempt_rule is not None:
                self._give_up(attempt, outcomes.interrupted())
                return None
            found = find_newest_checkpoint(self._objects, inputs.earlier)
            spec = self._orders.build(inputs, found)
        except (NotFoundError, InvalidRequestError) as error:
            self._give_up(attempt, outcomes.interrupted(_missing_input(error)))
            return None
        launch = Launch(spec=spec, node_name=attempt.node_name, lease_generation=attempt.lease_generation)
        self._contacts.note_launching(attempt.attempt_id)
        try:
            self._write_down(attempt, found)
        except BaseException:
            self._contacts.note_launched(attempt.attempt_id)
            raise
        self._unanswered[attempt.attempt_id] = launch
        return launch

    def _write_down(self, attempt: Attempt, found: FoundCheckpoint | None) -> None:
        with self._store.write() as tx:
            attempts.apply_attempt_transition(
                tx,
                attempt.attempt_id,
                attempt.lease_token,
                AttemptState.LAUNCHING,
                changes={"resumed_from_step": found.manifest.step if found else None},
            )
            if found is not None:
                checkpoints.insert_checkpoint(tx, _row_of(found, tx.now()))
                step = found.manifest.step
                message = f"Attempt {attempt.number} goes on from the checkpoint at step {step}."
                events.append_event(tx, attempt.job_id, message=message, data={"step": step})

    def _give_up(self, attempt: Attempt, end: AttemptEnd) -> None:
        """Nothing was started, so the device is free at once."""
        with self._store.write() as tx:
            attempts.end_attempt(tx, attempt.attempt_id, attempt.lease_token, end, ended_at=tx.now())
            attempts.release_attempt(tx, attempt.attempt_id, attempt.lease_token)


def _missing_input(error: NotFoundError | InvalidRequestError) -> Failure:
    is_model = error.param == "model" or error.code.startswith("model")
    return Failure(kind=FailureKind.MODEL if is_model else FailureKind.USER, message=error.message)


def _row_of(found: FoundCheckpoint, now: datetime) -> Checkpoint:
    """A checkpoint whose report was lost gets its row now; a known one keeps the row that it has."""
    return Checkpoint(
        checkpoint_id=new_checkpoint_id(),
        job_id=found.attempt.job_id,
        attempt_id=found.attempt.attempt_id,
        attempt_number=found.attempt.number,
        step=found.manifest.step,
        key_prefix=found.key_prefix,
        files=found.manifest.files,
        metrics=found.manifest.metrics,
        created_at=now,
    )
