"""Upload grants: how long each attempt may still write, and a fresh grant well before that ends.

What was granted is remembered only here; after a restart every attempt gets a fresh grant with its first pull.
"""

import threading
import time
from collections.abc import Callable
from typing import Protocol

from orchestrator.domain.attempts import Attempt
from orchestrator.domain.protocol import UploadGrant
from orchestrator.objects.layout import attempt_prefix


class GrantSigner(Protocol):
    """`orchestrator.objects.client.Objects` is one. Signing asks no server."""

    def presign_post(self, prefix: str, seconds: int) -> UploadGrant: ...


class Grants:
    """Safe to use from several threads. `clock` is Unix time, as the grants' own expiry is."""

    def __init__(self, signer: GrantSigner, *, seconds: int, clock: Callable[[], float] = time.time) -> None:
        self._signer = signer
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._expires_at: dict[str, int] = {}
        self._offered: dict[str, int] = {}

    def issue(self, attempt: Attempt) -> UploadGrant:
        """A grant for this attempt's own prefix."""
        grant = self._signer.presign_post(
            attempt_prefix(attempt.job_id, attempt.attempt_id, attempt.number), self._seconds
        )
        with self._lock:
            self._offered[attempt.attempt_id] = grant.expires_at_unix
        return grant

    def renew(self, attempt: Attempt) -> UploadGrant | None:
        """A fresh grant when less than half of the time is left, or when we do not know; otherwise None."""
        with self._lock:
            left = self._expires_at.get(attempt.attempt_id, 0) - self._clock()
        return self.issue(attempt) if left < self._seconds / 2 else None

    def note_delivered(self, attempt_id: str) -> None:
        """The grant that was issued last has reached the attempt."""
        with self._lock:
            if attempt_id in self._offered:
                self._expires_at[attempt_id] = self._offered.pop(attempt_id)
            now = self._clock()
            for old in [key for key, expires_at in self._expires_at.items() if expires_at < now]:
                del self._expires_at[old]
