"""Teams, API keys and who may do what."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Role(StrEnum):
    """viewer reads its team's things; member also makes and ends them; admin also runs the pool, over all teams."""

    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"


@dataclass(frozen=True, kw_only=True)
class Team:
    team_id: str
    name: str
    created_at: datetime


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
