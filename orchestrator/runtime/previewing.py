"""How does a model see a file? Asked of a worker's process with limits, because the rows are a user's."""

from orchestrator.domain.errors import TunepoolError
from orchestrator.domain.previews import PreviewResult, PreviewSpec
from orchestrator.runtime.errand import Errand, read_answer, run_errand

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
    result = read_answer(outcome, PreviewResult)
    if result is not None:
        return result
    message = f"The process that renders rows ended with {outcome.exit_code}."
    raise TunepoolError(message, code="preview_crashed")
