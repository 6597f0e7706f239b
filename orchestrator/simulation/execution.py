"""One job on its way through a simulation: how far it has come, and the facts that the scheduler is told of it."""

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.domain.scheduling.actions import Preempt, Start
from orchestrator.domain.scheduling.facts import QueuedJob, RunningJob, SharedDevice
from orchestrator.simulation.records import Interval, JobRecord
from orchestrator.simulation.workload import ANY_TYPE, SimulatedJob, Timing

_LEAST_LEFT = 0.05
"""A job that has outlived its estimate is said to have this share of the estimate left."""


class Execution:
    """`done` is the share of the work (0..1) that is behind it for good or in memory, `saved` what a checkpoint holds.

    `token` and `checkpoint_token` tell events of this attempt from those of earlier ones.
    """

    def __init__(self, job: SimulatedJob, timing: Timing) -> None:
        self._job = job
        self._timing = timing
        self._done = 0.0
        self._saved = 0.0
        self._attained = job.queued.attained_seconds
        self._preempted_at = job.queued.preempted_at
        self._overhead = 0.0
        self._full_seconds = 0.0
        self._told_seconds = 0.0
        self._counted_at = 0.0
        self._running: RunningJob | None = None
        self.ends_at = 0.0
        self.token = 0
        self.checkpoint_token = 0
        self.record = JobRecord(
            job_id=job.queued.job_id,
            team_id=job.queued.team_id,
            replicas=job.queued.replicas,
            arrived_at=job.queued.queued_at,
            needs_micros=0,
        )

    @property
    def running(self) -> RunningJob:
        assert self._running is not None
        return self._running

    def as_queued(self) -> QueuedJob:
        """The facts of the job as it waits: what is left of it by its estimate, and what it was given so far."""
        job = self._job.queued
        if not self.record.intervals:
            return job
        left = max(1.0 - self._done, _LEAST_LEFT)
        footprints = tuple(
            replace(each, seconds_by_type={t: s * left for t, s in each.seconds_by_type.items()})
            for each in job.footprints
        )
        return replace(job, footprints=footprints, attained_seconds=self._attained, preempted_at=self._preempted_at)

    def start(self, start: Start, devices: Mapping[str, SharedDevice], now: float) -> None:
        """It has its devices from now on."""
        job = self.as_queued()
        device_type = devices[start.holds[0].device_id].device_type
        told = start.footprint.seconds_by_type
        self._overhead = self._timing.resume_seconds if self.record.intervals else 0.0
        left = told.get(device_type, told.get(ANY_TYPE, 0.0))
        self._told_seconds = left / max(1.0 - self._done, _LEAST_LEFT)
        self._begin(self._job.seconds_on(device_type, start.footprint.name), start.rate_micros, now)
        self._running = RunningJob(
            job_id=job.job_id,
            team_id=job.team_id,
            user_id=job.user_id,
            priority_class=start.runs_as,
            holds=start.holds,
            started_at=now,
            expected_end_at=now + self._overhead + left,
            saved_at=now,
            priority=job.priority,
            queued_at=job.queued_at,
            checkpointable=job.checkpointable,
            checkpoint_seconds=self._timing.stop_seconds / 2,
            preempted_at=job.preempted_at,
            attained_seconds=self._attained,
            array_id=job.array_id,
            device_types=job.device_types,
        )
        ids = tuple(hold.device_id for hold in start.holds)
        self.record.intervals.append(
            Interval(started_at=now, ended_at=None, rate_micros=start.rate_micros, device_ids=ids)
        )

    def take_over(self, running: RunningJob, devices: Mapping[str, SharedDevice], now: float) -> None:
        """It runs already, and its true duration is what is left of it."""
        first = running.holds[0]
        self._running = running
        self._attained, self._preempted_at = running.attained_seconds, running.preempted_at
        rate = sum(
            devices[hold.device_id].weight_micros * hold.bytes // max(devices[hold.device_id].usable_bytes, 1)
            for hold in running.holds
            if hold.device_id in devices
        )
        device_type = devices[first.device_id].device_type if first.device_id in devices else ANY_TYPE
        self._begin(self._job.seconds_on(device_type, ""), rate, now)
        ids = tuple(hold.device_id for hold in running.holds)
        self.record.intervals.append(Interval(started_at=now, ended_at=None, rate_micros=rate, device_ids=ids))

    def _begin(self, full_seconds: float, rate_micros: int, now: float) -> None:
        self._full_seconds = max(full_seconds, 1e-3)
        self._counted_at = now
        self.record.needs_micros = rate_micros
        self.ends_at = now + self._overhead + (1.0 - self._done) * self._full_seconds

    def save(self, now: float) -> None:
        """A checkpoint holds everything up to now."""
        self._advance(now)
        self._saved = self._done
        self._running = replace(self.as_running(now), saved_at=now)

    def as_running(self, now: float) -> RunningJob:
        """The facts of the job as it runs. What is left of it is known as well as all of it was: by its progress."""
        if self._told_seconds == 0.0 or self.running.is_stopping:
            return self.running
        self._advance(now)
        left = max(1.0 - self._done, 0.0) * self._told_seconds
        return replace(self.running, expected_end_at=now + self._overhead + left)

    def ask_to_stop(self, preemption: Preempt, now: float) -> None:
        """It is to make room."""
        self.record.preemptions.append(preemption.rule)
        self.record.asked_at.append(now)
        self._preempted_at = (*self._preempted_at, now)
        self._running = replace(
            self.running,
            is_stopping=True,
            stopping_for=preemption.for_job_id,
            stops_by_at=now + preemption.grace_seconds,
            preempted_at=self._preempted_at,
        )

    def leave(self, now: float, *, keeps_all: bool) -> None:
        """It gives its devices back and waits again: with all that it did, or with its newest checkpoint only."""
        self._advance(now)
        back = self._done - (self._done if keeps_all else self._saved)
        self._done -= back
        self._saved = self._done
        again = back * self._full_seconds + self._timing.resume_seconds
        self.record.lost_seconds += again
        self.record.lost_device_seconds += again * self.record.intervals[-1].rate_micros / 1e6
        self._end_interval(now)

    def finish(self, now: float) -> None:
        """All of it is done."""
        self._end_interval(now)
        self.record.ended_at = now

    def _advance(self, now: float) -> None:
        gone = now - self._counted_at
        started = min(gone, self._overhead)
        self._overhead -= started
        self._done = min(1.0, self._done + (gone - started) / self._full_seconds)
        self._counted_at = now

    def _end_interval(self, now: float) -> None:
        interval = self.record.intervals[-1]
        interval.ended_at = now
        self._attained += (now - interval.started_at) * interval.rate_micros / 1e6
        self._running = None
