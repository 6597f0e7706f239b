"""A pool on a virtual clock: events go in, the scheduler decides after each moment, and its decisions are carried out.

The decider is the production `Planner`, or a baseline with the same methods. Events at the same moment are one batch,
in a fixed order, so that a run with the same input is the same to the last tie.
"""

import heapq
from collections.abc import Iterable
from dataclasses import replace
from enum import IntEnum
from math import inf
from time import perf_counter
from typing import Protocol

from orchestrator.domain.scheduling.actions import Decision, Preempt, Start
from orchestrator.domain.scheduling.decide import Jobs
from orchestrator.domain.scheduling.facts import Lock, Pin, QueuedJob, RunningJob, SharedDevice, TeamTerms
from orchestrator.domain.usage import HALF_LIFE_SECONDS
from orchestrator.simulation.execution import Execution
from orchestrator.simulation.records import Records
from orchestrator.simulation.usage import TeamUsage
from orchestrator.simulation.workload import NodeLoss, SimulatedJob, Timing


class Decider(Protocol):
    """The part of the production `Planner` that a simulation drives."""

    def set_devices(self, devices: Iterable[SharedDevice]) -> None: ...
    def set_teams(self, terms: Iterable[TeamTerms]) -> None: ...
    def put_queued(self, job: QueuedJob) -> None: ...
    def drop_queued(self, job_id: str) -> None: ...
    def put_running(self, job: RunningJob) -> None: ...
    def drop_running(self, job_id: str) -> None: ...
    def set_locks(self, locks: Iterable[Lock]) -> None: ...
    def set_pins(self, pins: Iterable[Pin]) -> None: ...
    def decide(self, now: float) -> Decision: ...


class Kind(IntEnum):
    """Events, in their order within one moment."""

    END = 0
    STOPPED = 1
    CHECKPOINT = 2
    NODE_DOWN = 3
    NODE_UP = 4
    ARRIVE = 5
    TICK = 6


