"""Every exception has a failure kind, found through its causes, and its message shows no training data."""

import errno

import numpy as np
import pytest
import torch
from jinja2 import TemplateSyntaxError
from safetensors import SafetensorError, deserialize

from orchestrator.domain.failures import FAILURE_RULES, FailureKind
from orchestrator.domain.protocol import StopReason
from workers import failures
from workers.failures import (
    BadDataError,
    DivergedError,
    ModelError,
    StopRequested,
    StorageError,
    UserError,
    WorkerError,
    classify,
)

KINDS_OF_THE_CONTROL_PLANE = {
    FailureKind.CANCELLED,
    FailureKind.TIMEOUT,
    FailureKind.BUDGET,
    FailureKind.LOST,
    FailureKind.BAD_ARTIFACT,
}
CASES: list[tuple[BaseException, FailureKind]] = [
    (BadDataError(3, "not_json", "the line is not JSON"), FailureKind.BAD_DATA),
    (TemplateSyntaxError("unexpected end", 1), FailureKind.BAD_DATA),
    (UserError("the optimizer needs CUDA"), FailureKind.USER),
    (ModelError("no safetensors"), FailureKind.MODEL),
    (SafetensorError("header"), FailureKind.MODEL),
    (DivergedError("not finite"), FailureKind.DIVERGED),
    (StorageError("status 503"), FailureKind.STORAGE),
    (WorkerError("the hub"), FailureKind.PLATFORM),
    (MemoryError(), FailureKind.OUT_OF_MEMORY),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), FailureKind.OUT_OF_MEMORY),
    (RuntimeError("CUDA error: out of memory"), FailureKind.OUT_OF_MEMORY),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), FailureKind.OUT_OF_MEMORY),
    (OSError(errno.ENOSPC, "No space left on device"), FailureKind.PLATFORM),
    (RuntimeError("shape mismatch"), FailureKind.PLATFORM),
    (KeyError("secret row"), FailureKind.PLATFORM),
]


@pytest.mark.parametrize(("error", "kind"), CASES, ids=lambda value: repr(value)[:40])
def test_an_exception_has_its_kind(error: BaseException, kind: FailureKind) -> None:
    assert classify(error).failure is kind


def test_every_kind_is_the_workers_or_the_control_planes() -> None:
    assert {kind for _, kind in CASES} | KINDS_OF_THE_CONTROL_PLANE == set(FAILURE_RULES)
    assert not {kind for _, kind in CASES} & KINDS_OF_THE_CONTROL_PLANE


def test_every_error_of_the_package_is_covered() -> None:
    own = {cls for cls in vars(failures).values() if isinstance(cls, type) and issubclass(cls, Exception)}
    assert own - {StopRequested} == {type(error) for error, _ in CASES} & own
    assert len(own) == 7


@pytest.mark.parametrize("allocate", [lambda: torch.empty(2**50), lambda: np.empty(2**50)])
def test_a_real_failed_allocation_is_out_of_memory(allocate: object) -> None:
    assert callable(allocate)
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    assert classify(caught.value).failure is FailureKind.OUT_OF_MEMORY


@pytest.mark.parametrize("text", ["can't start new thread", "could not create a primitive"])
def test_what_was_refused_without_a_reason_is_out_of_memory_only_where_memory_is_short(text: str) -> None:
    refused = RuntimeError(text)
    assert classify(refused).failure is FailureKind.PLATFORM, "too many threads of others, perhaps"
    assert classify(refused, is_memory_short=lambda: True).failure is FailureKind.OUT_OF_MEMORY
    assert classify(RuntimeError("shape mismatch"), is_memory_short=lambda: True).failure is FailureKind.PLATFORM


def test_a_real_broken_file_is_the_models() -> None:
    with pytest.raises(SafetensorError) as caught:
        deserialize(b"not safetensors at all")
    assert classify(caught.value).failure is FailureKind.MODEL


def test_causes_count_and_want_of_memory_beats_what_wraps_it() -> None:
    wrapped = RuntimeError("step failed")
    wrapped.__cause__ = StorageError("status 500")
    assert classify(wrapped).failure is FailureKind.STORAGE
    hidden = ModelError("cannot be loaded")
    hidden.__context__ = torch.OutOfMemoryError("no room")
    assert classify(hidden).failure is FailureKind.OUT_OF_MEMORY
    hidden.__suppress_context__ = True
    assert classify(hidden).failure is FailureKind.MODEL


def test_a_ring_of_causes_ends() -> None:
    one, two = RuntimeError("one"), RuntimeError("two")
    one.__cause__, two.__cause__ = two, one
    assert classify(one).failure is FailureKind.PLATFORM


def test_the_message_of_an_unknown_error_hides_its_text_and_the_detail_keeps_it() -> None:
    failed = classify(KeyError("a customer's secret"))
    assert "secret" not in failed.message
    assert "KeyError" in failed.message
    assert "secret" in failed.detail


def test_a_bad_row_names_its_line() -> None:
    assert classify(BadDataError(12, "not_json", "the line is not JSON")).message == "line 12: the line is not JSON"


def test_a_request_to_stop_carries_its_reason() -> None:
    stop = StopReason(reason="paused", save=True)
    assert StopRequested(stop).stop is stop
