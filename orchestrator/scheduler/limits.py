"""How long an attempt may run before its job's budget or time limit is reached. Pure.

Invariant: what is billed never exceeds max_cost_usd, because billing itself ends at the budget's moment.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from orchestrator.domain.pricing import GangRate

RESERVE_FRACTION = 10
"""A tenth of the time that the budget buys is kept for stopping and saving, but never more than the grace."""
LONGEST_SECONDS = 10 * 365 * 24 * 3600
"""Ten years: a limit beyond it is none, and moments that far ahead can still be written."""

LimitReason = Literal["budget_exceeded", "timeout"]


@dataclass(frozen=True, kw_only=True)
class RunLimit:
    """Seconds from the launch: at `stop_seconds` the worker is asked to stop, at `end_seconds` it must have ended."""

    stop_seconds: int
    end_seconds: int
    reason: LimitReason

    def stop_at(self, started_at: datetime) -> datetime:
        return started_at + timedelta(seconds=self.stop_seconds)

    def end_at(self, started_at: datetime) -> datetime:
        return started_at + timedelta(seconds=self.end_seconds)


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What earlier attempts of the job used up of its limits; lost work counts for neither."""

    billed_usd_micros: int
    billed_seconds: float


def choose_run_limit(
    *,
    rate: GangRate,
    spent: Spent,
    max_cost_usd_micros: int | None,
    max_runtime_seconds: int | None,
    grace_seconds: int,
) -> RunLimit | None:
    """The nearer of the two limits, None without any. `stop_seconds` below 1 means that nothing is left to run on."""
    limits: list[RunLimit] = []
    if max_cost_usd_micros is not None:
        affordable = _affordable_seconds(rate, spent, max_cost_usd_micros)
        if affordable is not None:
            limits.append(_with_reserve(affordable, "budget_exceeded", grace_seconds))
    if max_runtime_seconds is not None:
        left = min(LONGEST_SECONDS, max(0, int(max_runtime_seconds - spent.billed_seconds)))
        limits.append(RunLimit(stop_seconds=left, end_seconds=left + grace_seconds, reason="timeout"))
    return min(limits, key=lambda limit: limit.stop_seconds, default=None)


def latest_billed_at(
    ended_at: datetime,
    *,
    started_at: datetime | None,
    rate: GangRate,
    spent: Spent,
    max_cost_usd_micros: int | None,
) -> datetime:
    """Where billing ends for an attempt that ended at `ended_at`: never after the budget is used up."""
    if started_at is None or max_cost_usd_micros is None:
        return ended_at
    affordable = _affordable_seconds(rate, spent, max_cost_usd_micros)
    return ended_at if affordable is None else min(ended_at, started_at + timedelta(seconds=affordable))


def _affordable_seconds(rate: GangRate, spent: Spent, max_cost_usd_micros: int) -> int | None:
    seconds = rate.seconds_within(max(0, max_cost_usd_micros - spent.billed_usd_micros))
    return None if seconds is None or seconds > LONGEST_SECONDS else seconds


def _with_reserve(seconds: int, reason: LimitReason, grace_seconds: int) -> RunLimit:
    reserve = min(grace_seconds, -(-seconds // RESERVE_FRACTION))
    return RunLimit(stop_seconds=max(0, seconds - reserve), end_seconds=seconds, reason=reason)
