"""Teams, keys, shares, and what was changed, as the API answers with them (see `results`)."""

from typing import Any, Literal

from api.client.results import Result


class Budget(Result):
    """Money of the period that holds now; `left_usd` is what new starts may still hold, None without a budget."""

    budget_usd: str | None
    billed_usd: str
    held_usd: str
    left_usd: str | None
    used_percent: float | None
    period_started_at: int
    period_ends_at: int


class Team(Result):
    """Shares are in reference devices."""

    id: str
    name: str
    created_at: int
    guarantee_devices: float = 0.0
    ceiling_devices: float | None = None
    weight: float = 1.0
    budget_usd: str | None = None
    budget_period: str = "month"
    when_exhausted: str = "wait"
    running_devices: float = 0.0
    running_jobs: int = 0
    budget: Budget | None = None
    warnings: tuple[str, ...] = ()


class Share(Result):
    """What a team held on average in each slot and what it was guaranteed, in reference devices."""

    id: str
    name: str
    devices: tuple[float, ...]
    guarantees: tuple[float, ...]


class Shares(Result):
    """Slot n begins at `since + n * slot_seconds`; the last one ends at `until`."""

    since: int
    until: int
    slot_seconds: int
    data: tuple[Share, ...]


class AuditEntry(Result):
    """One change that somebody made by hand, or that the pool made by itself: then key and team are `scheduler`."""

    id: str
    at: int
    key_id: str
    team_id: str
    action: str
    subject: str
    data: dict[str, Any]


class Key(Result):
    """`secret` is there once: in the answer to its creation."""

    id: str
    name: str
    role: Literal["viewer", "member", "admin"] | str
    prefix: str
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None
    last_used_at: int | None = None
    secret: str | None = None
