"""What runs in Ray's worker processes: a supervisor as an actor, and three tasks of a node.

No Ray and no torch is imported here. All that crosses Ray is JSON text, never a pickled class of ours, so that a worker
and a control plane of two versions understand each other as far as the protocol does; errors are answers, not
exceptions, for the same reason.
"""

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, TypeAdapter

from orchestrator.domain.errors import TunepoolError
from orchestrator.domain.protocol import AttemptSpec, StopReason, UploadGrant, ValidationSpec
from orchestrator.runtime.cleanup import clean_attempt
from orchestrator.runtime.measuring import run_measurement
from orchestrator.runtime.processes import read_environment
from orchestrator.runtime.supervisor import Supervisor
from orchestrator.runtime.validation import ValidationLimits, run_validation

LINGER_SECONDS = 7 * 24 * 3600.0
"""How long an ended attempt's journal waits for a control plane: over a long outage, but not for ever."""


class Answer(BaseModel):
    """`body` is JSON text of the result; `error` a code of orchestrator.domain.errors, None when all went well."""

    body: str = ""
    error: str | None = None
    message: str = ""


class StartOrder(BaseModel):
    """All that a supervisor is made of. `worker_command` None is the node's own interpreter with our entry point."""

    spec: AttemptSpec
    lease_generation: int
    stop_grace_seconds: float
    worker_command: tuple[str, ...] | None = None


class SupervisorActor:
    """One attempt's supervisor. Its process serves nothing else. Every answer is an `Answer` as JSON."""

    def __init__(self, order: str) -> None:
        """Never raises: Ray would store the traceback, with whatever is in it, and forget the actor."""
        parsed = StartOrder.model_validate_json(order)
        self._error: str | None = None
        self._supervisor = Supervisor(
            parsed.spec,
            lease_generation=parsed.lease_generation,
            stop_grace_seconds=parsed.stop_grace_seconds,
            command=parsed.worker_command,
            environment=node_environment(os.environ),
            is_dedicated=True,
        )
        try:
            self._supervisor.start()
        except OSError as error:
            self._error = str(error)
        threading.Thread(target=self._linger, daemon=True).start()

    def ready(self, lease_generation: int) -> str:
        return _answer(lambda: self._check(lease_generation))

    def pull(self, cursor: int, *, lease_generation: int, grant: str | None) -> str:
        parsed = None if grant is None else UploadGrant.model_validate_json(grant)
        return _answer(
            lambda: self._supervisor.pull(cursor, lease_generation=lease_generation, grant=parsed).model_dump_json()
        )

    def stop(self, stop: str, *, lease_generation: int, grace_seconds: float) -> str:
        reason = StopReason.model_validate_json(stop)
        return _answer(
            lambda: self._supervisor.stop(reason, lease_generation=lease_generation, grace_seconds=grace_seconds)
        )

    def close(self) -> str:
        return _answer(lambda: str(self._supervisor.close()))

    def _check(self, lease_generation: int) -> None:
        self._supervisor.accept(lease_generation)
        if self._error is not None:
            raise TunepoolError(self._error, code="start_failed")

    def _linger(self) -> None:
        """End this process when its attempt ended and nobody has asked for its journal for a long time."""
        self._supervisor.wait_ended()
        while (left := LINGER_SECONDS - self._supervisor.silent_seconds) > 0:
            threading.Event().wait(min(left, threading.TIMEOUT_MAX) + 1)
        self._supervisor.close()
        os._exit(0)


def clean_on_node(attempt_id: str, *, may_start_again: bool) -> str:
    """A task: `clean_attempt` on the node that it runs on."""
    return _answer(lambda: TypeAdapter(bool).dump_json(clean_attempt(attempt_id, may_start_again=may_start_again)))


def validate_on_node(spec: str, *, worker_command: tuple[str, ...] | None, limits: Mapping[str, Any]) -> str:
    """A task: `run_validation` on the node that it runs on."""
    parsed = ValidationSpec.model_validate_json(spec)
    return _answer(
        lambda: run_validation(
            parsed,
            command=worker_command,
            environment=node_environment(os.environ),
            limits=ValidationLimits(**limits),
        ).model_dump_json()
    )


def measure_on_node(*, worker_command: tuple[str, ...] | None) -> str:
    """A task: `run_measurement` on the node that it runs on."""
    return _answer(
        lambda: run_measurement(command=worker_command, environment=node_environment(os.environ)).model_dump_json()
    )


def node_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of this Ray worker, with the number of threads that the node's owner set, or none.

    Ray sets OMP_NUM_THREADS to the CPUs that an actor asked for, at least 1; ours ask for none, and one thread would
    train at a fraction of the machine. The node's own daemon, our parent, still has what the owner set.
    """
    name = "OMP_NUM_THREADS"
    kept = {key: value for key, value in environment.items() if key != name}
    given = read_environment(os.getppid()).get(name)
    return kept if given is None else {**kept, name: given}


def _answer(work: Callable[[], str | bytes | None]) -> str:
    try:
        body = work() or ""
    except TunepoolError as error:
        return Answer(error=error.code, message=error.message).model_dump_json()
    except OSError as error:
        return Answer(error="cluster_unavailable", message=f"the node refused: {error}").model_dump_json()
    return Answer(body=body.decode() if isinstance(body, bytes) else body).model_dump_json()
