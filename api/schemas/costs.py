"""What jobs cost: the ledger, entry by entry, and its sums."""

from typing import Literal

from api.schemas.wire import Money, Wire, unix, usd
from orchestrator.domain.attempts import LedgerEntry


class CostEntry(Wire):
    """One interval of one attempt: price x seconds x reserved_bytes / device_bytes, rounded half up once."""

    attempt_id: str
    interval: int
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
    def of(cls, entry: LedgerEntry) -> "CostEntry":
        return cls(
            attempt_id=entry.attempt_id,
            interval=entry.interval,
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
    object: Literal["fine_tuning.job.cost"]
    job_id: str
    currency: Money
    billed_usd_micros: int
    billed_usd: str
    lost_usd_micros: int
    lost_usd: str
    final: bool
    entries: list[CostEntry]
