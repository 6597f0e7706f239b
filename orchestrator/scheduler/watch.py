"""What running attempts report: pulled from all of them in one call, stored attempt by attempt.

Invariants: rows and the cursor past them are written in one transaction, so nothing is lost or doubled over any crash.
A pull renews the supervisor's lease in its memory; the database learns of it with the news, or a few times per lease.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from orchestrator.domain.attempts import Attempt
from orchestrator.domain.errors import AttemptGoneError, LeaseLostError
from orchestrator.domain.jobs import Job
from orchestrator.domain.protocol import OUTCOME_KINDS, Pulled
from orchestrator.domain.states import AttemptState
from orchestrator.runtime.launcher import Launcher, PullRequest
from orchestrator.scheduler.contacts import Contacts
from orchestrator.scheduler.grants import Grants
from orchestrator.scheduler.lead import Leadership
from orchestrator.scheduler.limits import RunLimit, Spent, choose_run_limit
from orchestrator.scheduler.loop import Loop
from orchestrator.scheduler.reports import store_reports
from orchestrator.scheduler.sentences import STOP_SENTENCES, describe_result
from orchestrator.scheduler.spending import read_spent
from orchestrator.scheduler.watching import News, Seen, decide_news
from orchestrator.store import attempts, events, jobs
from orchestrator.store.session import ReadTx, Store

PULL_TIMEOUT_SECONDS = 2.0
"""All attempts wait for the slowest one this long at most; one that does not answer rests for a while."""
WATCHED_STATES = frozenset({AttemptState.LAUNCHING, AttemptState.RUNNING})

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class WatchTimes:
    poll_seconds: float
    attempt_lease_seconds: int
    stop_grace_seconds: int


@dataclass(frozen=True, kw_only=True)
class _Watched:
    attempt: Attempt
    job: Job
    spent: Spent
    limit: RunLimit | None


class Watch:
    def __init__(
        self,
        store: Store,
        launcher: Launcher,
        leadership: Leadership,
        *,
        contacts: Contacts,
        grants: Grants,
        times: WatchTimes,
    ) -> None:
        self._store = store
        self._launcher = launcher
        self._leadership = leadership
        self._contacts = contacts
        self._grants = grants
        self._times = times
        self._spent: dict[str, Spent] = {}

    def loop(self) -> Loop[Sequence[Seen], News]:
        return Loop(
            name="watch",
            interval_seconds=self._times.poll_seconds,
            load=self.load,
            decide=decide_news,
            apply=self.apply,
            subject=lambda news: news.attempt.attempt_id,
            wakes=("publish", "reap", "place"),
        )

    def load(self) -> Sequence[Seen]:
        with self._store.read() as tx:
            now = tx.now()
            mine = [a for a in attempts.list_active(tx) if a.lease_owner == self._leadership.owner]
            watched = [self._look_up(tx, attempt) for attempt in mine if attempt.state in WATCHED_STATES]
        self._contacts.keep([attempt.attempt_id for attempt in mine])
        self._spent = {item.attempt.attempt_id: item.spent for item in watched}
        answers = self._pull([item.attempt for item in watched])
        return [
            Seen(
                attempt=item.attempt,
                job=item.job,
                answer=answer,
                limit=item.limit,
                spent=item.spent,
                now=now,
                lease_seconds=self._times.attempt_lease_seconds,
                grace_seconds=self._times.stop_grace_seconds,
                known_seconds=self._note_outcome(item.attempt, answer),
            )
            for item in watched
            if (answer := answers.get(item.attempt.attempt_id)) is not None
        ]

    def _look_up(self, tx: ReadTx, attempt: Attempt) -> _Watched:
        """The ledger has nothing new of a job while its attempt runs, so it is read once per attempt."""
        job = jobs.get_job(tx, attempt.job_id)
        spent = self._spent.get(attempt.attempt_id) or read_spent(tx, job.job_id)
        limit = choose_run_limit(
            rate=attempt.whole_rate,
            spent=spent,
            max_cost_usd_micros=job.spec.max_cost_usd_micros,
            max_runtime_seconds=job.spec.resources.max_runtime_seconds,
            grace_seconds=self._times.stop_grace_seconds,
        )
        return _Watched(attempt=attempt, job=job, spent=spent, limit=limit)

    def _pull(self, watched: Sequence[Attempt]) -> dict[str, Pulled]:
        requests = [
            PullRequest(
                attempt_id=attempt.attempt_id,
                lease_generation=attempt.lease_generation,
                cursor=attempt.cursor,
                grant=self._grants.renew(attempt),
            )
            for attempt in watched
            if self._contacts.is_rested(attempt.attempt_id) and not self._contacts.is_launching(attempt.attempt_id)
        ]
        answers: dict[str, Pulled] = {}
        pulled = self._launcher.pull(requests, timeout_seconds=PULL_TIMEOUT_SECONDS) if requests else {}
        for request in requests:
            if request.attempt_id not in pulled:
                self._contacts.note_silent(request.attempt_id)
        for attempt_id, answer in pulled.items():
            if isinstance(answer, Pulled):
                self._contacts.note_answer(attempt_id)
                self._grants.note_delivered(attempt_id)
                answers[attempt_id] = answer
            elif isinstance(answer, AttemptGoneError):
                self._contacts.note_gone(attempt_id)
            elif isinstance(answer, LeaseLostError):
                log.info("another control plane watches this attempt", attempt=attempt_id)
            else:
                log.warning("an attempt did not answer", attempt=attempt_id, error=str(answer))
        return answers

    def _note_outcome(self, attempt: Attempt, answer: Pulled) -> float:
        if any(entry.report.kind in OUTCOME_KINDS for entry in answer.entries):
            return self._contacts.note_outcome(attempt.attempt_id)
        return 0.0

    def apply(self, news: News) -> bool:
        """The worker is asked to stop first: a crash before that is written down only asks it again."""
        attempt = news.attempt
        if news.stop is not None:
            self._ask_to_stop(news)
        with self._store.write() as tx:
            store_reports(tx, news, lease_seconds=self._times.attempt_lease_seconds)
            if news.stop is not None:
                reason = news.stop.name
                attempts.request_stop(tx, attempt.attempt_id, attempt.lease_token, reason)
                events.append_event(tx, attempt.job_id, message=STOP_SENTENCES[reason])
            if news.result is not None:
                changes = {"result": news.result, "phase": None}
                attempts.apply_attempt_transition(
                    tx, attempt.attempt_id, attempt.lease_token, AttemptState.VERIFYING, changes=changes
                )
                jobs.record_progress(tx, attempt.job_id, phase="verifying")
                events.append_event(tx, attempt.job_id, message=describe_result(news.result))
            elif news.end is not None:
                assert news.ended_at is not None
                attempts.end_attempt(tx, attempt.attempt_id, attempt.lease_token, news.end, ended_at=news.ended_at)
        if news.end is not None:
            log.info("attempt ended", attempt=attempt.attempt_id, job=attempt.job_id, state=news.end.state.value)
        return news.more

    def _ask_to_stop(self, news: News) -> None:
        assert news.stop is not None
        try:
            self._launcher.stop(
                news.attempt.attempt_id,
                lease_generation=news.attempt.lease_generation,
                stop=news.stop.reason,
                grace_seconds=news.stop.grace_seconds,
            )
        except AttemptGoneError:
            self._contacts.note_gone(news.attempt.attempt_id)
