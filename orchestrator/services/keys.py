"""API keys: 256 random bits, shown once, kept as their SHA-256.

A slow hash is for passwords; a random key cannot be guessed, so a fast one is right and costs nothing per request. The
checksum at the end lets scanners of leaked secrets tell a key from noise, and refuses a mistyped one without a look-up.
"""

import hashlib
import secrets
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from orchestrator.domain.errors import ConflictError, InvalidRequestError, UnauthenticatedError
from orchestrator.domain.teams import ApiKey, Caller, Role
from orchestrator.services.teams import find_named_team, require_admin
from orchestrator.store import audit, keys, teams
from orchestrator.store.session import Store

PREFIX = "tp_"
CHECKSUM_CHARACTERS = 6
SHOWN_CHARACTERS = 10
CACHE_SECONDS = 5.0
"""How long another process may still accept a key after it was revoked."""
CACHED_KEYS = 4096
DEFAULT_TEAM = "default"


def make_secret() -> str:
    body = secrets.token_urlsafe(32)
    return f"{PREFIX}{body}{_checksum(body)}"


def is_well_formed(secret: str) -> bool:
    """Whether the checksum is that of the key; says nothing about whether the key exists."""
    body = secret.removeprefix(PREFIX)
    return body != secret and body[-CHECKSUM_CHARACTERS:] == _checksum(body[:-CHECKSUM_CHARACTERS])


def hash_secret(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"[-CHECKSUM_CHARACTERS:]


@dataclass(frozen=True, kw_only=True)
class NewKey:
    """`secret` is in nobody's hands but the caller's from here on."""

    key: ApiKey
    secret: str = field(repr=False)


class _Callers:
    """Who holds which key, for CACHE_SECONDS. What was looked up before a `forget` is not kept after it."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._held: dict[str, tuple[float, Caller]] = {}
        self._forgotten = 0

    def find(self, digest: str) -> Caller | None:
        held = self._held.get(digest)
        return held[1] if held is not None and held[0] > self._monotonic() else None

    def mark(self) -> int:
        """To be taken before a look-up and given with its result."""
        return self._forgotten

    def keep(self, digest: str, caller: Caller, *, mark: int) -> None:
        with self._lock:
            if mark != self._forgotten:
                return
            if len(self._held) >= CACHED_KEYS:
                self._held.clear()
            self._held[digest] = (self._monotonic() + CACHE_SECONDS, caller)

    def forget(self) -> None:
        with self._lock:
            self._forgotten += 1
            self._held.clear()


@dataclass(frozen=True)
class Keys:
    """`monotonic` is the clock of the cache; the database's clock decides about expiry."""

    store: Store
    monotonic: Callable[[], float] = time.monotonic
    _callers: _Callers = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_callers", _Callers(self.monotonic))

    def create(
        self,
        caller: Caller,
        *,
        name: str,
        role: Role,
        team: str | None = None,
        expires_in_seconds: int | None = None,
    ) -> NewKey:
        """A key for a team, by name or id, or for the caller's own. Only admins make keys."""
        require_admin(caller)
        if not name.strip():
            raise InvalidRequestError("name is empty; say what the key is for", param="name")
        secret = make_secret()
        with self.store.write() as tx:
            team_id = caller.team_id if team is None else find_named_team(tx, team).team_id
            key = keys.insert_key(
                tx,
                team_id=team_id,
                name=name.strip(),
                role=role,
                prefix=secret[:SHOWN_CHARACTERS],
                secret_sha256=hash_secret(secret),
                expires_at=None if expires_in_seconds is None else tx.now() + timedelta(seconds=expires_in_seconds),
            )
            said = {"name": key.name, "role": str(role)}
            audit.append_entry(tx, caller, "key.create", key.key_id, team_id=team_id, data=said)
        return NewKey(key=key, secret=secret)

    def list(self, caller: Caller) -> tuple[ApiKey, ...]:
        """Newest first: all keys for an admin, those of one's team for others."""
        with self.store.read() as tx:
            return tuple(keys.list_keys(tx, caller.visible_team_id))

    def revoke(self, caller: Caller, key_id: str) -> ApiKey:
        """At once in this process, within CACHE_SECONDS in others. Safe to repeat."""
        require_admin(caller)
        if key_id == caller.key_id:
            raise ConflictError("this is the key of this very request; revoke it with another admin's key")
        with self.store.write() as tx:
            key = keys.revoke_key(tx, key_id, None)
            audit.append_entry(tx, caller, "key.revoke", key_id, team_id=key.team_id, data={"name": key.name})
        self._callers.forget()
        return key

    def recall(self, secret: str) -> Caller | None:
        """Who holds this key, when that was looked up a moment ago; asks no database and never waits."""
        return self._callers.find(hash_secret(secret))

    def authenticate(self, secret: str) -> Caller:
        """Who holds this key. Raises UnauthenticatedError when it is unknown, revoked or expired."""
        if not is_well_formed(secret):
            raise UnauthenticatedError("this is not an API key of this pool; it begins with tp_ and has 52 characters")
        digest = hash_secret(secret)
        caller = self._callers.find(digest)
        if caller is None:
            mark = self._callers.mark()
            caller = self._look_up(digest)
            self._callers.keep(digest, caller, mark=mark)
        return caller

    def _look_up(self, digest: str) -> Caller:
        with self.store.read() as tx:
            key = keys.find_key(tx, digest)
            if key is None:
                raise UnauthenticatedError("this API key is not known")
            if key.revoked_at is not None:
                raise UnauthenticatedError("this API key was revoked", code="revoked_api_key")
            if key.expires_at is not None and key.expires_at <= tx.now():
                raise UnauthenticatedError("this API key has expired", code="expired_api_key")
            team = teams.get_team(tx, key.team_id)
            stale = keys.needs_use_recorded(key, tx.now())
        if stale:
            with self.store.write() as write:
                keys.record_key_used(write, key.key_id)
        return Caller(key_id=key.key_id, team_id=team.team_id, team_name=team.name, role=key.role)

    def bootstrap_admin(self) -> NewKey | None:
        """The first key and its team, in a database that has none; None otherwise. Safe for two processes at once."""
        secret = make_secret()
        with self.store.write() as tx:
            tx.lock_scheduler()
            if keys.count_keys(tx):
                return None
            team = teams.find_team_by_name(tx, DEFAULT_TEAM) or teams.insert_team(tx, name=DEFAULT_TEAM)
            key = keys.insert_key(
                tx,
                team_id=team.team_id,
                name="first admin",
                role=Role.ADMIN,
                prefix=secret[:SHOWN_CHARACTERS],
                secret_sha256=hash_secret(secret),
                expires_at=None,
            )
        return NewKey(key=key, secret=secret)
