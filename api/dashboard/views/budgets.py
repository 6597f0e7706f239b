"""A team's money in its period, as a meter: billed, held by what runs, and where the warning begins."""

from dataclasses import dataclass

from api.dashboard.views.bars import WIDTH, Part, Placed, lay_out
from api.schemas.teams import TeamOut
from orchestrator.domain.budgets import WARNING_PERCENT

MICROS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class BudgetMeter:
    """Micro-dollars; `total` and `left` are None without a budget, and then nothing is placed. `warning_x` is where the
    warning begins."""

    team: TeamOut
    total: int | None
    billed: int
    held: int
    left: int | None
    placed: list[Placed]
    look: str
    warning_x: float = WIDTH * WARNING_PERCENT / 100


def show_budget(team: TeamOut) -> BudgetMeter:
    total = _micros(team.budget.budget_usd)
    billed, held = _micros(team.budget.billed_usd) or 0, _micros(team.budget.held_usd) or 0
    used = team.budget.used_percent or 0
    look = "over" if used >= 100 else "near" if used >= WARNING_PERCENT else ""
    parts = [
        Part(name="billed", value=billed, look=f"spend {look}".strip()),
        Part(name="held", value=held, look="budget-held"),
    ]
    return BudgetMeter(
        team=team,
        total=total,
        billed=billed,
        held=held,
        left=_micros(team.budget.left_usd),
        placed=lay_out(parts, total or 0),
        look=look,
    )


def _micros(usd: str | None) -> int | None:
    """The wire's decimal dollars have six places, so this is exact."""
    return None if usd is None else int(usd.replace(".", ""))
