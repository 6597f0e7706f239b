"""What the scheduler's decision is made from: the pool, its teams, and the jobs that wait or run.

Moments are seconds since the epoch (POSIX) as floats and durations are seconds, because a simulation handles millions
of them. Shares of the pool are counted in millionths of a reference device ("micros"), as whole numbers, so that sums
do not depend on their order: a job's rate is the sum over its devices of

    price of the device type / price of the reference type  x  reserved bytes / usable bytes.

Nothing here changes during a decision.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.domain.placement import DeviceKind
from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.usage import HALF_LIFE_SECONDS

WHOLE_DEVICE_MICROS = 1_000_000
"""One reference device, all of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedDevice:
    """`held_bytes` belong to attempts that ended and are not proved gone: nobody's, and not free. Those among them that
    made room are in `held_for` too, by the job that they made room for: once free, they are what it has locked.

    `weight_micros` is what all of the device counts for, in micros of the reference device. A device that is not
    `schedulable` (offline, cordoned, draining) keeps what runs on it and takes nothing new; jobs with checkpoints leave
    one that is `draining`. One that is `resting` is there, and cordoned only because nothing ran on its node.
    """

    device_id: str
    node_name: str
    device_type: str
    kind: DeviceKind
    usable_bytes: int
    weight_micros: int = WHOLE_DEVICE_MICROS
    held_bytes: int = 0
    held_for: Mapping[str, int] = field(default_factory=dict)
    schedulable: bool = True
    draining: bool = False
    resting: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TeamTerms:
    """What a team was promised and has used. `weight` divides what is borrowed; `ceiling_micros` None is the pool.

    `usage` is the decayed sum of rate x time of the attempts that ended, in reference-device-seconds, as it stood at
    `usage_at`; what runs is added by the planner, from its start. `budget_left_usd_micros` is what admission may still
    promise in this period, after the holds of what runs; None without a budget. An exhausted team's jobs wait, or run
    as idle with `idle_when_exhausted`.
    """

    team_id: str
    name: str
    guarantee_micros: int = 0
    ceiling_micros: int | None = None
    weight: float = 1.0
    usage: float = 0.0
    usage_at: float = 0.0
    budget_left_usd_micros: int | None = None
    idle_when_exhausted: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """One way to run a job, per replica. `bytes_by_kind` and `seconds_by_type` say where it may run: a kind that is
    absent cannot hold it. `seconds_by_type` is the expected time from start to end by device type, `*` for the rest.

    `cost_usd_micros` is the upper end of what the whole job still costs by device type, `*` for the rest; empty when
    money plays no part. `name` is shown to people: 'as asked', 'micro-batch 2'.
    """

    name: str
    bytes_by_kind: Mapping[str, int]
    seconds_by_type: Mapping[str, float] = field(default_factory=dict)
    cost_usd_micros: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class QueuedJob:
    """`footprints` in the order of preference. `queued_at` is the job's seniority and survives preemption; `rank`
    orders a user's own jobs (earlier first) and is `queued_at` unless somebody moved the job.

    `replicas` start all or none, on distinct devices, each with the footprint's bytes; on one node with `same_node`.
    `array_limit` is how many jobs of the same array may run at once, None without such a limit.
    `preempted_at` are the moments at which it was preempted before.
    """

    job_id: str
    team_id: str
    user_id: str
    priority_class: PriorityClass
    queued_at: float
    footprints: tuple[Footprint, ...]
    priority: int = 0
    rank: float | None = None
    replicas: int = 1
    same_node: bool = True
    exclusive: bool = False
    device_types: frozenset[str] | None = None
    warm_nodes: frozenset[str] = frozenset()
    checkpointable: bool = True
    is_held: bool = False
    not_before_at: float = 0.0
    array_id: str | None = None
    array_limit: int | None = None
    preempted_at: tuple[float, ...] = ()
    attained_seconds: float = 0.0
    """Reference-device-seconds that the job has run so far, over all its attempts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """Bytes of one device that a running job has."""

    device_id: str
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningJob:
    """`expected_end_at` is the current estimate. `saved_at` is the moment of the newest checkpoint (the start without
    one): what came after it would be done again. `stopping_for` names the job it makes room for once it was asked to
    stop; `stops_by_at` is when its grace ends.
    """

    job_id: str
    team_id: str
    user_id: str
    priority_class: PriorityClass
    holds: tuple[Hold, ...]
    started_at: float
    expected_end_at: float
    saved_at: float
    priority: int = 0
    queued_at: float = 0.0
    checkpointable: bool = True
    checkpoint_seconds: float = 0.0
    preempted_at: tuple[float, ...] = ()
    attained_seconds: float = 0.0
    """Reference-device-seconds of its earlier attempts, without this one."""
    is_stopping: bool = False
    stopping_for: str | None = None
    stops_by_at: float | None = None
    array_id: str | None = None
    device_types: frozenset[str] | None = None
    """Where it may go on after it was moved; None for any type."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """Bytes of a device that only `job_id` may take, until `until_at`. It covers what the job will need there, so bytes
    that its victims still occupy count once: the lock takes from what is free only what they don't cover."""

    device_id: str
    bytes: int
    job_id: str
    until_at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Pin:
    """A long waiter's claim on one device, expected to be free for it at `at`. A later job may use the device only if
    it ends before, or can be preempted."""

    device_id: str
    job_id: str
    bytes: int
    at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """The numbers of the model, with their defaults (scheduling study, 3.7). All times in seconds."""

    half_life_seconds: float = HALF_LIFE_SECONDS
    start_charge_seconds: float = 3_600.0
    pin_after_seconds: float = 600.0
    most_holders: int = 4
    preemption: bool = True
    borrower_fairness: bool = False
    moves: bool = True
    least_run_seconds: float = 600.0
    least_grace_seconds: float = 60.0
    lock_seconds: float = 120.0
    most_preemptions: int = 3
    preemption_window_seconds: float = 86_400.0
    budget_overdraft: float = 0.1
    turns_hours: tuple[float, ...] = ()
    """Levels of attained reference-device-hours, ascending, (1, 8) for instance. A job of a lower level goes before one
    of a higher level among borrowers, and may take the place of one with checkpoints. Empty: no turns."""
    turns_spare_larger: bool = False
    """With turns: nobody is stopped for a job that counts for less of the pool than it does."""
    large_replicas: int = 8
    """With turns: a job of so many devices is large. `large_wait_seconds` of waiting puts it before the last level, and
    the larger of `large_patience_seconds` and `large_backlog_share` of the pool's backlog right after the first."""
    large_wait_seconds: float = 7_200.0
    large_patience_seconds: float = 14_400.0
    large_backlog_share: float = 0.10
    placement: str = "default"
