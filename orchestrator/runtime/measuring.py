"""How fast is this node's CPU? Asked of a worker process, which has the library that trains."""

import os
from collections.abc import Mapping, Sequence

from orchestrator.domain.errors import ClusterUnavailableError, TunepoolError
from orchestrator.domain.speed import DeviceSpeed
from orchestrator.runtime.errand import Errand, read_answer, run_errand
from orchestrator.runtime.loglines import cut_text, plain_text

TIME_LIMIT_SECONDS = 120.0
"""On a cold and slow disk the libraries take a minute to import."""
MEMORY_LIMIT_BYTES = 4 * 1024**3


def run_measurement(
    *, command: Sequence[str] | None = None, environment: Mapping[str, str] | None = None
) -> DeviceSpeed:
    """Run `workers measure` to its end. Raises ClusterUnavailableError while the machine is busy with something else,
    and TunepoolError when there is no result.

    Call it from a thread that waits: the process dies with it.
    """
    errand = Errand(
        verb="measure",
        name="measurement",
        subject="Measuring the device",
        spec="{}",
        time_seconds=TIME_LIMIT_SECONDS,
        memory_bytes=MEMORY_LIMIT_BYTES,
    )
    outcome = run_errand(errand, command=command, environment=environment)
    last_words = cut_text(plain_text(outcome.stderr.decode(errors="replace")).strip(), 500)
    if outcome.exit_code == os.EX_TEMPFAIL:
        raise ClusterUnavailableError(f"the device cannot be measured now: {last_words}")
    speed = read_answer(outcome, DeviceSpeed)
    if speed is not None:
        return speed
    if outcome.exit_code == 0 and outcome.line:
        last_words = "its answer cannot be read"
    message = f"The process that measures the device ended with {outcome.exit_code}: {last_words}"
    raise TunepoolError(message, code="measurement_failed")
