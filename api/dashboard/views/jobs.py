"""Jobs as the API shows them, and the words and groups that pages use for their states."""

from collections.abc import Sequence

from api.schemas.jobs import JobOut
from orchestrator.domain.jobs import Job
from orchestrator.domain.states import FINAL_JOB_STATES, JobState
from orchestrator.domain.teams import Caller
from orchestrator.services.jobs import Jobs

ACTIVE = (JobState.RUNNING, JobState.PAUSING)
WAITING = (JobState.VALIDATING_FILES, JobState.QUEUED, JobState.PAUSED)
WAITS = frozenset({JobState.VALIDATING_FILES.value, JobState.QUEUED.value})
"""States in which a job may be held back, or released."""
WORDS = {
    JobState.VALIDATING_FILES: "validating",
    JobState.QUEUED: "queued",
    JobState.RUNNING: "running",
    JobState.PAUSING: "pausing",
    JobState.PAUSED: "paused",
    JobState.SUCCEEDED: "succeeded",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
}
"""What a state is called on a page."""
FINAL = frozenset(state.value for state in FINAL_JOB_STATES)


def show_jobs(jobs: Jobs, caller: Caller, found: Sequence[Job]) -> list[JobOut]:
    extras = jobs.describe(caller, found)
    return [JobOut.of(job, extras[job.job_id]) for job in found]


def find_actions(job: JobOut) -> list[str]:
    """What may be asked of a job in this state, as the services will allow it."""
    if job.status in FINAL:
        return []
    if job.cancel_requested:
        return []
    moves = {"paused": ["resume"], "pausing": []}.get(job.status, ["pause"])
    holds = (["release"] if job.held else ["hold"]) if job.status in WAITS else []
    return [*holds, *moves, "cancel"]
