"""Teams, API keys and who may do what."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from orchestrator.domain.budgets import BudgetPeriod


class Role(StrEnum):
    """viewer reads its team's things; member also makes and ends them; admin also runs the pool, over all teams."""

    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"


class WhenExhausted(StrEnum):
    """What a team's jobs do whose budget is used up: wait for the next period, or run as idle ones."""

    WAIT = "wait"
    IDLE = "idle"


@dataclass(frozen=True, kw_only=True)
class Team:
    """A tenant, and its terms.

    Shares are in millionths of a reference device ("micros"): `guarantee_micros` the team gets whenever it asks,
    `ceiling_micros` it never exceeds (None: the pool). `weight_millis` (thousandths) divides what is borrowed. A budget
    is micro-dollars in each period, None for none. `usage` is the decayed sum of what ended attempts held, in
    reference-device-seconds, as it stood at `usage_at`.
    """

    team_id: str
    name: str
    created_at: datetime
    guarantee_micros: int = 0
    ceiling_micros: int | None = None
    weight_millis: int = 1000
    budget_usd_micros: int | None = None
    budget_period: BudgetPeriod = BudgetPeriod.MONTH
    when_exhausted: WhenExhausted = WhenExhausted.WAIT
    usage: float = 0.0
    usage_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """`prefix` is what may be shown of the secret; the secret itself is kept only as its SHA-256."""

    key_id: str
    team_id: str
    name: str
    role: Role
    prefix: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who asks. `visible_team_id` is None for an admin, who sees every team."""

    key_id: str
    team_id: str
    team_name: str
    role: Role

    @property
    def visible_team_id(self) -> str | None:
        return None if self.role is Role.ADMIN else self.team_id


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """One change that somebody made by hand, or the pool by itself. `action` is the verb, such as 'team.terms';
    `subject` what it was done to; `data` what changed."""

    audit_id: int
    at: datetime
    key_id: str
    team_id: str
    action: str
    subject: str
    data: Mapping[str, Any]
