"""What the scheduler decides. Every action names its reason, because somebody waits or loses work for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.facts import Footprint, Hold, Lock, Pin


class WaitCode(StrEnum):
    """Why a job waits: stable, shown to people and programs. A job has exactly one, the first that holds it back."""

    HELD = "held"
    NOT_BEFORE = "not_before"
    ARRAY_LIMIT = "array_limit"
    NO_DEVICE = "no_device_fits"
    OVER_CEILING = "over_ceiling"
    OVER_BUDGET = "over_budget"
    PREEMPTING = "waits_for_preempted"
    PINNED = "waits_for_pinned_devices"
    BEHIND = "behind_other_jobs"
    NO_ROOM = "waits_for_room"


class PreemptionRule(StrEnum):
    RECLAIM = "reclaim"
    CLASS = "class"
    FAIRNESS = "fairness"
    TURNS = "turns"
    MOVE = "move"
    DRAIN = "drain"


PREEMPTION_REASONS: Mapping[PreemptionRule, str] = {
    PreemptionRule.RECLAIM: "a team takes back what it was guaranteed, and this job was borrowing",
    PreemptionRule.CLASS: "a job of a higher class needs the room",
    PreemptionRule.FAIRNESS: "a team that borrows less is due its share",
    PreemptionRule.TURNS: "it has run for its turn, and another job has had less so far",
    PreemptionRule.MOVE: "there is room for it elsewhere, and a larger job has waited long for this device",
    PreemptionRule.DRAIN: "its node is being drained",
}
"""Each rule as the clause of a sentence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Start the job now, all its replicas, one per hold. `rate_micros` is what it adds to its team's share.

    `runs_as` is the class that it has while it runs: idle for a job of an exhausted team, its own otherwise.
    """

    job_id: str
    footprint: Footprint
    holds: tuple[Hold, ...]
    rate_micros: int
    is_borrowing: bool
    runs_as: PriorityClass


@dataclass(frozen=True, kw_only=True, slots=True)
class Preempt:
    """Stop the job, whole, with a checkpoint, within `grace_seconds`. `for_job_id` gets the room; None for a drain."""

    job_id: str
    rule: PreemptionRule
    for_job_id: str | None
    grace_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """Why this job does not start now. `facts` fill the sentence: device ids, team names, amounts, moments."""

    job_id: str
    code: WaitCode
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """One pass. `pins` and `locks` replace all earlier ones. Waits are worked out on demand (`Planner.explain`), since
    a hundred thousand jobs may wait."""

    starts: tuple[Start, ...]
    preemptions: tuple[Preempt, ...]
    pins: tuple[Pin, ...]
    locks: tuple[Lock, ...] = ()
