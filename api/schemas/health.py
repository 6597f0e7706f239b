"""Whether the service lives, and whether it can work."""

from typing import Literal

from api.schemas.wire import Wire


class HealthOut(Wire):
    status: Literal["ok"]
    version: str


class CheckOut(Wire):
    ok: bool
    message: str | None
    age_seconds: float | None
    """For the leader: since it last renewed its lease."""


class ReadyOut(Wire):
    status: Literal["ready", "not_ready"]
    checks: dict[str, CheckOut]
    """database, objects, leader."""
