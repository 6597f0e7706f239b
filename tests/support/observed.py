"""Observations as values, for tests of what is learned from them: every detail that does not matter filled in."""

from typing import Any

from orchestrator.domain.observations import ESTIMATORS, JobKind, Observation
from tests.support.facts import NOW
from tests.support.launchers import GIB

KIND = JobKind(
    base_model="smol", family="llama", method="supervised", quantization="none", length_tokens=128, device_type="cpu"
)


def make_observation(*, ratio: float = 1.0, speed: float = 1.0, **changes: Any) -> Observation:
    """A whole run that took `ratio` times the predicted memory and `speed` times the predicted seconds."""
    values: dict[str, Any] = {
        "attempt_id": "attempt-1",
        "job_id": "ftjob-1",
        "team_id": "team-1",
        "kind": KIND,
        "ended_at": NOW,
        "estimator": ESTIMATORS["closed_form"],
        "succeeded": True,
        "out_of_memory": False,
        "resumed": False,
        "predicted_bytes": GIB,
        "told_bytes": GIB,
        "reserved_bytes": GIB,
        "measured_bytes": int(ratio * GIB),
        "peak_allocated_bytes": 0,
        "peak_reserved_bytes": 0,
        "peak_device_bytes": int(ratio * GIB),
        "steps": 15,
        "trained_tokens": 1500,
        "seen_tokens": 4000,
        "predicted_seconds": {"start": 20.0, "loading": 10.0, "training": 100.0, "saving": 2.0},
        "phase_seconds": {
            "launching": 10.0 * speed,
            "tokenizing": 10.0 * speed,
            "loading_model": 10.0 * speed,
            "training": 100.0 * speed,
            "saving": 2.0 * speed,
        },
        "told_seconds": 132.0,
        "run_seconds": 132.0 * speed,
        **changes,
    }
    return Observation(**values)
