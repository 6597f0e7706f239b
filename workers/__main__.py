"""The entry of a training process: `python -m workers train|validate|preview|measure SPEC`.

What is loaded depends on the command, by name and only after the process is set up: torch reads its environment when it
is imported, and counting tokens needs no torch at all. The contract with the supervisor: TUNEPOOL_REPORT_FD is a pipe
that takes one JSON line per report (for the others than train: one line, the result); standard input is the control
pipe, and its end ends this process; the last report of a training is its outcome. Without the variable, a training
reports into its work folder instead, for use by hand.
"""

import ctypes
import importlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import NoReturn

import stamina.instrumentation
from pydantic import BaseModel

from orchestrator.domain.failures import FailureKind
from orchestrator.domain.previews import PreviewSpec
from orchestrator.domain.protocol import AttemptSpec, Failed, Phase, ValidationSpec
from workers.context import Context, FollowerContext, LocalContext, RemoteContext, end_process_group, write_all
from workers.failures import MAX_DETAIL_CHARACTERS, classify
from workers.transfers import download_file, new_client

logger = logging.getLogger("workers")

RECIPES = {"supervised": "workers.recipes.sft"}
"""The module of each method; its `run` is the recipe."""
PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a child gets when the thread that started it ends."""
ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",  # rows are encoded one by one, and its threads do not survive a fork
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TORCHDYNAMO_DISABLE": "1",  # nothing is compiled; bitsandbytes would load the compiler, a second of the start
}
QUIET_LOGGERS = ("httpx2", "httpcore2", "bitsandbytes", "transformers", "datasets", "accelerate", "filelock")
"""Shown from warnings up, or errors: the HTTP client logs addresses, and those are secrets here."""


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] not in {"train", "validate", "preview", "measure"}:
        sys.stderr.write("usage: python -m workers train|validate|preview|measure SPEC_PATH\n")
        return 2
    started_at = time.monotonic()
    prepare_process()
    command, path = arguments[0], Path(arguments[1])
    if command == "train":
        return train(path, started_at=started_at)
    if command == "measure":
        return measure()
    return validate(path) if command == "validate" else preview(path)


def prepare_process() -> None:
    """Die with the supervisor, keep libraries quiet, and log to standard error."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR if name == "bitsandbytes" else logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|trl|accelerate)\b")
    stamina.instrumentation.set_on_retry_hooks([_log_retry])


def _log_retry(details: stamina.instrumentation.RetryDetails) -> None:
    """Only the type of the error: its text holds the presigned address."""
    logger.warning(
        "%s, trying again in %.1f s (number %d)",
        type(details.caused_by).__name__,
        details.wait_for,
        details.retry_num,
    )


def train(path: Path, *, started_at: float) -> int:
    """Run the recipe of the spec's method, within its memory; its outcome, or the failure, is the last report.

    One rank of several only follows the first, whose outcome is theirs."""
    spec = AttemptSpec.model_validate_json(path.read_bytes())
    rank = int(os.environ.get("RANK", "0"))
    context = _open_context(spec, rank)
    last_word = threading.Lock()  # whoever reports how it ended takes it, and keeps it
    context.report(Phase(phase="starting"))
    os.environ.setdefault("HF_HUB_OFFLINE", "0" if spec.model.kind == "hub" else "1")
    try:
        recipe = importlib.import_module(RECIPES[spec.plan.method])
        gang = importlib.import_module("workers.gang")
        gang.meet(spec, rank)
        spec = gang.spec_of_rank(spec, rank)
        importlib.import_module("workers.memory").set_fence(
            spec.device, lambda: end_beyond_fence(spec, context, last_word)
        )
        outcome = recipe.run(spec, context, started_at=started_at)
    except Exception as error:
        last_word.acquire()
        report_failure(spec, context, error)
        return 1
    last_word.acquire()
    context.report(outcome)
    return 0


def report_failure(spec: AttemptSpec, context: Context, error: Exception) -> None:
    failed = classify(error, is_memory_short=_is_memory_short)
    logger.exception("the training failed: %s", failed.failure)
    if failed.failure is FailureKind.OUT_OF_MEMORY:
        _report_shortage(spec, context, failed)
    else:
        context.report(failed)


