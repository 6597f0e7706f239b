"""Why a job waits."""

from typing import Any, Literal

from api.schemas.wire import Identified, Wire
from orchestrator.domain.scheduling.actions import WaitCode
from orchestrator.domain.scheduling.sentences import hint_sentence, wait_sentence
from orchestrator.services.why import Why


class HintOut(Wire):
    """What would let the job start now, or next."""

    code: str
    sentence: str
    facts: dict[str, Any]


class WhyOut(Identified):
    """The one reason that holds the job back, first in the order in which reasons are looked at."""

    object: Literal["fine_tuning.job.wait"]
    code: WaitCode | None
    """Null for a job that is about to start."""
    sentence: str
    facts: dict[str, Any]
    position: int | None
    """In the queue of all teams, from 1; null for a job that is held back."""
    waiting: int
    """How many jobs wait."""
    expected_start_at: int | None
    """The same decision run forward, with times as predicted; null where nothing that is known lets the job start."""
    would_start_if: list[HintOut]

    @classmethod
    def of(cls, why: Why) -> "WhyOut":
        wait = why.wait
        return cls(
            id=why.job.job_id,
            object="fine_tuning.job.wait",
            code=None if wait is None else wait.code,
            sentence="It is about to start." if wait is None else wait_sentence(wait),
            facts={} if wait is None else dict(wait.facts),
            position=why.position,
            waiting=why.of,
            expected_start_at=None if why.expected_start_at is None else round(why.expected_start_at),
            would_start_if=[
                HintOut(code=hint.code.value, sentence=hint_sentence(hint), facts=dict(hint.facts))
                for hint in why.hints
            ],
        )
