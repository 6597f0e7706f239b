"""A pool whose decisions are carried out at once: the scheduler's facts, and how they follow from what it decides."""

from dataclasses import dataclass, field, replace
from random import Random

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.actions import Decision, Preempt, Start
from orchestrator.domain.scheduling.decide import Jobs, decide
from orchestrator.domain.scheduling.facts import (
    Footprint,
    Lock,
    Pin,
    QueuedJob,
    Rules,
    RunningJob,
    SharedDevice,
    TeamTerms,
)
from orchestrator.domain.scheduling.planner import Planner

GIB = 1024**3


def device(device_id: str, gib: int = 24, **changes: object) -> SharedDevice:
    """A device `node/number` of the type `g<gib>`."""
    given: dict[str, object] = {
        "device_id": device_id,
        "node_name": device_id.split("/", maxsplit=1)[0],
        "device_type": f"g{gib}",
        "kind": "cuda",
        "usable_bytes": gib * GIB,
    }
    return SharedDevice(**{**given, **changes})  # type: ignore[arg-type]


def footprint(gib: float, seconds: float = 3600, *, cost: int | None = None, name: str = "as asked") -> Footprint:
    """Runs on CUDA devices of any type, for that long."""
    return Footprint(
        name=name,
        bytes_by_kind={"cuda": int(gib * GIB)},
        seconds_by_type={"*": seconds},
        cost_usd_micros={} if cost is None else {"*": cost},
    )


def queued(job_id: str, gib: float = 10, seconds: float = 3600, **changes: object) -> QueuedJob:
    """A normal job of team `a`, user `u`, asked for at moment 0."""
    given: dict[str, object] = {
        "job_id": job_id,
        "team_id": "a",
        "user_id": "u",
        "priority_class": PriorityClass.NORMAL,
        "queued_at": 0.0,
        "footprints": (footprint(gib, seconds),),
    }
    return QueuedJob(**{**given, **changes})  # type: ignore[arg-type]


def team(team_id: str, guarantee: float = 0, **changes: object) -> TeamTerms:
    """A team with a guarantee in reference devices."""
    given: dict[str, object] = {
        "team_id": team_id,
        "name": team_id.upper(),
        "guarantee_micros": int(guarantee * 1_000_000),
    }
    return TeamTerms(**{**given, **changes})  # type: ignore[arg-type]


@dataclass(kw_only=True)
class Pool:
    """`planner` is told of every change; `from_scratch` builds the same decision from the facts alone."""

    rules: Rules = field(default_factory=Rules)
    now: float = 0.0
    devices: dict[str, SharedDevice] = field(default_factory=dict)
    teams: dict[str, TeamTerms] = field(default_factory=dict)
    queued: dict[str, QueuedJob] = field(default_factory=dict)
    running: dict[str, RunningJob] = field(default_factory=dict)
    asked: dict[str, QueuedJob] = field(default_factory=dict)
    locks: tuple[Lock, ...] = ()
    pins: tuple[Pin, ...] = ()
    planner: Planner = field(init=False)

    def __post_init__(self) -> None:
        self.planner = Planner(self.rules)
        self.set_devices(*self.devices.values())
        self.set_teams(*self.teams.values())

    def set_devices(self, *devices: SharedDevice) -> None:
        self.devices.update({each.device_id: each for each in devices})
        self.planner.set_devices(self.devices.values())

    def set_teams(self, *teams: TeamTerms) -> None:
        self.teams.update({each.team_id: each for each in teams})
        self.planner.set_teams(teams)

    def submit(self, *jobs: QueuedJob) -> None:
        for job in jobs:
            self.asked[job.job_id] = self.queued[job.job_id] = job
            self.planner.put_queued(job)

    def cancel(self, job_id: str) -> None:
        self.queued.pop(job_id, None)
        self.planner.drop_queued(job_id)

    def put_running(self, job: RunningJob) -> None:
        self.running[job.job_id] = job
        self.planner.put_running(job)

    def finish(self, job_id: str) -> None:
        """The job ends, well or otherwise, and its bytes are free. One that was asked to leave waits again."""
        job = self.running.pop(job_id)
        self.planner.drop_running(job_id)
        if job.is_stopping:
            again = replace(self.asked[job_id], preempted_at=(*self.asked[job_id].preempted_at, self.now))
            self.submit(again)

    def decide(self) -> Decision:
        """One pass, carried out."""
        decision = self.planner.decide(self.now)
        self.apply(decision)
        return decision

    def from_scratch(self, order: Random | None = None) -> Decision:
        """The decision that the facts alone give, whatever their order."""
        devices, teams = list(self.devices.values()), list(self.teams.values())
        waiting, running = list(self.queued.values()), list(self.running.values())
        for each in (devices, teams, waiting, running) if order else ():
            order.shuffle(each)
        jobs = Jobs(queued=waiting, running=running, locks=self.locks, pins=self.pins)
        return decide(devices, teams, jobs, self.now, rules=self.rules)

    def apply(self, decision: Decision) -> None:
        for start in decision.starts:
            self._start(start)
        for preempt in decision.preemptions:
            self._ask_to_leave(preempt)
        self.locks, self.pins = decision.locks, decision.pins
        self.planner.set_locks(self.locks)
        self.planner.set_pins(self.pins)

    def _start(self, start: Start) -> None:
        job = self.queued.pop(start.job_id)
        self.planner.drop_queued(start.job_id)
        device_type = self.devices[start.holds[0].device_id].device_type
        seconds = start.footprint.seconds_by_type
        self._pay(job, start, device_type)
        self.put_running(
            RunningJob(
                job_id=job.job_id,
                team_id=job.team_id,
                user_id=job.user_id,
                priority_class=start.runs_as,
                holds=start.holds,
                started_at=self.now,
                expected_end_at=self.now + seconds.get(device_type, seconds.get("*", 0.0)),
                saved_at=self.now,
                priority=job.priority,
                queued_at=job.queued_at,
                checkpointable=job.checkpointable,
                preempted_at=job.preempted_at,
                attained_seconds=job.attained_seconds,
                array_id=job.array_id,
                device_types=job.device_types,
            )
        )

    def _pay(self, job: QueuedJob, start: Start, device_type: str) -> None:
        terms = self.teams.get(job.team_id)
        if terms is None or terms.budget_left_usd_micros is None or start.runs_as is not job.priority_class:
            return
        costs = start.footprint.cost_usd_micros
        cost = costs.get(device_type, costs.get("*", 0))
        self.set_teams(replace(terms, budget_left_usd_micros=terms.budget_left_usd_micros - cost))

    def _ask_to_leave(self, preempt: Preempt) -> None:
        job = self.running[preempt.job_id]
        stops_by_at = self.now + preempt.grace_seconds
        self.put_running(replace(job, is_stopping=True, stopping_for=preempt.for_job_id, stops_by_at=stops_by_at))
