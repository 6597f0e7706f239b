"""How does a model see a file? Asked of a worker's process with limits, because the rows are a user's."""

from pydantic import ValidationError

from orchestrator.domain.errors import TunepoolError
from orchestrator.domain.previews import PreviewResult, PreviewSpec
from orchestrator.runtime.errand import Errand, run_errand

TIME_LIMIT_SECONDS = 60.0
MEMORY_LIMIT_BYTES = 2 * 1024**3


def run_preview(spec: PreviewSpec) -> PreviewResult:
    """Raises TunepoolError, with a code that says why there is no result. What the process says is not passed on: it
    may hold rows."""
    errand = Errand(
        verb="preview",
        name="preview",
        subject="Rendering the rows",
        spec=spec.model_dump_json(),
        time_seconds=TIME_LIMIT_SECONDS,
        memory_bytes=MEMORY_LIMIT_BYTES,
    )
    outcome = run_errand(errand)
    if outcome.exit_code == 0 and outcome.line:
        try:
            return PreviewResult.model_validate_json(outcome.line)
        except ValidationError:
            pass
    message = f"The process that renders rows ended with {outcome.exit_code}."
    raise TunepoolError(message, code="preview_crashed")
