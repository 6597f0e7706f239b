"""Teams and their API keys."""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from api.schemas.wire import Asked, Identified, Wire, find_unix, unix, usd
from orchestrator.domain.budgets import WARNING_PERCENT, BudgetPeriod, BudgetState
from orchestrator.domain.scheduling.facts import WHOLE_DEVICE_MICROS
from orchestrator.domain.teams import ApiKey, AuditEntry, Role, WhenExhausted
from orchestrator.services.teams import Share, Shares, Standing

MOST_DEVICES = 1_000_000


class TeamCreate(Asked):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "research"}]})

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Lower case letters, digits and dashes, because it goes into the names of the team's fine-tuned models."""


class TeamTerms(Asked):
    """What is left out stays as it is; null takes a ceiling or a budget away."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"guarantee_devices": 2, "weight": 1.5, "budget_usd": "500"}]}
    )

    guarantee_devices: Annotated[float, Field(ge=0, le=MOST_DEVICES)] | None = None
    """Reference devices that the team gets whenever it asks, if need be from those who borrow."""
    ceiling_devices: Annotated[float, Field(ge=0, le=MOST_DEVICES)] | None = None
    """The most it may use, borrowed devices included; null for the whole pool."""
    weight: Annotated[float, Field(ge=0.001, le=1_000_000)] | None = None
    """Its share of what is borrowed, against other teams' weights."""
    budget_usd: Annotated[Decimal, Field(ge=0, max_digits=15, decimal_places=6)] | None = None
    """What its jobs may cost in each period; null for no limit."""
    budget_period: BudgetPeriod | None = None
    """UTC day, week from Monday, or calendar month."""
    when_exhausted: WhenExhausted | None = None
    """Whether jobs wait for the next period, or run as idle ones."""

    def to_terms(self) -> dict[str, Any]:
        """Only what was given, in the units of the domain."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        terms: dict[str, Any] = {}
        for name in ("guarantee_devices", "ceiling_devices"):
            if name in given and (given[name] is not None or name == "ceiling_devices"):
                terms[name.replace("devices", "micros")] = _micros(given[name])
        if given.get("weight") is not None:
            terms["weight_millis"] = round(1000 * given["weight"])
        if "budget_usd" in given:
            terms["budget_usd_micros"] = None if given["budget_usd"] is None else int(given["budget_usd"] * 1_000_000)
        return terms | {
            name: given[name] for name in ("budget_period", "when_exhausted") if given.get(name) is not None
        }


def _micros(devices: float | None) -> int | None:
    return None if devices is None else round(devices * WHOLE_DEVICE_MICROS)


class BudgetOut(Wire):
    """Money of the period that holds now. `left` is what new starts may still hold."""

    budget_usd: str | None
    billed_usd: str
    held_usd: str
    """What running jobs may still cost, at most; settled by the ledger when they end."""
    left_usd: str | None
    used_percent: float | None
    period_started_at: int
    period_ends_at: int

    @classmethod
    def of(cls, state: BudgetState) -> "BudgetOut":
        left = state.left_usd_micros
        return cls(
            budget_usd=None if state.budget_usd_micros is None else usd(state.budget_usd_micros),
            billed_usd=usd(state.billed_usd_micros),
            held_usd=usd(state.held_usd_micros),
            left_usd=None if left is None else usd(left),
            used_percent=None if state.used_percent is None else round(state.used_percent, 2),
            period_started_at=unix(state.started_at),
            period_ends_at=unix(state.ends_at),
        )


class TeamOut(Identified):
    object: Literal["team"]
    name: str
    created_at: int
    guarantee_devices: float
    ceiling_devices: float | None
    weight: float
    budget_usd: str | None
    budget_period: BudgetPeriod
    when_exhausted: WhenExhausted
    running_devices: float
    """What the team uses now, in reference devices."""
    running_jobs: int
    budget: BudgetOut
    warnings: list[str]

    @classmethod
    def of(cls, standing: Standing) -> "TeamOut":
        team = standing.team
        return cls(
            id=team.team_id,
            object="team",
            name=team.name,
            created_at=unix(team.created_at),
            guarantee_devices=team.guarantee_micros / WHOLE_DEVICE_MICROS,
            ceiling_devices=None if team.ceiling_micros is None else team.ceiling_micros / WHOLE_DEVICE_MICROS,
            weight=team.weight_millis / 1000,
            budget_usd=None if team.budget_usd_micros is None else usd(team.budget_usd_micros),
            budget_period=team.budget_period,
            when_exhausted=team.when_exhausted,
            running_devices=standing.running_micros / WHOLE_DEVICE_MICROS,
            running_jobs=standing.running_jobs,
            budget=BudgetOut.of(standing.budget),
            warnings=_warnings_of(standing.budget),
        )


class ShareOut(Wire):
    """Of one team: what it held on average in each slot, and its guarantee at the slot's end, in reference devices."""

    id: str
    object: Literal["team.share"]
    name: str
    devices: list[float]
    guarantees: list[float]

    @classmethod
    def of(cls, share: Share) -> "ShareOut":
        return cls(
            id=share.team.team_id,
            object="team.share",
            name=share.team.name,
            devices=[round(held / WHOLE_DEVICE_MICROS, 4) for held in share.held_micros],
            guarantees=[micros / WHOLE_DEVICE_MICROS for micros in share.guarantee_micros],
        )


