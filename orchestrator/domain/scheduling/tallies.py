"""A team while a pass is under way: its books, with what this pass has already promised."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import TypeVar

from orchestrator.domain.scheduling.books import TeamBook
from orchestrator.domain.scheduling.facts import Footprint, QueuedJob, Rules
from orchestrator.domain.scheduling.lines import Lines
from orchestrator.domain.scheduling.order import share_key
from orchestrator.domain.scheduling.shapes import Spot

ALL_TYPES = None
_T = TypeVar("_T")


@dataclass(kw_only=True, slots=True)
class Tally:
    """`rate_micros` counts what runs, what this pass starts, and what freed devices are locked for."""

    book: TeamBook
    lines: Lines
    rate_micros: int
    usage: float
    budget_left: int | None
    users: dict[str, int]
    leaving_micros: int

    @classmethod
    def open(cls, book: TeamBook, lines: Lines, now: float) -> "Tally":
        return cls(
            book=book,
            lines=lines,
            rate_micros=book.rate_micros,
            usage=book.usage(now),
            budget_left=book.terms.budget_left_usd_micros,
            users=dict(book.users),
            leaving_micros=book.stopping_micros,
        )

    @property
    def share(self) -> float:
        return share_key(self.usage, self.book.terms.weight)

    @property
    def to_guarantee(self) -> int:
        """How much more the team may have before it borrows, in micros."""
        return self.book.terms.guarantee_micros - self.rate_micros

    @property
    def to_ceiling(self) -> float:
        """How much more the team may have at all, in micros."""
        ceiling = self.book.terms.ceiling_micros
        return inf if ceiling is None else ceiling - self.rate_micros

    @property
    def above_guarantee(self) -> int:
        """What it borrows once all that was asked to stop has stopped, in micros."""
        return self.rate_micros - self.leaving_micros - self.book.terms.guarantee_micros

    def promise(self, rate: int, cost_usd_micros: int) -> None:
        """Count a start, or devices locked for one. A negative one takes it back."""
        self.rate_micros += rate
        if self.budget_left is not None:
            self.budget_left -= cost_usd_micros

    def charge(self, user_id: str, rate: int, seconds: float, rules: Rules) -> None:
        """Book the start charge, in reference-device-seconds."""
        self.usage += rate / 1e6 * min(max(seconds, 0.0), rules.start_charge_seconds)
        self.users[user_id] = self.users.get(user_id, 0) + 1


def by_type(values: Mapping[str, _T], device_type: str, default: _T) -> _T:
    """The value for a device type, or the one for the rest."""
    found = values.get(device_type)
    return values.get("*", default) if found is None else found


def allowed_types(
    spot: Spot, footprint: Footprint, *, headroom: float, budget_left: int | None
) -> frozenset[str] | None:
    """The device types on which the footprint keeps within the share and the money left; ALL_TYPES without a limit."""
    if budget_left is None and spot.most_rate <= headroom:
        return ALL_TYPES if spot.rates else frozenset()
    costs = footprint.cost_usd_micros if budget_left is not None else {}
    allowed = [
        device_type
        for device_type, rate in spot.rates.items()
        if rate <= headroom and (budget_left is None or by_type(costs, device_type, 0) <= budget_left)
    ]
    return ALL_TYPES if len(allowed) == len(spot.rates) else frozenset(allowed)


def has_means(job: QueuedJob, spots: tuple[Spot, ...], budget_left: int | None) -> bool:
    """Whether the money left pays for the job in one of its footprints on some device type."""
    return any(
        allowed_types(spot, footprint, headroom=inf, budget_left=budget_left) != frozenset()
        for spot, footprint in zip(spots, job.footprints, strict=True)
    )


TallyOf = Callable[[str], Tally]
