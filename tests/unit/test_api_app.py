"""The application as it is put together: threads that fit the database's connections, and what its values turn into."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from api.app import RESERVED_CONNECTIONS, handler_threads, upload_threads
from api.schemas.jobs import JobOut
from api.schemas.submissions import JobCreate
from api.schemas.wire import unix, usd
from orchestrator.domain.jobs import JobError
from orchestrator.domain.pace import Pace
from orchestrator.domain.spec import JobSpec
from orchestrator.domain.states import JobState
from orchestrator.services.jobs import JobExtras
from orchestrator.settings import Settings
from tests.support.facts import START, make_attempt, make_job
from tests.support.plans import make_plan

NOTHING = JobExtras(team_name="vision", billed_usd_micros=0, lost_usd_micros=0, adapter=None, attempt=None)


@pytest.mark.parametrize("connections", [2, 3, 5, 20, 200])
def test_threads_never_want_more_connections_than_there_are(connections: int) -> None:
    settings = Settings(database_connections=connections)
    threads = handler_threads(settings) + upload_threads(settings)
    assert handler_threads(settings) >= 1
    assert threads <= max(connections - RESERVED_CONNECTIONS, 2)


@pytest.mark.parametrize(
    ("micros", "text"),
    [(0, "0.000000"), (1, "0.000001"), (1_234_567, "1.234567"), (10**16 + 1, "10000000000.000001")],
)
def test_dollars_are_exact(micros: int, text: str) -> None:
    assert usd(micros) == text
    assert int(Decimal(text) * 1_000_000) == micros


def test_moments_are_whole_seconds_rounded_down() -> None:
    assert unix(datetime(2026, 11, 1, 0, 0, 0, 999_999, tzinfo=UTC)) == unix(datetime(2026, 11, 1, tzinfo=UTC))


def test_the_older_hyperparameters_become_the_methods() -> None:
    asked = {"model": "m", "training_file": "f", "hyperparameters": {"n_epochs": 4}, "team": "x", "integrations": []}
    assert JobCreate.model_validate(asked).to_spec() == JobSpec.model_validate(
        {"model": "m", "training_file": "f", "method": {"supervised": {"hyperparameters": {"n_epochs": 4}}}}
    )


def test_both_forms_may_be_given_when_they_agree() -> None:
    same = {"n_epochs": 4, "batch_size": 2}
    method = {"type": "supervised", "supervised": {"hyperparameters": same}}
    asked = {"model": "m", "training_file": "f", "hyperparameters": same, "method": method}
    assert JobCreate.model_validate(asked).to_spec().method.supervised.hyperparameters.n_epochs == 4
    with pytest.raises(ValueError, match="differ"):
        JobCreate.model_validate(asked | {"hyperparameters": {"n_epochs": 5}})
    rate = {"hyperparameters": {"learning_rate_multiplier": 2}, "training": {"learning_rate": 0.1}, "method": None}
    with pytest.raises(ValueError, match="not both"):
        JobCreate.model_validate(asked | rate)


def test_an_error_is_shown_with_its_param_and_only_when_there_is_one() -> None:
    failed = make_job(state=JobState.FAILED, error=JobError(code="out_of_memory", message="No."))
    shown = JobOut.of(failed, NOTHING).error
    assert shown is not None
    assert shown.model_dump() == {"code": "out_of_memory", "message": "No.", "param": None}
    assert JobOut.of(make_job(), NOTHING).error is None


def test_the_finish_is_estimated_from_the_attempts_own_speed() -> None:
    """Resumed at step 10, at step 30 after 100 s, so 20 of 50 steps are left: 100 s more."""
    job = make_job(state=JobState.RUNNING, current_step=30, total_steps=50)
    attempt = make_attempt(resumed_from_step=10, started_at=START, last_contact_at=START + timedelta(seconds=100))
    extras = JobExtras(team_name="vision", billed_usd_micros=0, lost_usd_micros=0, adapter=None, attempt=attempt)
    assert JobOut.of(job, extras).estimated_finish == unix(START) + 200
    assert JobOut.of(make_job(state=JobState.QUEUED, total_steps=50), extras).estimated_finish is None
    assert JobOut.of(make_job(state=JobState.RUNNING, current_step=10, total_steps=50), extras).estimated_finish is None


def test_the_finish_follows_the_steps_and_not_the_loading_once_there_are_steps() -> None:
    """100 s after the launch, of which 60 went on loading; 4 s a step since, 20 steps are left, 6 s to save."""
    estimate = {"time": {"cpu": {"breakdown": {"saving": 6.0}}}}
    job = make_job(state=JobState.RUNNING, current_step=30, total_steps=50, plan=make_plan(), estimate=estimate)
    pace = Pace(phase="training", since_unix=60.0, last_unix=100.0, steps=10, recent_seconds=(4.0,) * 10)
    attempt = make_attempt(resumed_from_step=20, last_contact_at=START + timedelta(seconds=100), pace=pace)
    extras = JobExtras(team_name="vision", billed_usd_micros=0, lost_usd_micros=0, adapter=None, attempt=attempt)
    assert JobOut.of(job, extras).estimated_finish == unix(START) + 100 + 20 * 4 + 6


def test_a_queued_job_that_no_device_can_hold_says_so() -> None:
    queued = make_job(state=JobState.QUEUED, estimate={"device_id": None})
    assert "No device" in JobOut.of(queued, NOTHING).warnings[0]
    assert JobOut.of(make_job(state=JobState.QUEUED, estimate={"device_id": "a"}), NOTHING).warnings == []