class SharesOut(Wire):
    """Slot n begins at `since + n * slot_seconds`; the last one ends at `until`."""

    object: Literal["team.shares"]
    since: int
    until: int
    slot_seconds: int
    data: list[ShareOut]

    @classmethod
    def of(cls, found: Shares) -> "SharesOut":
        return cls(
            object="team.shares",
            since=unix(found.grid.since_at),
            until=unix(found.grid.until_at),
            slot_seconds=int(found.grid.slot.total_seconds()),
            data=[ShareOut.of(share) for share in found.shares],
        )


def _warnings_of(budget: BudgetState) -> list[str]:
    percent = budget.used_percent
    if percent is None or percent < WARNING_PERCENT:
        return []
    return [f"{percent:.0f} % of this period's budget is spent or held by running jobs."]


class AuditOut(Identified):
    """One change that somebody made by hand, or that the pool made by itself: then key and team are `scheduler`."""

    object: Literal["audit_entry"]
    at: int
    key_id: str
    team_id: str
    action: str
    """The verb, such as team.terms or job.priority."""
    subject: str
    data: dict[str, Any]

    @classmethod
    def of(cls, entry: AuditEntry) -> "AuditOut":
        return cls(
            id=str(entry.audit_id),
            object="audit_entry",
            at=unix(entry.at),
            key_id=entry.key_id,
            team_id=entry.team_id,
            action=entry.action,
            subject=entry.subject,
            data=dict(entry.data),
        )


class KeyCreate(Asked):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "CI", "role": "member", "team": "research"}]})

    name: Annotated[str, Field(min_length=1, max_length=128)]
    """What the key is for."""
    role: Role = Role.MEMBER
    """viewer reads; member also submits and cancels; admin also runs the pool, over all teams."""
    team: str | None = None
    """The team's name or id; the caller's own team when left out."""
    expires_in_seconds: Annotated[int, Field(ge=60, le=10 * 366 * 86_400)] | None = None
    """Never, when it is left out."""


class KeyOut(Identified):
    object: Literal["api_key"]
    team_id: str
    name: str
    role: Role
    prefix: str
    """The first characters of the key, enough to recognize it."""
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None

    @classmethod
    def of(cls, key: ApiKey) -> "KeyOut":
        return cls(
            id=key.key_id,
            object="api_key",
            team_id=key.team_id,
            name=key.name,
            role=key.role,
            prefix=key.prefix,
            created_at=unix(key.created_at),
            expires_at=find_unix(key.expires_at),
            revoked_at=find_unix(key.revoked_at),
            last_used_at=find_unix(key.last_used_at),
        )


class NewKeyOut(KeyOut):
    secret: str
    """The key itself. It is shown this once and kept nowhere."""

    @classmethod
    def of_new(cls, key: ApiKey, secret: str) -> "NewKeyOut":
        return cls(**KeyOut.of(key).model_dump(), secret=secret)


class KeyDeletedOut(Wire):
    id: str
    object: Literal["api_key"]
    deleted: Literal[True]