def _report_shortage(spec: AttemptSpec, context: Context, failed: Failed) -> None:
    """With the peak, which is what the next attempt is planned by."""
    memory = importlib.import_module("workers.memory")
    memory.lift_backstop(spec.device)
    peak = memory.read_peak(spec.device)
    context.report(peak)
    message = memory.explain_shortage(spec.device, peak, failed.detail)
    context.report(failed.model_copy(update={"message": message}))


def _is_memory_short() -> bool:
    near: bool = importlib.import_module("workers.memory").is_backstop_near()
    return near


def end_beyond_fence(spec: AttemptSpec, context: Context, last_word: threading.Lock) -> NoReturn:
    """End a process that took more memory than it may, from whatever it is doing, as one that was refused some."""
    last_word.acquire()
    try:
        frame = sys._current_frames()[threading.main_thread().ident or 0]
        detail = "".join(traceback.format_stack(frame))[-MAX_DETAIL_CHARACTERS:]
        failed = Failed(failure=FailureKind.OUT_OF_MEMORY, message="", detail=detail)
        logger.error("the training failed: %s, here:\n%s", failed.failure, detail)
        _report_shortage(spec, context, failed)
        sys.stderr.flush()
    finally:
        os._exit(1)


def validate(path: Path) -> int:
    """Count the tokens of the spec's files; the result is one line on the report pipe, or on standard output."""
    spec = ValidationSpec.model_validate_json(path.read_bytes())
    return _answer_without_torch("workers.validation", spec)


def preview(path: Path) -> int:
    """Show and count the rows of the spec as its model sees them; one line, as for validate."""
    return _answer_without_torch("workers.previews", PreviewSpec.model_validate_json(path.read_bytes()))


def _answer_without_torch(module: str, spec: ValidationSpec | PreviewSpec) -> int:
    report_fd = _open_answer()
    os.environ.setdefault("HF_HUB_OFFLINE", "0" if spec.model.kind == "hub" else "1")
    sys.modules["torch"] = None  # type: ignore[assignment] # transformers imports it when it can: two seconds, 150 MB
    client = new_client()
    result = importlib.import_module(module).run(
        spec, lambda remote, target: download_file(remote, target, client=client)
    )
    _answer(report_fd, result)
    return 0


def measure() -> int:
    """How fast this machine's CPU is, and how long a training takes to start here: one line, as for validate.

    Ends with EX_TEMPFAIL, and says nothing, when the machine is busy with something else."""
    report_fd = _open_answer()
    for recipe in RECIPES.values():
        importlib.import_module(recipe)
    # Of the processor, because the wall's are also those of whatever else runs here now.
    start_seconds = time.process_time()
    speed = importlib.import_module("workers.speed")
    found, share = speed.measure_cpu(start_seconds=start_seconds), speed.measure_share()
    if share < speed.LEAST_SHARE:
        sys.stderr.write(f"other work leaves {share:.0%} of the processor\n")
        return os.EX_TEMPFAIL
    _answer(report_fd, found)
    return 0


def _open_answer() -> int:
    report_fd = int(os.environ.get("TUNEPOOL_REPORT_FD", "1"))
    if report_fd != 1:
        threading.Thread(target=_end_with_stdin, name="control", daemon=True).start()
    return report_fd


def _answer(report_fd: int, result: BaseModel) -> None:
    with os.fdopen(report_fd, "wb", buffering=0) as pipe:
        write_all(pipe, result.model_dump_json().encode() + b"\n", end_process_group)


def _open_context(spec: AttemptSpec, rank: int) -> Context:
    report_fd = os.environ.get("TUNEPOOL_REPORT_FD")
    if report_fd is None:
        return LocalContext(Path(spec.work_dir) / "local", key_prefix=spec.upload.key_prefix)
    if rank > 0:
        logging.getLogger().setLevel(logging.WARNING)  # the first rank says the rest
        return FollowerContext(spec.upload, report_fd=int(report_fd), control=sys.stdin)
    return RemoteContext(spec.upload, report_fd=int(report_fd), control=sys.stdin)


def _end_with_stdin() -> None:
    while sys.stdin.readline():
        pass
    end_process_group()


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the outcome is reported: no thread or library may hold the process back now
