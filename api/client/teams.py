"""Teams and API keys."""

from collections.abc import Iterator
from typing import TypedDict, Unpack, cast

from api.client.accounts import AuditEntry, Key, Shares, Team
from api.client.results import Deleted
from api.client.tail import read_pages
from api.client.transport import Transport

TEAMS = "/v1/teams"
KEYS = "/v1/keys"


class TermFields(TypedDict, total=False):
    """As in the API's documentation; None takes a ceiling or a budget away."""

    guarantee_devices: float
    ceiling_devices: float | None
    weight: float
    budget_usd: str | None
    budget_period: str
    when_exhausted: str


class AuditFilter(TypedDict, total=False):
    """`actor` is a key's id, or `scheduler` for the pool itself; `action` a verb such as team.terms, or its first part;
    `team` a team's id. Moments are as for usage."""

    actor: str
    action: str
    team: str
    since: str
    until: str


class Teams:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> tuple[Team, ...]:
        return tuple(read_pages(self._transport, TEAMS, Team, {}))

    def create(self, *, name: str) -> Team:
        """Admins only."""
        return Team.model_validate(self._transport.post(TEAMS, {"name": name}))

    def set_terms(self, team: str, **terms: Unpack[TermFields]) -> Team:
        """Change what a team, by name or id, is promised; what is not given stays. Admins only."""
        return Team.model_validate(self._transport.patch(f"{TEAMS}/{team}", terms))

    def shares(self, *, days: int = 7) -> Shares:
        """What teams held in the last days (1 to 31) against their guarantees."""
        return Shares.model_validate(self._transport.get(f"{TEAMS}/shares", {"days": days}))

    def audit(self, **which: Unpack[AuditFilter]) -> Iterator[AuditEntry]:
        """What was changed, by hand or by the pool itself, newest first."""
        return read_pages(self._transport, "/v1/audit", AuditEntry, {"limit": 100, **cast(dict[str, str], which)})


class Keys:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> tuple[Key, ...]:
        return tuple(read_pages(self._transport, KEYS, Key, {}))

    def create(
        self, *, name: str, role: str = "member", team: str | None = None, expires_in_seconds: int | None = None
    ) -> Key:
        """Make a key; its `secret` is in this answer and nowhere else. Admins only."""
        body: dict[str, str | int] = {"name": name, "role": role}
        if team is not None:
            body["team"] = team
        if expires_in_seconds is not None:
            body["expires_in_seconds"] = expires_in_seconds
        return Key.model_validate(self._transport.post(KEYS, body))

    def revoke(self, key_id: str) -> Deleted:
        return Deleted.model_validate(self._transport.delete(f"{KEYS}/{key_id}"))
