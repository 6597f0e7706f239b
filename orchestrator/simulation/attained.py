"""Least attained service (Tiresias, NSDI'19), preemptive: who has had least goes first. To compare with.

Jobs move down a level once they have had 1 and 8 device-hours; within a level the earlier comes first. At every event
the jobs are gone through in this order, and whoever fits runs; the others are stopped, and lose a minute when they go
on.
"""

from bisect import bisect_left, insort

from orchestrator.domain.scheduling.actions import Decision, Preempt, PreemptionRule
from orchestrator.domain.scheduling.facts import QueuedJob, RunningJob
from orchestrator.simulation.flat import FlatPool

LEVELS_HOURS = (1.0, 8.0)

Key = tuple[int, float, str]


class LeastAttained(FlatPool):
    """Keeps all jobs in order; a running one changes level when a pass finds that it has had enough."""

    def __init__(self) -> None:
        super().__init__()
        self._order: list[Key] = []
        self._keys: dict[str, Key] = {}
        self._replicas: dict[str, int] = {}

    def put_queued(self, job: QueuedJob) -> None:
        super().put_queued(job)
        self._replicas[job.job_id] = job.replicas
        self._file(job.job_id, job.attained_seconds, job.queued_at)

    def put_running(self, job: RunningJob) -> None:
        super().put_running(job)
        self._replicas[job.job_id] = len(job.holds)
        self._file(job.job_id, job.attained_seconds, job.queued_at)

    def drop_running(self, job_id: str) -> None:
        super().drop_running(job_id)
        key = self._keys.pop(job_id)
        del self._order[bisect_left(self._order, key)]

    def decide(self, now: float) -> Decision:
        for job in self.running.values():
            attained = job.attained_seconds + len(job.holds) * (now - job.started_at)
            if self._keys[job.job_id][0] < len(LEVELS_HOURS):
                self._file(job.job_id, attained, job.queued_at)
        room = len(self.free) + sum(len(job.holds) for job in self.running.values())
        chosen: set[str] = set()
        for _, _, job_id in self._order:
            if room == 0:
                break
            if self._replicas[job_id] <= room:
                room -= self._replicas[job_id]
                chosen.add(job_id)
        return self._carry_out(chosen)

    def _carry_out(self, chosen: set[str]) -> Decision:
        free = list(self.free)
        starts = []
        for _, _, job_id in self._order:
            job = self.queued.get(job_id)
            if job is not None and job_id in chosen and job.replicas <= len(free):
                starts.append(self.start(job, [free.pop() for _ in range(job.replicas)]))
        waits = [job_id for job_id in chosen if job_id in self.queued and len(starts) < len(chosen)]
        started = {start.job_id for start in starts}
        needs_room = any(job_id not in started for job_id in waits)
        preemptions = [
            Preempt(job_id=job_id, rule=PreemptionRule.TURNS, for_job_id=None, grace_seconds=0.0)
            for job_id, job in sorted(self.running.items())
            if needs_room and job_id not in chosen and not job.is_stopping
        ]
        return Decision(starts=tuple(starts), preemptions=tuple(preemptions), pins=())

    def _file(self, job_id: str, attained_seconds: float, queued_at: float) -> None:
        level = sum(attained_seconds >= hours * 3600 for hours in LEVELS_HOURS)
        key = (level, queued_at, job_id)
        before = self._keys.get(job_id)
        if before == key:
            return
        if before is not None:
            del self._order[bisect_left(self._order, before)]
        self._keys[job_id] = key
        insort(self._order, key)
