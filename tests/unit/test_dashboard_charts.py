"""What pages draw: cost over time, shares against guarantees, the last day of a device, budgets, changes in words."""

import ast
from typing import Any

from api.dashboard.views.budgets import show_budget
from api.dashboard.views.burn import draw_burn
from api.dashboard.views.changes import WORDS, show_changes
from api.dashboard.views.devices import DeviceBar
from api.dashboard.views.pool_history import MOST_BLOCKS, show_history
from api.dashboard.views.shares import draw_shares
from api.dashboard.views.spend import show_team_lines
from api.dashboard.views.timeline import Timeline, mark_events
from api.schemas.activity import AttemptOut, EventOut
from api.schemas.costs import CostEntry, JobCostOut
from api.schemas.pool import DeviceOut, HoldOut, PoolHistoryOut
from api.schemas.teams import BudgetOut, ShareOut, SharesOut, TeamOut
from orchestrator.domain.budgets import BudgetPeriod
from orchestrator.domain.states import AttemptState
from orchestrator.domain.teams import AuditEntry, WhenExhausted
from orchestrator.services.costs import Spend
from orchestrator.services.pool import NodeWish
from tests.support.facts import START, make_attempt
from tests.support.pages import ROOT

GIB = 2**30


def entry(began: int, ended: int, micros: int, *, attempt: int = 1, billed: bool = True) -> CostEntry:
    return CostEntry.model_construct(
        attempt=attempt, started_at=began, ended_at=ended, amount_usd_micros=micros, billed=billed
    )


def bill(*entries: CostEntry, running: int = 0) -> JobCostOut:
    return JobCostOut.model_construct(entries=list(entries), running_usd_micros=running)


def test_cost_rises_while_an_attempt_runs_and_rests_between() -> None:
    burn = draw_burn(bill(entry(0, 100, 500), entry(150, 200, 500)), [], predicted=2000, limit=1500, now=999)
    assert burn is not None
    assert burn.line.count("L") == 3
    assert burn.line.startswith("M0 100L500 ")
    assert burn.line.split("L")[1].split()[1] == burn.line.split("L")[2].split()[1], "it rests between attempts"
    assert [(level.name, level.usd_micros) for level in burn.levels] == [("predicted", 2000), ("limit", 1500)]
    assert burn.levels[0].y < burn.levels[1].y
    assert burn.beyond is None


def test_devices_that_train_together_cost_together() -> None:
    """The ledger has an entry for each of them; the line goes forward, as for one device that cost it all."""
    entries = [entry(0, 100, 300), entry(0, 100, 200), entry(150, 200, 400, attempt=2), entry(150, 200, 100, attempt=2)]
    single = [entry(0, 100, 500), entry(150, 200, 500, attempt=2)]
    together, alone = (draw_burn(bill(*found), [], predicted=None, limit=None, now=0) for found in (entries, single))
    assert together is not None
    assert together == alone
    xs = [float(place.split()[0]) for place in together.line.removeprefix("M").split("L")]
    assert xs == sorted(xs) == [0, 500, 750, 1000]


def test_lost_time_costs_nothing_and_what_runs_costs_up_to_now() -> None:
    running = AttemptOut.of(make_attempt(AttemptState.RUNNING))
    began = int(START.timestamp())
    burn = draw_burn(
        bill(entry(0, 100, 500, billed=False), running=700), [running], predicted=None, limit=None, now=began + 60
    )
    assert burn is not None
    assert (burn.begin, burn.end) == (began, began + 60)
    assert burn.line == f"M0 100L1000 {100 - 100 / 1.15:.4g}"


def test_a_limit_far_above_does_not_flatten_the_chart() -> None:
    burn = draw_burn(bill(entry(0, 100, 500)), [], predicted=600, limit=100_000, now=0)
    assert burn is not None
    assert [level.name for level in burn.levels] == ["predicted"]
    assert burn.beyond is not None
    assert burn.beyond.usd_micros == 100_000


