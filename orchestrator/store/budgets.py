"""Money that running jobs hold of their team's budget.

Invariant: billed in the period + held <= budget whenever a hold is granted, however many start at once. The team's row
is locked for it, and for settling, so that no sum is read while it changes.
"""

from sqlalchemy import func, select, update

from orchestrator.domain.budgets import BudgetState, find_period
from orchestrator.domain.teams import Team
from orchestrator.store.ledger import sum_for_team
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.jobs import jobs
from orchestrator.store.teams import lock_team

_HELD = func.coalesce(func.sum(jobs.c.held_usd_micros), 0)


def read_budget(tx: ReadTx, team: Team) -> BudgetState:
    """The team's money in the period that holds now. What runs counts by what it holds, not by what it has cost."""
    started_at, ends_at = find_period(team.budget_period, tx.now())
    billed, _ = sum_for_team(tx, team.team_id, since=started_at)
    holds = select(_HELD).where(jobs.c.team_id == team.team_id, jobs.c.held_usd_micros > 0)
    return BudgetState(
        budget_usd_micros=team.budget_usd_micros,
        billed_usd_micros=billed,
        held_usd_micros=int(tx.scalar(holds) or 0),
        started_at=started_at,
        ends_at=ends_at,
    )


def claim_hold(tx: WriteTx, job_id: str, team_id: str, usd_micros: int) -> BudgetState | None:
    """Hold this much for the job until it is settled, when the team's budget still has it; else hold nothing and say
    what is left. None when it is held. A team without a budget holds nothing.

    The team's row stays locked until the transaction ends.
    """
    team = lock_team(tx, team_id)
    if team.budget_usd_micros is None:
        return None
    state = read_budget(tx, team)
    left = state.left_usd_micros
    if left is not None and usd_micros > left:
        return state
    tx.execute(update(jobs).where(jobs.c.job_id == job_id).values(held_usd_micros=usd_micros))
    return None


def release_hold(tx: WriteTx, job_id: str) -> None:
    """Settle: the ledger says now what the job's attempt has cost. Lock the team first."""
    tx.execute(update(jobs).where(jobs.c.job_id == job_id, jobs.c.held_usd_micros > 0).values(held_usd_micros=0))
