"""Usage in sums, as JSON and as CSV, and what a request for it may say."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from fractions import Fraction
from typing import Literal

from api.schemas.wire import Money, Wire, find_unix, usd
from api.spreadsheets import Cell
from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.usage_sums import Dimension, Period, Usage, Use, round_half_up
from orchestrator.services.usage import UsageSums

MICROSECONDS_PER_SECOND = 1_000_000


class UsageFigures(Wire):
    """Device seconds are seconds of whole devices: half of a device for two seconds is one."""

    billed_usd_micros: int
    billed_usd: str
    lost_usd_micros: int
    """Worth of the time that the platform lost; charged to nobody."""
    lost_usd: str
    useful_device_seconds: float
    failed_device_seconds: float
    """Lost to failures of the platform, or of attempts that failed by their own settings or data."""
    preempted_device_seconds: float
    """Work after the last checkpoint of attempts that made room; it was done again."""
    idle_device_seconds: float | None
    """Offered by the pool and held by no attempt. For admins only, and null by team, user or model: it is nobody's."""
    entries: int
    """How many entries of the ledger this sums up."""


class UsageRow(UsageFigures):
    """One group; what was not asked for in `group_by` is null."""

    team: str | None
    user: str | None
    """The id of the API key that submitted the jobs."""
    user_name: str | None
    device: str | None
    device_type: str | None
    model: str | None
    """The base model."""
    day: str | None
    """Of UTC, as 2026-11-25: that in which the time began."""


class UsageOut(Wire):
    """Sums over the ledger. What runs still is not in it yet."""

    object: Literal["usage"]
    currency: Money
    since: int | None
    until: int | None
    group_by: list[str]
    data: list[UsageRow]
    total: UsageFigures
    """The sum over `data`."""

    @classmethod
    def of(cls, found: UsageSums, period: Period) -> "UsageOut":
        return cls(
            object="usage",
            currency="usd",
            since=find_unix(period.since),
            until=find_unix(period.until),
            group_by=[dimension.value for dimension in found.dimensions],
            data=[
                UsageRow(**_figures(usage, _idle(found, keys)).model_dump(), **_group(found, keys))
                for keys, usage in found.groups.items()
            ],
            total=_figures(found.total, found.idle_total),
        )


def _idle(found: UsageSums, keys: tuple[str, ...]) -> Fraction | None:
    """Of one group. Where idle time can be told, one without any had none."""
    return None if found.idle is None else found.idle.get(keys, Fraction())


def _figures(usage: Usage, idle: Fraction | None) -> UsageFigures:
    return UsageFigures(
        billed_usd_micros=usage.billed_usd_micros,
        billed_usd=usd(usage.billed_usd_micros),
        lost_usd_micros=usage.lost_usd_micros,
        lost_usd=usd(usage.lost_usd_micros),
        useful_device_seconds=_microseconds(usage, Use.USEFUL) / MICROSECONDS_PER_SECOND,
        failed_device_seconds=_microseconds(usage, Use.FAILED) / MICROSECONDS_PER_SECOND,
        preempted_device_seconds=_microseconds(usage, Use.PREEMPTED) / MICROSECONDS_PER_SECOND,
        idle_device_seconds=None if idle is None else round_half_up(idle) / MICROSECONDS_PER_SECOND,
        entries=usage.entries,
    )


def _microseconds(usage: Usage, use: Use) -> int:
    return round_half_up(usage.device_microseconds[use])


def _group(found: UsageSums, keys: tuple[str, ...]) -> dict[str, str | None]:
    group: dict[str, str | None] = dict.fromkeys((*(dimension.value for dimension in Dimension), "user_name"))
    group |= {dimension.value: key for dimension, key in zip(found.dimensions, keys, strict=True)}
    if group["team"] is not None:
        group["team"] = found.names.teams.get(group["team"], group["team"])
    if group["user"] is not None:
        group["user_name"] = found.names.users.get(group["user"])
    return group


def csv_header(found: UsageSums) -> list[str]:
    return [*_csv_names(found), *UsageFigures.model_fields]


def list_csv_rows(found: UsageSums) -> Iterator[list[Cell]]:
    """In the order of `csv_header`; decimals are exact."""
    for keys, usage in found.groups.items():
        group = _group(found, keys)
        times = [usd(_microseconds(usage, use)) for use in (Use.USEFUL, Use.FAILED, Use.PREEMPTED)]
        billed, lost, idle = usage.billed_usd_micros, usage.lost_usd_micros, _idle(found, keys)
        yield [
            *(group[name] for name in _csv_names(found)),
            billed,
            usd(billed),
            lost,
            usd(lost),
            *times,
            None if idle is None else usd(round_half_up(idle)),
            usage.entries,
        ]


def _csv_names(found: UsageSums) -> list[str]:
    names = [dimension.value for dimension in found.dimensions]
    return [name for dimension in names for name in ((dimension, "user_name") if dimension == "user" else (dimension,))]


def read_dimensions(text: str) -> tuple[Dimension, ...]:
    """`team,day`. Raises InvalidRequestError that names those that there are."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = {dimension.value: dimension for dimension in Dimension}
    wrong = next((name for name in names if name not in known), None)
    if wrong is not None:
        raise InvalidRequestError(f"group_by: there is no {wrong!r}; there are {', '.join(known)}", param="group_by")
    return tuple(known[name] for name in dict.fromkeys(names))


def read_period(since: str | None, until: str | None) -> Period:
    """Raises InvalidRequestError for what is no moment, and for a period that ends before it begins."""
    period = Period(since=_read_moment(since, "since"), until=_read_moment(until, "until"))
    if period.since is not None and period.until is not None and period.until < period.since:
        raise InvalidRequestError("until: the period ends before it begins", param="until")
    return period


def _read_moment(text: str | None, param: str) -> datetime | None:
    """A date is its first moment in UTC."""
    if text is None:
        return None
    try:
        if len(text) == len("2026-11-01"):
            return datetime.combine(date.fromisoformat(text), time(), UTC)
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _no_moment(text, param) from None
    if moment.tzinfo is None:
        raise _no_moment(text, param)
    return moment.astimezone(UTC)


def _no_moment(text: str, param: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{param}: write a date such as 2026-11-01, or a moment with its offset such as 2026-11-01T08:00:00Z, "
        f"not {text!r}",
        param=param,
    )
