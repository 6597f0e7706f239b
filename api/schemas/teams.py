"""Teams and their API keys."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from api.schemas.wire import Asked, Identified, Wire, find_unix, unix
from orchestrator.domain.teams import ApiKey, Role, Team


class TeamCreate(Asked):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "research"}]})

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Lower case letters, digits and dashes, because it goes into the names of the team's fine-tuned models."""


class TeamOut(Identified):
    object: Literal["team"]
    name: str
    created_at: int

    @classmethod
    def of(cls, team: Team) -> "TeamOut":
        return cls(id=team.team_id, object="team", name=team.name, created_at=unix(team.created_at))


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