def test_nothing_is_drawn_before_anything_started() -> None:
    assert draw_burn(bill(), [], predicted=5, limit=5, now=9) is None


def shares(*rows: tuple[str, list[float], list[float]]) -> SharesOut:
    data = [
        ShareOut(id=name, object="team.share", name=name, devices=devices, guarantees=guarantees)
        for name, devices, guarantees in rows
    ]
    return SharesOut(object="team.shares", since=0, until=7200, slot_seconds=3600, data=data)


def test_shares_are_steps_on_one_scale_the_largest_first() -> None:
    found = shares(("a", [0, 1], [1, 1]), ("b", [2, 2], [0, 4]))
    first, second = draw_shares(found, with_slots=True)
    assert (first.name, second.name) == ("b", "a")
    assert first.area == "M0 100V54.55H500V54.55H1000V100Z"
    assert second.area == "M0 100V100H500V77.27H1000V100Z"
    assert (second.average, second.highest, second.guaranteed) == (0.5, 1, 1)
    assert first.slots[1].title == "1 January 01:00 UTC: 2.00 held, 4 guaranteed"
    assert [chart.slots for chart in draw_shares(found)] == [(), ()]


def test_a_team_that_held_nothing_has_a_flat_chart() -> None:
    (chart,) = draw_shares(shares(("a", [0, 0], [0, 0])))
    assert chart.area == "M0 100V100H500V100H1000V100Z"
    (empty,) = draw_shares(shares(("a", [], [])))
    assert empty.area == "M0 100V100Z"


def held(since: int, until: int | None, size: int, *, team: str | None = "a") -> HoldOut:
    return HoldOut(
        attempt_id=team and "attempt-1",
        job_id=team and "ftjob-1",
        team_id=team,
        team=team,
        device_id="n/cuda:0",
        device_type="gpu",
        node="n",
        reserved_bytes=size,
        peak_device_bytes=0,
        since=since,
        until=until,
    )


def past(*holds: HoldOut) -> PoolHistoryOut:
    return PoolHistoryOut(object="pool.history", since=0, until=1000, data=list(holds))


def test_holds_at_the_same_time_lie_on_one_another_and_room_is_used_again() -> None:
    history = show_history(past(held(-50, 400, 2), held(100, None, 4), held(500, 900, 2, team=None)), [])
    (device,) = history.devices
    first, second, third = device.stretches
    assert (first.x, first.width, first.y, first.height) == (0, 400, 75, 25)
    assert (second.x, second.width, second.y, second.height) == (100, 900, 25, 50)
    assert (third.x, third.width, third.y) == (500, 400, 75)
    assert third.look == "other"
    assert "another team" in third.title
    assert [runner.name for runner in history.runners] == ["a", None]


def test_of_very_many_holds_the_latest_are_drawn() -> None:
    """What was used counts all of them: half of the device, all the time."""
    device = DeviceOut.model_construct(id="n/cuda:0", device_type="gpu", usable_bytes=2, online=True)
    bars = [DeviceBar(device=device, blocks=(), width=1000)]
    history = show_history(past(*(held(n, n + 1, 1) for n in range(MOST_BLOCKS + 5))), bars)
    assert (history.total, history.drawn) == (MOST_BLOCKS + 5, MOST_BLOCKS)
    assert history.rows[0].since == MOST_BLOCKS + 4
    assert len(history.devices[0].stretches) == MOST_BLOCKS
    assert history.devices[0].used_percent == 50


def team_with(percent: float | None, **budget: Any) -> TeamOut:
    values = {"budget_usd": None, "billed_usd": "0.000000", "held_usd": "0.000000", "left_usd": None, **budget}
    state = BudgetOut(used_percent=percent, period_started_at=0, period_ends_at=1, **values)
    return TeamOut.model_construct(
        name="a", budget=state, budget_period=BudgetPeriod.MONTH, when_exhausted=WhenExhausted.WAIT
    )


