"""Attempts and jobs as values, for tests of pure functions: every detail that a test does not care about filled in."""

from datetime import UTC, datetime, timedelta
from typing import Any

from orchestrator.domain.attempts import Attempt
from orchestrator.domain.jobs import Job
from orchestrator.domain.pricing import Rate
from orchestrator.domain.spec import JobSpec
from orchestrator.domain.states import AttemptState, JobState

START = datetime(2026, 11, 1, tzinfo=UTC)
NOW = START + timedelta(seconds=100)
RATE = Rate(price_usd_micros_per_hour=3_600_000, reserved_bytes=1, device_bytes=1)


def make_attempt(state: AttemptState = AttemptState.RUNNING, **changes: Any) -> Attempt:
    values: dict[str, Any] = {
        "attempt_id": "attempt-1",
        "job_id": "ftjob-1",
        "team_id": "team-1",
        "number": 1,
        "state": state,
        "phase": None,
        "device_id": "node-a/cpu:0",
        "node_name": "node-a",
        "device_type": "cpu",
        "reserved_bytes": 100,
        "rate": RATE,
        "lease_owner": "control-1",
        "lease_token": "token",
        "lease_generation": 1,
        "lease_expires_at": NOW,
        "cursor": 0,
        "resumed_from_step": None,
        "stop_reason": None,
        "stop_requested_at": None,
        "failure_kind": None,
        "failure_message": None,
        "created_at": START,
        "started_at": START,
        "last_contact_at": NOW - timedelta(seconds=1),
        "ended_at": None,
        "released_at": None,
        "peak_allocated_bytes": 0,
        "peak_reserved_bytes": 0,
        "peak_device_bytes": 0,
        **changes,
    }
    return Attempt(**values)


def make_job(**changes: Any) -> Job:
    values: dict[str, Any] = {
        "job_id": "ftjob-1",
        "team_id": "team-1",
        "created_by": "key-1",
        "spec": JobSpec(model="smol", training_file="file-1"),
        "seed": 1,
        "model_name": "smol",
        "state": JobState.RUNNING,
        **dict.fromkeys(
            ("phase", "plan", "footprints", "estimate", "total_steps", "error", "fine_tuned_model", "queued_at")
        ),
        **dict.fromkeys(("not_before_at", "started_at", "finished_at", "cancel_requested_at", "pause_requested_at")),
        "current_step": 0,
        "trained_tokens": 0,
        "platform_failures": 0,
        "attempts": 1,
        "result_files": (),
        "created_at": START,
        **changes,
    }
    return Job(**values)
