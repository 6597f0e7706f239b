"""What does the worker's own tokenizer say of a job's files? Asked of a process of its own with limits.

A file is a user's, so the process that reads it may crash, hang or eat memory; that ends in an error, never in this
process. Nothing of it is left behind.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.domain.errors import TunepoolError
from orchestrator.domain.protocol import ValidationResult, ValidationSpec
from orchestrator.runtime.errand import Errand, read_answer, run_errand
from orchestrator.runtime.loglines import Redactor, cut_text, plain_text

TIME_LIMIT_SECONDS = 600.0
"""Tokenizing the largest file that is accepted (512 MiB) takes about four minutes on one core."""
MEMORY_LIMIT_BYTES = 4 * 1024**3


@dataclass(frozen=True, kw_only=True)
class ValidationLimits:
    time_seconds: float = TIME_LIMIT_SECONDS
    memory_bytes: int = MEMORY_LIMIT_BYTES


def run_validation(
    spec: ValidationSpec,
    *,
    command: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    limits: ValidationLimits | None = None,
) -> ValidationResult:
    """Run `workers validate` to its end. Raises TunepoolError, with a code that says why there is no result.

    Call it from a thread that waits: the process dies with it.
    """
    limits = limits or ValidationLimits()
    errand = Errand(
        verb="validate",
        name="validation",
        subject="Checking the files",
        spec=spec.model_dump_json(),
        time_seconds=limits.time_seconds,
        memory_bytes=limits.memory_bytes,
    )
    outcome = run_errand(errand, command=command, environment=environment)
    result = read_answer(outcome, ValidationResult)
    if result is not None:
        return result
    last_words = _last_line(outcome.stderr, spec) or "it said nothing"
    if outcome.exit_code == 0 and outcome.line:
        last_words = "its answer cannot be read"
    message = f"The process that checks files ended with {outcome.exit_code}: {last_words}"
    raise TunepoolError(message, code="validation_crashed")


def _last_line(stderr: bytes, spec: ValidationSpec) -> str:
    redactor = Redactor()
    redactor.add([spec.model.hub_token])
    for file in (spec.training_file, spec.validation_file, *spec.model.files):
        if file is not None:
            redactor.add_url(file.url)
    lines = [plain_text(line).strip() for line in stderr.decode(errors="replace").splitlines()]
    return cut_text(redactor.clean(next((line for line in reversed(lines) if line), "")), 500)
