"""Which kind of failure is this exception? Decided by its type, with the causes behind it, never by an exit code.

Modules of this package raise the errors below; what a library raises is matched by the name of its class, so that
this module imports none of them. Anything that nobody foresaw is the platform's failure, which is tried again.
"""

import errno
import traceback
from collections.abc import Callable, Iterator, Mapping

from orchestrator.domain.failures import FailureKind
from orchestrator.domain.protocol import Failed, StopReason

MAX_DETAIL_CHARACTERS = 16_000
"""Of the traceback: the end of it is kept, where the error is."""
MAX_MESSAGE_CHARACTERS = 500


class WorkerError(Exception):
    """The platform's part of the work failed."""

    kind: FailureKind = FailureKind.PLATFORM


class BadDataError(WorkerError):
    """A row cannot be trained on. `code` is a problem code of the validation report; `line` counts from 1."""

    kind = FailureKind.BAD_DATA

    def __init__(self, line: int, code: str, message: str) -> None:
        self.line, self.code, self.message = line, code, message
        super().__init__(f"line {line}: {message}" if line else message)


class UserError(WorkerError):
    """A setting of the job cannot be used as it is."""

    kind = FailureKind.USER


class ModelError(WorkerError):
    """The base model cannot be used."""

    kind = FailureKind.MODEL


class DivergedError(WorkerError):
    """The loss or a gradient is not finite any more."""

    kind = FailureKind.DIVERGED


class StorageError(WorkerError):
    """The object store did not take or give a file within the budget."""

    kind = FailureKind.STORAGE


class StopRequested(Exception):
    """Somebody asked the worker to stop, or its time is used up. Not an error: the way out of the training loop."""

    def __init__(self, stop: StopReason) -> None:
        self.stop = stop
        super().__init__(stop.reason)


_KIND_BY_CLASS: Mapping[str, FailureKind] = {
    "builtins.MemoryError": FailureKind.OUT_OF_MEMORY,
    "torch.OutOfMemoryError": FailureKind.OUT_OF_MEMORY,
    "safetensors._safetensors_rust.SafetensorError": FailureKind.MODEL,
    "jinja2.exceptions.TemplateError": FailureKind.BAD_DATA,
}
_MEMORY_TEXTS = ("can't allocate memory", "cannot allocate memory", "out of memory", "std::bad_alloc")
"""torch reports a failed allocation on the CPU, and some CUDA libraries theirs, as a RuntimeError with this text."""
_REFUSED_TEXTS = ("can't start new thread", "could not create a primitive")
"""RuntimeErrors that do not say what was refused: CPython's for a thread (memory for its stack, or a limit on their
number) and oneDNN's for a kernel (memory for its code or scratch, or a shape that it has none for)."""
_TEXTS: Mapping[FailureKind, str] = {
    FailureKind.OUT_OF_MEMORY: "The training ran out of memory on its device.",
    FailureKind.MODEL: "The base model's files could not be read.",
    FailureKind.BAD_DATA: "The model's chat template failed on a row.",
    FailureKind.PLATFORM: "The worker failed in a way that was not foreseen; the traceback is in the job's log.",
}


def classify(error: BaseException, *, is_memory_short: Callable[[], bool] = lambda: False) -> Failed:
    """The failure to report for `error`: want of memory wherever it is in the chain, else the outermost that is known.

    The message holds no training data: only our own errors' words are shown. `is_memory_short` is asked of errors that
    want of memory may be behind, while the memory is still as it was.
    """
    found = [(kind, link) for link in _chain(error) if (kind := _kind_of(link, is_memory_short)) is not None]
    for kind, link in sorted(found, key=lambda pair: pair[0] is not FailureKind.OUT_OF_MEMORY):
        return Failed(failure=kind, message=_message(kind, link), detail=_detail(error))
    name = type(error).__name__
    return Failed(
        failure=FailureKind.PLATFORM, message=f"{_TEXTS[FailureKind.PLATFORM]} ({name})", detail=_detail(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, then what caused it, as a traceback prints them; each once, though causes may form a ring."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _kind_of(error: BaseException, is_memory_short: Callable[[], bool]) -> FailureKind | None:
    if isinstance(error, WorkerError):
        return error.kind
    for cls in type(error).__mro__:
        kind = _KIND_BY_CLASS.get(f"{cls.__module__}.{cls.__qualname__}")
        if kind is not None:
            return kind
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return FailureKind.OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _MEMORY_TEXTS):
        return FailureKind.OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and any(t in str(error) for t in _REFUSED_TEXTS) and is_memory_short():
        return FailureKind.OUT_OF_MEMORY
    return None


def _message(kind: FailureKind, error: BaseException) -> str:
    text = str(error) if isinstance(error, WorkerError) else _TEXTS[kind]
    return text[:MAX_MESSAGE_CHARACTERS] or (type(error).__doc__ or "").strip()


def _detail(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-MAX_DETAIL_CHARACTERS:]