class Simulation:
    """Use: `add` jobs and losses, then `run`."""

    def __init__(
        self,
        decider: Decider,
        devices: Iterable[SharedDevice],
        teams: Iterable[TeamTerms],
        *,
        timing: Timing | None = None,
        half_life_seconds: float = HALF_LIFE_SECONDS,
        starts_at: float = 0.0,
    ) -> None:
        self.now = starts_at
        self.records = Records()
        self._decider = decider
        self._timing = timing or Timing()
        self._devices = {device.device_id: device for device in devices}
        self._usage = TeamUsage(teams, half_life_seconds)
        self._heap: list[tuple[float, Kind, int, str]] = []
        self._sequence = 0
        self._arriving: dict[str, SimulatedJob] = {}
        self._waiting: dict[str, Execution] = {}
        self._running: dict[str, Execution] = {}
        self._has_tick = False
        self._moment: tuple[tuple[Pin, ...], tuple[Lock, ...]] = ((), ())
        decider.set_devices(self._devices.values())
        decider.set_teams(self._usage.terms())

    def add(self, jobs: Iterable[SimulatedJob], losses: Iterable[NodeLoss] = ()) -> None:
        """Jobs that arrive later, and nodes that go away."""
        for job in jobs:
            self._arriving[job.queued.job_id] = job
            self._push(job.queued.queued_at, Kind.ARRIVE, job.queued.job_id)
        for loss in losses:
            self._push(loss.down_at, Kind.NODE_DOWN, loss.node_name)
            self._push(loss.up_at, Kind.NODE_UP, loss.node_name)

    def add_waiting(self, job: SimulatedJob) -> None:
        """A job that waits already."""
        self._arrive(job)
        self._push(self.now, Kind.TICK, "")

    def add_running(self, job: SimulatedJob, running: RunningJob) -> None:
        """A job that runs already; its true duration counts from now."""
        execution = Execution(job, self._timing)
        self.records.jobs[running.job_id] = execution.record
        execution.take_over(running, self._devices, self.now)
        self._running[running.job_id] = execution
        self._decider.put_running(running)
        self._watch(execution)
        if running.is_stopping:
            self._push(max(self.now, running.stops_by_at or self.now), Kind.STOPPED, running.job_id)

    def take_over(self, locks: Iterable[Lock], pins: Iterable[Pin]) -> None:
        """What was promised before the simulation began."""
        self._moment = (tuple(pins), tuple(locks))
        self._decider.set_locks(self._moment[1])
        self._decider.set_pins(self._moment[0])

    def facts(self) -> tuple[tuple[SharedDevice, ...], tuple[TeamTerms, ...], Jobs]:
        """Pool, teams and jobs as the scheduler sees them now."""
        jobs = Jobs(
            queued=tuple(each.as_queued() for each in self._waiting.values()),
            running=tuple(each.as_running(self.now) for each in self._running.values()),
            locks=self._moment[1],
            pins=self._moment[0],
        )
        return tuple(self._devices.values()), tuple(self._usage.terms()), jobs

    def run(self, *, until: float = inf, most_passes: int | None = None) -> Records:
        """Go on until nothing is left to happen, the moment `until`, or so many decisions."""
        while self._heap and self._heap[0][0] <= until:
            if most_passes is not None and self.records.passes >= most_passes:
                break
            self.now = self._heap[0][0]
            if self._take_batch():
                self._decide()
        self.records.ended_at = self.now
        return self.records

    def run_until_started(self, job_ids: Iterable[str], *, most_passes: int) -> Records:
        """Go on until each of these jobs has started once, or so many decisions were made."""
        left = set(job_ids)
        while left and self._heap and self.records.passes < most_passes:
            self.run(until=self._heap[0][0])
            left = {job_id for job_id in left if not self.records.jobs[job_id].intervals}
        return self.records

    def _push(self, at: float, kind: Kind, subject: str) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (at, kind, self._sequence, subject))

    def _take_batch(self) -> bool:
        """Let everything of this moment happen. Whether the scheduler has to be asked."""
        matters = False
        while self._heap and self._heap[0][0] <= self.now:
            _, kind, sequence, subject = heapq.heappop(self._heap)
            matters |= self._happen(kind, sequence, subject)
        return matters

    def _happen(self, kind: Kind, sequence: int, subject: str) -> bool:
        if kind is Kind.ARRIVE:
            self._arrive(self._arriving.pop(subject))
            return True
        if kind is Kind.TICK:
            self._has_tick = False
            return bool(self._waiting)
        if kind in {Kind.NODE_DOWN, Kind.NODE_UP}:
            self._set_node(subject, is_up=kind is Kind.NODE_UP)
            return True
        execution = self._running.get(subject)
        return execution is not None and self._go_on(execution, kind, sequence)

    def _go_on(self, execution: Execution, kind: Kind, sequence: int) -> bool:
        """An event of a job that runs. Those of an earlier attempt of it come to nothing."""
        if kind is Kind.CHECKPOINT:
            if execution.checkpoint_token == sequence:
                self._checkpoint(execution)
            return False
        if kind is Kind.END:
            if execution.token != sequence:
                return False
            self._release(execution)
            execution.finish(self.now)
            return True
        if not execution.running.is_stopping:
            return False
        self._release(execution)
        execution.leave(self.now, keeps_all=True)
        self._queue(execution)
        return True

    def _arrive(self, job: SimulatedJob) -> None:
        execution = Execution(job, self._timing)
        self.records.jobs[job.queued.job_id] = execution.record
        self._queue(execution)

    def _queue(self, execution: Execution) -> None:
        queued = execution.as_queued()
        self._waiting[queued.job_id] = execution
        self._decider.put_queued(queued)

    def _release(self, execution: Execution) -> None:
        running = execution.running
        del self._running[running.job_id]
        self._decider.drop_running(running.job_id)
        interval = execution.record.intervals[-1]
        self._usage.book(running.team_id, interval.rate_micros, running.started_at, self.now)
        self._decider.set_teams([self._usage.of(running.team_id)])

    def _checkpoint(self, execution: Execution) -> None:
        execution.save(self.now)
        self._decider.put_running(execution.running)
        self._watch_checkpoint(execution)

    def _set_node(self, name: str, *, is_up: bool) -> None:
        for device in [each for each in self._devices.values() if each.node_name == name]:
            self._devices[device.device_id] = replace(device, schedulable=is_up)
        self._decider.set_devices(self._devices.values())
        if is_up:
            return
        gone = {device.device_id for device in self._devices.values() if device.node_name == name}
        for execution in sorted(self._running.values(), key=lambda each: each.running.job_id):
            if any(hold.device_id in gone for hold in execution.running.holds):
                self._release(execution)
                execution.leave(self.now, keeps_all=False)
                self._queue(execution)

    def _decide(self) -> None:
        began = perf_counter()
        decision = self._decider.decide(self.now)
        self.records.decision_seconds += perf_counter() - began
        self.records.passes += 1
        for start in decision.starts:
            self._start(start)
        for preemption in decision.preemptions:
            self._ask_to_stop(preemption)
        if (decision.pins, decision.locks) != self._moment:
            self._moment = (decision.pins, decision.locks)
            self._decider.set_pins(decision.pins)
            self._decider.set_locks(decision.locks)
        if self._waiting and not self._has_tick:
            self._has_tick = True
            self._push(self.now + self._timing.tick_seconds, Kind.TICK, "")

    def _start(self, start: Start) -> None:
        execution = self._waiting.pop(start.job_id)
        execution.start(start, self._devices, self.now)
        self._running[start.job_id] = execution
        self._decider.drop_queued(start.job_id)
        self._decider.put_running(execution.running)
        self._watch(execution)

    def _watch(self, execution: Execution) -> None:
        self._push(execution.ends_at, Kind.END, execution.record.job_id)
        execution.token = self._sequence
        self._watch_checkpoint(execution)

    def _watch_checkpoint(self, execution: Execution) -> None:
        at = self.now + self._timing.checkpoint_seconds
        if at < execution.ends_at and execution.running.checkpointable:
            self._push(at, Kind.CHECKPOINT, execution.record.job_id)
            execution.checkpoint_token = self._sequence

    def _ask_to_stop(self, preemption: Preempt) -> None:
        execution = self._running[preemption.job_id]
        execution.ask_to_stop(preemption, self.now)
        self._decider.put_running(execution.running)
        after = min(preemption.grace_seconds, self._timing.stop_seconds)
        self._push(self.now + after, Kind.STOPPED, preemption.job_id)
