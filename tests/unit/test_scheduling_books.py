"""The books of a team: shares now, decayed usage, and the charge at the start."""

from math import exp, log

import pytest

from orchestrator.domain.scheduling.books import TeamBook
from orchestrator.domain.scheduling.facts import PriorityClass, Rules, RunningJob
from tests.support.pools import team

DAY = 86_400.0


def _job(job_id: str, started_at: float, seconds: float = 1e9) -> RunningJob:
    return RunningJob(
        job_id=job_id,
        team_id="a",
        user_id="u",
        priority_class=PriorityClass.NORMAL,
        holds=(),
        started_at=started_at,
        expected_end_at=started_at + seconds,
        saved_at=started_at,
    )


def test_usage_of_ended_attempts_halves_each_day() -> None:
    book = TeamBook(team("a", usage=800.0, usage_at=0.0), Rules())
    assert book.usage(2 * DAY) == pytest.approx(200.0)


def test_a_young_job_counts_for_its_start_charge() -> None:
    book = TeamBook(team("a"), Rules())
    book.add(_job("long", 1_000.0), 500_000)
    book.add(_job("short", 1_000.0, 600.0), 1_000_000)
    assert book.usage(1_000.0) == pytest.approx(0.5 * 3_600 + 600)


def test_an_old_job_counts_for_the_decayed_integral_of_its_rate() -> None:
    book = TeamBook(team("a"), Rules())
    book.add(_job("job", 5 * DAY), 500_000)
    rate = log(2) / DAY
    assert book.usage(8 * DAY) == pytest.approx(0.5 * (1 - exp(-rate * 3 * DAY)) / rate, rel=1e-5)


def test_usage_may_be_asked_for_an_earlier_moment() -> None:
    book = TeamBook(team("a"), Rules())
    book.add(_job("job", 0.0), 1_000_000)
    early = book.usage(600.0)
    book.usage(10 * DAY)
    assert book.usage(600.0) == early


def test_what_is_removed_leaves_nothing_behind() -> None:
    book = TeamBook(team("a"), Rules())
    for number in range(20):
        book.add(_job(f"j{number}", number * 7_001.0), 333_333)
    book.usage(70_000.0)
    for number in range(20):
        book.remove(f"j{number}")
    assert (book.usage(80_000.0), book.rate_micros, dict(book.users)) == (0.0, 0, {})
