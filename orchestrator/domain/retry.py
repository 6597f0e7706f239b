"""Whether a failed attempt is followed by another, and when. Pure, bounded, jitter-free (the loops add their own)."""

from dataclasses import dataclass

from orchestrator.domain.failures import FAILURE_RULES, FailureKind

MAX_PLATFORM_FAILURES = 5
"""Attempts that the platform may fail before a job is given up (reliability study, section 10)."""
FIRST_DELAY_SECONDS = 2
LONGEST_DELAY_SECONDS = 300


@dataclass(frozen=True, kw_only=True)
class RetryDecision:
    retry: bool
    delay_seconds: int


def decide_retry(kind: FailureKind, failures_before: int) -> RetryDecision:
    """`failures_before` counts this job's earlier attempts that the platform failed. Delays double: 2, 4, 8 … 300 s."""
    if not FAILURE_RULES[kind].retryable or failures_before + 1 >= MAX_PLATFORM_FAILURES:
        return RetryDecision(retry=False, delay_seconds=0)
    delay = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** min(failures_before, 20))
    return RetryDecision(retry=True, delay_seconds=delay)
