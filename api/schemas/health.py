"""Whether the service lives, and whether it can work."""

from typing import Literal

from api.schemas.wire import Wire
from orchestrator.services.health import Check


class HealthOut(Wire):
    status: Literal["ok"]
    version: str


class CheckOut(Wire):
    ok: bool
    message: str | None
    age_seconds: float | None
    """For the leader: since it last renewed its lease."""

    @classmethod
    def of(cls, check: Check) -> "CheckOut":
        return cls(ok=check.ok, message=check.message, age_seconds=check.age_seconds)


class ReadyOut(Wire):
    status: Literal["ready", "not_ready"]
    checks: dict[str, CheckOut]
    """database, objects, leader."""