def test_a_budget_is_a_meter_that_warns() -> None:
    none = show_budget(team_with(None))
    assert (none.total, none.placed, none.look) == (None, [], "")
    amounts = {"budget_usd": "10.000000", "billed_usd": "6.500000", "held_usd": "2.000000", "left_usd": "1.500000"}
    near = show_budget(team_with(85, **amounts))
    assert (near.total, near.billed, near.held, near.left) == (10_000_000, 6_500_000, 2_000_000, 1_500_000)
    assert [(placed.x, placed.width) for placed in near.placed] == [(0, 650), (650, 200)]
    assert near.look == "near"
    assert near.warning_x == 800
    assert show_budget(team_with(100, **amounts)).look == "over"


def test_a_team_with_a_budget_shows_what_it_spent_wherever_it_stands() -> None:
    spends = [
        Spend(team_id=name, team_name=name, model="tiny", billed_usd_micros=micros, lost_usd_micros=0)
        for name, micros in (("first", 9), ("second", 7), ("third", 5))
    ]
    budgets = {name: show_budget(team_with(50)) for name in ("second", "third", "thrifty", "many")}
    lines = show_team_lines(spends, budgets, most=2)
    assert [(line.row.name, line.row.billed_usd_micros) for line in lines] == [
        ("first", 9),
        ("second", 7),
        ("third", 5),
        ("thrifty", 0),
    ]
    assert [line.meter is None for line in lines] == [True, False, False, False]


def test_changes_are_told_in_words_with_what_was_before() -> None:
    def change(action: str, subject: str, **data: Any) -> AuditEntry:
        return AuditEntry(audit_id=1, at=START, key_id="key-9", team_id="t", action=action, subject=subject, data=data)

    entries = [
        change(
            "team.terms",
            "vision",
            guarantee_micros={"from": 0, "to": 2_500_000},
            budget_usd_micros={"from": None, "to": 5_000_000},
        ),
        change("key.create", "key-1", name="CI", role="member"),
        change("job.queue", "ftjob-1", held=True),
        change("moon.landing", "x"),
    ]
    terms, key, job, other = show_changes(entries, {"key-9": "laptop"})
    assert [(d.name, d.before) for d in terms.details] == [("guarantee", "0 devices"), ("budget", "none")]
    assert terms.details[0].after == "2.5 devices"
    assert "$5.00" in terms.details[1].after
    assert (terms.actor, key.subject, job.job_id, other.words) == ("laptop", "CI", "ftjob-1", "moon.landing")
    assert [(d.name, d.after) for d in job.details] == [("held", "yes")]


def test_every_action_that_the_control_plane_logs_has_words() -> None:
    """Read from the calls themselves: the action is the third argument, of what the pool did by itself the second."""
    places = {"append_entry": 2, "append_automatic": 1}
    written: set[str] = set()
    for path in (ROOT / "orchestrator").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name("audit"), attr=name)) if name in places:
                    written |= _actions(node.args[places[name]])
    assert written == set(WORDS)
    assert len(written) == 14


def _actions(argument: ast.expr) -> set[str]:
    text = ast.unparse(argument)
    return {f"node.{wish}" for wish in NodeWish} if text == "f'node.{wish.value}'" else {ast.literal_eval(text)}


def test_events_lie_where_they_happened_errors_on_top() -> None:
    def event(at: int, level: str) -> EventOut:
        return EventOut.model_construct(created_at=at, level=level, message=level)

    life = Timeline(begin=1000, end=2000, spans=[])
    marks = mark_events([event(2000, "error"), event(1000, "info"), event(1500, "warn")], life)
    assert [(mark.look, mark.x) for mark in marks] == [("info", 0), ("warn", 500), ("error", 1000)]
    assert marks[1].title == "8 min 20 s after creation: warn"
