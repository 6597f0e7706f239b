"""What journal entries mean, however they are cut into batches."""

import pytest

from orchestrator.domain.failures import FailureKind
from orchestrator.domain.outcomes import AttemptEnd
from orchestrator.domain.protocol import (
    CheckpointStored,
    Entry,
    Failed,
    LogLine,
    Metric,
    Peak,
    Phase,
    Progress,
    Stopped,
    Succeeded,
)
from orchestrator.domain.states import AttemptState
from orchestrator.scheduler.journal import decide_end, decide_silent_end, digest_entries
from orchestrator.scheduler.watching import before_outcome
from tests.support.launchers import GIB, AnyReport


def _entries(*reports: AnyReport) -> list[Entry]:
    return [Entry(seq=seq, at_unix=1000.0 + seq, report=report) for seq, report in enumerate(reports, start=1)]


SUCCESS = Succeeded(key_prefix="p/", files=(), step=3, trained_tokens=9, metrics={}, lineage={})
STORY = _entries(
    Phase(phase="downloading"),
    LogLine(stream="stdout", text="a"),
    Peak(allocated_bytes=5, reserved_bytes=1, device_bytes=7),
    Metric(step=1, values={"train_loss": 1.0}),
    Progress(step=1, total_steps=3, trained_tokens=3),
    Phase(phase="training"),
    CheckpointStored(step=1, key_prefix="c/", files=(), metrics={}, save_seconds=1),
    Peak(allocated_bytes=4, reserved_bytes=2, device_bytes=8),
    LogLine(stream="stderr", text="b"),
    Progress(step=3, total_steps=3, trained_tokens=9),
    SUCCESS,
)


def test_a_digest_holds_all_rows_and_the_newest_figures() -> None:
    digest = digest_entries(STORY, cursor=0)
    assert [entry.report.text for entry in digest.logs if isinstance(entry.report, LogLine)] == ["a", "b"]
    assert [entry.seq for entry in digest.metrics] == [4]
    assert [entry.seq for entry in digest.checkpoints] == [7]
    assert digest.progress == Progress(step=3, total_steps=3, trained_tokens=9)
    assert digest.phase == "training"
    assert digest.peak == Peak(allocated_bytes=5, reserved_bytes=2, device_bytes=8)
    assert digest.outcome == SUCCESS
    assert (digest.cursor, digest.last_entry_at_unix) == (11, 1011.0)


@pytest.mark.parametrize("cut", range(len(STORY) + 1))
def test_two_batches_say_the_same_as_one(cut: int) -> None:
    whole = digest_entries(STORY, cursor=0)
    first = digest_entries(STORY[:cut], cursor=0)
    # The second answer overlaps the first: a pull was repeated.
    second = digest_entries(STORY[max(0, cut - 3) :], cursor=first.cursor)
    assert first.logs + second.logs == whole.logs
    assert first.metrics + second.metrics == whole.metrics
    assert first.checkpoints + second.checkpoints == whole.checkpoints
    assert second.cursor == whole.cursor


def test_nothing_new_leaves_the_cursor_where_it_is() -> None:
    digest = digest_entries(STORY, cursor=99)
    assert (digest.cursor, digest.logs, digest.outcome) == (99, (), None)


def test_a_traceback_goes_to_the_log_and_not_into_the_failure() -> None:
    failed = Failed(failure=FailureKind.DIVERGED, message="Not finite.", detail="Traceback")
    digest = digest_entries(_entries(failed), cursor=0)
    (line,) = digest.logs
    assert line.report == LogLine(stream="tunepool", level="error", text="Traceback")
    end = decide_end(failed)
    assert end.failure is not None
    assert "Traceback" not in end.failure.message


def test_entries_up_to_the_outcome_are_cut_before_it() -> None:
    assert before_outcome(STORY) == STORY[:-1]
    assert before_outcome(STORY[:5]) == STORY[:5]


@pytest.mark.parametrize(
    ("reason", "state", "kind"),
    [
        ("cancelled", AttemptState.CANCELLED, None),
        ("paused", AttemptState.INTERRUPTED, None),
        ("lease_expired", AttemptState.INTERRUPTED, None),
        ("shutdown", AttemptState.INTERRUPTED, None),
        ("budget_exceeded", AttemptState.INTERRUPTED, FailureKind.BUDGET),
        ("timeout", AttemptState.INTERRUPTED, FailureKind.TIMEOUT),
    ],
)
def test_each_reason_to_stop_has_its_end(reason: str, state: AttemptState, kind: FailureKind | None) -> None:
    end = decide_end(Stopped(reason=reason, step=4))  # type: ignore[arg-type]
    assert (end.state, end.failure and end.failure.kind) == (state, kind)


def _silent(exit_code: int | None, *, stop_reason: str | None = None, peak: int = 0) -> AttemptEnd:
    return decide_silent_end(exit_code, stop_reason=stop_reason, peak_device_bytes=peak, reserved_bytes=GIB)


@pytest.mark.parametrize(
    ("exit_code", "peak", "words"),
    [
        (-9, 0, "The training process was ended by SIGKILL."),
        (-9, int(0.95 * GIB), "running out of memory is a likely cause"),
        (-11, 0, "SIGSEGV."),
        (137, GIB - 1, "SIGKILL. Its memory had reached 1.00 GiB of 1.00 GiB reserved"),
        (-15, GIB, "SIGTERM."),
        (-63, 0, "signal 63"),
        (3, 0, "exit code 3"),
        (0, 0, "exit code 0 and without an outcome"),
        (None, 0, "without saying why"),
    ],
)
def test_a_process_that_says_nothing_is_lost_with_what_is_known(exit_code: int | None, peak: int, words: str) -> None:
    end = _silent(exit_code, peak=peak)
    assert end.state is AttemptState.LOST
    assert end.failure is not None
    assert words in end.failure.message


@pytest.mark.parametrize("exit_code", [-6, -7, -9, -11, 137])
def test_a_process_that_used_all_that_was_reserved_and_died_ran_out_of_memory(exit_code: int) -> None:
    end = _silent(exit_code, peak=GIB)
    assert end.state is AttemptState.FAILED
    assert end.failure is not None
    assert end.failure.kind is FailureKind.OUT_OF_MEMORY
    assert "had reached 1.00 GiB of 1.00 GiB reserved" in end.failure.message


@pytest.mark.parametrize("exit_code", [-6, -7, -11])
def test_a_library_that_crashed_close_to_the_reservation_was_refused_memory(exit_code: int) -> None:
    end = _silent(exit_code, peak=int(0.95 * GIB))
    assert end.failure is not None
    assert end.failure.kind is FailureKind.OUT_OF_MEMORY


def test_a_kill_after_a_stop_that_was_asked_for_is_that_stop() -> None:
    assert _silent(-9, stop_reason="preempted").state is AttemptState.INTERRUPTED
    assert _silent(-9, stop_reason="cancelled").state is AttemptState.CANCELLED
    budget = _silent(-9, stop_reason="budget_exceeded")
    assert budget.failure is not None
    assert (budget.state, budget.failure.kind) == (AttemptState.INTERRUPTED, FailureKind.BUDGET)
    assert _silent(-9, stop_reason="paused").state is AttemptState.LOST
