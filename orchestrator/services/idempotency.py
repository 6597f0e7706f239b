"""Repeats of a request: the same one twice makes one object.

Clients resend a POST whose answer was lost, and the stock openai client sends no key with it. So every create leaves a
record, in the transaction that creates: under the client's Idempotency-Key when there is one, else under a key of its
own. A repeat is known by its key, or, when the client says that this is a retry, by the hash of the same request.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from orchestrator.domain.errors import IdempotencyMismatchError, InvalidRequestError
from orchestrator.domain.ids import new_uuid7_hex
from orchestrator.domain.teams import Caller
from orchestrator.store import idempotency
from orchestrator.store.idempotency import IdempotencyRecord
from orchestrator.store.session import ReadTx, WriteTx

LONGEST_KEY_CHARACTERS = 255
RETRY_WINDOW = timedelta(minutes=15)
"""How far back a retry without a key is looked for; stock clients give up long before."""


@dataclass(frozen=True, kw_only=True)
class Marks:
    """How a client marks a request that it may send again. `retries` is its own count, 0 for the first send."""

    key: str | None = None
    retries: int = 0

    def of(self, said: Mapping[str, object]) -> "Repeat":
        """Two requests are the same when they say the same, whatever the order of their fields and their encoding."""
        text = json.dumps(said, sort_keys=True)
        return Repeat(fingerprint=hashlib.sha256(text.encode()).hexdigest(), key=self.key, retries=self.retries)

    @property
    def may_be_one(self) -> bool:
        """Whether the request may be a repeat."""
        return self.key is not None or self.retries > 0

    def __post_init__(self) -> None:
        if self.key is not None and not 0 < len(self.key) <= LONGEST_KEY_CHARACTERS:
            raise InvalidRequestError(
                f"Idempotency-Key must have 1 to {LONGEST_KEY_CHARACTERS} characters", param="Idempotency-Key"
            )


UNMARKED = Marks()


@dataclass(frozen=True, kw_only=True)
class Repeat(Marks):
    """How a request may be known again. `fingerprint` is a hash of what it says."""

    fingerprint: str


def find_first(tx: ReadTx, caller: Caller, *, scope: str, repeat: Repeat) -> str | None:
    """The id of what the same request created before; None for a request that is not known to be a repeat.

    Raises IdempotencyMismatchError when the key came before with another body.
    """
    first = None
    if repeat.key is not None:
        first = idempotency.find_record(tx, key_id=caller.key_id, scope=scope, idempotency_key=repeat.key)
    elif repeat.retries > 0:
        first = idempotency.find_recent_by_fingerprint(
            tx, key_id=caller.key_id, scope=scope, fingerprint=repeat.fingerprint, since=tx.now() - RETRY_WINDOW
        )
    if first is None:
        return None
    if first.fingerprint != repeat.fingerprint:
        raise IdempotencyMismatchError
    return first.object_id


def claim(tx: WriteTx, caller: Caller, *, scope: str, repeat: Repeat, object_id: str) -> str | None:
    """None when the request is new, and recorded as the maker of `object_id`; else the id of what the first one made.

    Two requests at once with one key: the second waits for the first's transaction. Raises IdempotencyMismatchError
    when the key came before with another body.
    """
    if repeat.key is None:
        found = find_first(tx, caller, scope=scope, repeat=repeat)
        if found is not None:
            return found
    record = IdempotencyRecord(
        key_id=caller.key_id,
        scope=scope,
        idempotency_key=repeat.key if repeat.key is not None else f"unnamed-{new_uuid7_hex()}",
        fingerprint=repeat.fingerprint,
        created_at=tx.now(),
        object_id=object_id,
    )
    first = idempotency.record_request(tx, record)
    if first is None:
        return None
    if first.fingerprint != repeat.fingerprint:
        raise IdempotencyMismatchError
    return first.object_id
