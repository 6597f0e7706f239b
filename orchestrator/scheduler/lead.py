"""Who runs the loops: the holder of one database row, for a few seconds at a time.

Invariants: this process stops believing in its lease before the database does, by its own monotonic clock. A new
leader takes over every attempt in the transaction that made it leader, so running workers are adopted and none is
started anew. Correctness never rests on this lease: every write about an attempt names the attempt's own token.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from orchestrator.domain.attempts import Attempt
from orchestrator.scheduler.loop import Loop
from orchestrator.store import attempts, leader
from orchestrator.store.session import Store

MARGIN_SECONDS = 2.0
MARGIN_FRACTION = 0.2
"""Trust ends this long before the lease does, whichever is less (reliability study, section 10: TTL - 2 s)."""

log = structlog.get_logger(__name__)


class Leadership:
    """Whether this process may act now. Times are monotonic seconds; the lease itself is in database time."""

    def __init__(self, *, owner: str, lease_seconds: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.owner = owner
        self.lease_seconds = lease_seconds
        self._clock = clock
        self._trusted_until = float("-inf")
        self._lock = threading.Lock()

    def is_leading(self) -> bool:
        with self._lock:
            return self._clock() < self._trusted_until

    def now(self) -> float:
        return self._clock()

    def trust_from(self, asked_at: float) -> None:
        """Believe in a lease that was asked for at `asked_at`: it cannot end earlier than that plus its length."""
        margin = min(MARGIN_SECONDS, MARGIN_FRACTION * self.lease_seconds)
        with self._lock:
            self._trusted_until = asked_at + self.lease_seconds - margin

    def distrust(self) -> None:
        with self._lock:
            self._trusted_until = float("-inf")


@dataclass(frozen=True, kw_only=True)
class Bid:
    """Claim or renew the lease. `taking_over` when this process does not lead now."""

    taking_over: bool


class Lead:
    """`on_gained` is called when leadership begins, after the attempts were claimed."""

    def __init__(
        self,
        store: Store,
        leadership: Leadership,
        *,
        attempt_lease_seconds: int,
        on_gained: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._leadership = leadership
        self._attempt_lease_seconds = attempt_lease_seconds
        self._on_gained = on_gained

    def loop(self) -> Loop[bool, Bid]:
        return Loop(
            name="lead",
            interval_seconds=self._leadership.lease_seconds / 3,
            load=self._leadership.is_leading,
            decide=decide_bid,
            apply=self.apply,
            subject=lambda bid: "lease",
            led=False,
            longest_back_off_seconds=self._leadership.lease_seconds / 3,
        )

    def apply(self, bid: Bid) -> None:
        """One transaction. Taking over also claims every attempt: new tokens, a higher generation."""
        owner = self._leadership.owner
        asked_at = self._leadership.now()
        claimed: Sequence[object] = ()
        with self._store.write() as tx:
            # Held to the end: a placement of the former leader either is committed and claimed here, or comes after and
            # sees that its leader's lease is gone.
            tx.lock_scheduler()
            won = leader.claim_leadership(tx, owner=owner, lease_seconds=self._leadership.lease_seconds)
            if won and (bid.taking_over or _has_foreign(attempts.list_active(tx), owner)):
                claimed = attempts.claim_attempts(tx, owner=owner, lease_seconds=self._attempt_lease_seconds)
        if not won:
            self._leadership.distrust()
            return
        self._leadership.trust_from(asked_at)
        if bid.taking_over:
            log.info("leading", owner=owner, adopted_attempts=len(claimed))
            self._on_gained()

    def resign(self) -> None:
        """Give the lease back, so that another control plane need not wait for its end. Safe without the lease."""
        self._leadership.distrust()
        with self._store.write() as tx:
            leader.resign_leadership(tx, owner=self._leadership.owner)


def decide_bid(leading: bool) -> Sequence[Bid]:
    return (Bid(taking_over=not leading),)


def _has_foreign(active: Sequence[Attempt], owner: str) -> bool:
    return any(attempt.lease_owner != owner for attempt in active)
