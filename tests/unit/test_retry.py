"""Which failures are tried again, how often and how long after."""

import pytest

from orchestrator.domain.failures import FAILURE_RULES, Blame, FailureKind
from orchestrator.domain.retry import LONGEST_DELAY_SECONDS, MAX_PLATFORM_FAILURES, decide_retry

RETRYABLE = {FailureKind.STORAGE, FailureKind.PLATFORM, FailureKind.LOST, FailureKind.BAD_ARTIFACT}


def test_every_kind_has_a_rule_with_a_hint() -> None:
    assert len(FailureKind) == 12
    assert set(FAILURE_RULES) == set(FailureKind)
    assert all(rule.hint.endswith(".") for rule in FAILURE_RULES.values())


def test_the_platforms_failures_and_no_others_are_tried_again() -> None:
    assert {kind for kind in FailureKind if decide_retry(kind, 0).retry} == RETRYABLE
    ours = {kind for kind, rule in FAILURE_RULES.items() if rule.blame is Blame.PLATFORM}
    assert ours == RETRYABLE | {FailureKind.OUT_OF_MEMORY}, "the estimate is ours; a remedy follows, not the same again"


@pytest.mark.parametrize("kind", sorted(RETRYABLE))
def test_delays_double_and_tries_end(kind: FailureKind) -> None:
    decisions = [decide_retry(kind, before) for before in range(MAX_PLATFORM_FAILURES + 2)]
    assert [decision.retry for decision in decisions] == [True] * (MAX_PLATFORM_FAILURES - 1) + [False] * 3
    assert [decision.delay_seconds for decision in decisions] == [2, 4, 8, 16, 0, 0, 0]
    assert max(decision.delay_seconds for decision in decisions) <= LONGEST_DELAY_SECONDS
