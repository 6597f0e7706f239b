"""What the earlier attempts of a job used up of its limits."""

from orchestrator.scheduler.limits import Spent
from orchestrator.store import ledger
from orchestrator.store.session import ReadTx


def read_spent(tx: ReadTx, job_id: str) -> Spent:
    """From the ledger alone, so that lost work, which is billed to nobody, uses up no limit either.

    Money is that of all devices; time counts once, however many devices an attempt had."""
    billed = [entry for entry in ledger.list_entries(tx, job_id=job_id) if entry.billed]
    spans = {(entry.attempt_id, entry.started_at, entry.ended_at) for entry in billed}
    return Spent(
        billed_usd_micros=sum(entry.amount_usd_micros for entry in billed),
        billed_seconds=sum((ended_at - started_at).total_seconds() for _, started_at, ended_at in spans),
    )
