"""What jobs cost: the ledger, entry by entry, and its sums."""

from typing import Literal

from api.schemas.wire import Money, Wire, unix, usd
from orchestrator.domain.attempts import LedgerEntry
from orchestrator.services.costs import Bill


class CostEntry(Wire):
    """An attempt's time on one device: price x seconds x reserved_bytes / device_bytes, rounded half up once."""

    attempt: int
    """The attempt's number."""
    attempt_id: str
    interval: int
    device_id: str | None
    """Null in entries of earlier versions, whose attempts had one device."""
    device_type: str
    started_at: int
    ended_at: int
    seconds: float
    price_usd_micros_per_hour: int
    reserved_bytes: int
    device_bytes: int
    amount_usd_micros: int
    amount_usd: str
    billed: bool
    """False for time that the platform lost."""

    @classmethod
    def of(cls, entry: LedgerEntry, attempt: int) -> "CostEntry":
        return cls(
            attempt=attempt,
            attempt_id=entry.attempt_id,
            interval=entry.interval,
            device_id=entry.device_id,
            device_type=entry.device_type,
            started_at=unix(entry.started_at),
            ended_at=unix(entry.ended_at),
            seconds=(entry.ended_at - entry.started_at).total_seconds(),
            price_usd_micros_per_hour=entry.rate.price_usd_micros_per_hour,
            reserved_bytes=entry.rate.reserved_bytes,
            device_bytes=entry.rate.device_bytes,
            amount_usd_micros=entry.amount_usd_micros,
            amount_usd=usd(entry.amount_usd_micros),
            billed=entry.billed,
        )


class JobCostOut(Wire):
    """The job's bill. Its billed entries and the running interval sum to `billed_usd_micros` exactly."""

    object: Literal["fine_tuning.job.cost"]
    job_id: str
    currency: Money
    billed_usd_micros: int
    billed_usd: str
    lost_usd_micros: int
    """Worth of the time that the platform lost; charged to nobody."""
    lost_usd: str
    running_usd_micros: int
    """The part of the bill that is not in an entry yet: the attempt that runs now, up to its last sign of life."""
    final: bool
    """Whether nothing will be added."""
    entries: list[CostEntry]

    @classmethod
    def of(cls, job_id: str, bill: Bill) -> "JobCostOut":
        return cls(
            object="fine_tuning.job.cost",
            job_id=job_id,
            currency="usd",
            billed_usd_micros=bill.billed_usd_micros,
            billed_usd=usd(bill.billed_usd_micros),
            lost_usd_micros=bill.lost_usd_micros,
            lost_usd=usd(bill.lost_usd_micros),
            running_usd_micros=bill.running_usd_micros,
            final=bill.final,
            entries=[CostEntry.of(entry, bill.attempt_numbers[entry.attempt_id]) for entry in bill.entries],
        )


class CostsOut(Wire):
    """What all jobs of the caller's team cost so far; for an admin, of the whole pool."""

    object: Literal["costs"]
    team: str | None
    """Null for the whole pool."""
    currency: Money
    billed_usd_micros: int
    billed_usd: str
    lost_usd_micros: int
    lost_usd: str

    @classmethod
    def of(cls, team: str | None, *, billed_usd_micros: int, lost_usd_micros: int) -> "CostsOut":
        return cls(
            object="costs",
            team=team,
            currency="usd",
            billed_usd_micros=billed_usd_micros,
            billed_usd=usd(billed_usd_micros),
            lost_usd_micros=lost_usd_micros,
            lost_usd=usd(lost_usd_micros),
        )
