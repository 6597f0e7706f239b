"""What was used, in sums: money exact to the micro-dollar, device time apart by what became of it.

Device time is the share of the device that was reserved, times the time: two jobs with half of a device each for an
hour used one device-hour. It is summed as a fraction and rounded once, when it is shown.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from fractions import Fraction

from orchestrator.domain.attempts import LedgerEntry


class Dimension(StrEnum):
    """What usage can be told apart by. A day is UTC's, and has what began in it."""

    TEAM = "team"
    USER = "user"
    DEVICE = "device"
    DEVICE_TYPE = "device_type"
    MODEL = "model"
    DAY = "day"


class Use(StrEnum):
    """What became of an interval of an attempt.

    `preempted`: work after the last checkpoint of an attempt that made room, which is done again. `failed`: other work
    that no checkpoint kept because the platform failed, and all of an attempt that failed by its own settings or data.
    `useful`: everything else.
    """

    USEFUL = "useful"
    FAILED = "failed"
    PREEMPTED = "preempted"


@dataclass(frozen=True, kw_only=True)
class Period:
    """`since` or later and before `until`; None for no bound. An interval belongs to the period in which it began."""

    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Ledger entries of one use and one share of a device, within one group. `keys` are the group's values."""

    keys: tuple[str, ...]
    use: Use
    reserved_bytes: int
    device_bytes: int
    microseconds: int
    billed_usd_micros: int
    lost_usd_micros: int
    entries: int

    @property
    def device_microseconds(self) -> Fraction:
        return Fraction(self.microseconds * self.reserved_bytes, self.device_bytes)


@dataclass
class Usage:
    """`billed` is the teams', `lost` is billed to nobody. `device_microseconds` are of whole devices."""

    billed_usd_micros: int = 0
    lost_usd_micros: int = 0
    entries: int = 0
    device_microseconds: dict[Use, Fraction] = field(default_factory=lambda: dict.fromkeys(Use, Fraction()))

    def add(self, part: Slice) -> None:
        self.billed_usd_micros += part.billed_usd_micros
        self.lost_usd_micros += part.lost_usd_micros
        self.entries += part.entries
        self.device_microseconds[part.use] += part.device_microseconds


@dataclass(frozen=True, kw_only=True)
class LedgerLine:
    """An entry with what it was for. `created_by` is the id of the key that submitted the job."""

    entry: LedgerEntry
    use: Use
    attempt_number: int
    created_by: str
    model_name: str
    fine_tuned_model: str | None
    array_id: str | None
    metadata: dict[str, str] | None


def sum_up(slices: Iterable[Slice]) -> dict[tuple[str, ...], Usage]:
    """By group, in the order of their values."""
    groups: dict[tuple[str, ...], Usage] = {}
    for part in slices:
        groups.setdefault(part.keys, Usage()).add(part)
    return dict(sorted(groups.items()))


def round_half_up(value: Fraction) -> int:
    """Of values that are not negative."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)
