"""The process that is attached to Ray: `python -m orchestrator.runtime.driver ADDRESS NAMESPACE FD`.

It serves the calls of `orchestrator.runtime.ray` over a socket and is the only one that imports Ray here. A call to a
lost head blocks inside Ray's library without a limit, and Ray ends a driver whose head is gone; in a process of its own
that costs nothing but this process: the launcher gives it up and starts another. Actors are detached and do not notice.

Measured with Ray 2.60 (November 2026): 61 s after the head was killed the driver exits with 1
(RAY_gcs_rpc_server_reconnect_timeout_s, 60 by default); while the head only hangs, so do the calls, for ever. An actor
without a runtime_env starts in 0.3 s on a prestarted worker, with one in 1.8 s, so none is used. The CUDA variables
that Ray sets in the actor's process do not reach the training, whose environment is built anew.
"""

import json
import logging
import os
import sys
import threading
import zlib
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.autoscaler.sdk import request_resources
from ray.exceptions import (
    ActorAlreadyExistsError,
    ActorUnavailableError,
    GetTimeoutError,
    RayActorError,
    RayError,
    RayTaskError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.domain.errors import AttemptGoneError, ClusterUnavailableError, LeaseLostError, TunepoolError
from orchestrator.domain.protocol import ValidationSpec
from orchestrator.runtime.actor import (
    Answer,
    StartOrder,
    SupervisorActor,
    clean_on_node,
    measure_on_node,
    validate_on_node,
)
from orchestrator.runtime.bridge import error_of
from orchestrator.runtime.devices import LABEL_PREFIX, decode_devices, resource_amount, resource_name

CALL_SECONDS = 10.0
"""For an answer of a running actor."""
CLOSE_SECONDS = 45.0
TASK_SECONDS = 60.0
"""For a node's task: a worker process may have to be started for it first."""
ACTOR_CALLS = 8
"""Calls that one supervisor serves at once, so that a pull never waits for a stop."""


class Driver:
    """Each public method is a call of the launcher; arguments and results are what JSON can hold."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._actors: dict[str, ActorHandle] = {}
        self._actor_class = ray.remote(SupervisorActor)
        self._clean = ray.remote(clean_on_node)
        self._validate = ray.remote(validate_on_node)
        self._measure = ray.remote(measure_on_node)

    def list_nodes(self) -> list[dict[str, Any]]:
        """Resources and labels of every node that is alive."""
        return [{"resources": n["Resources"], "labels": n["Labels"]} for n in ray.nodes() if n["Alive"]]

    def launch(self, order: str, *, node_name: str, timeout_seconds: float) -> None:
        parsed = StartOrder.model_validate_json(order)
        attempt_id = parsed.spec.attempt_id
        actor, is_new = self._find(attempt_id), False
        if actor is None:
            actor, is_new = self._create(parsed, order, node_name)
        try:
            _get(actor.ready.remote(parsed.lease_generation), timeout_seconds)
        except TunepoolError as error:
            if is_new:
                self._take_back(attempt_id, actor, node_name)
            self._forget(attempt_id, error)
            if error.code == LeaseLostError.code:
                raise
            message = f"the attempt could not be started on {node_name}: {error.message}"
            raise ClusterUnavailableError(message) from error

    def pull(self, requests: Sequence[dict[str, Any]], *, timeout_seconds: float) -> dict[str, Any]:
        """By attempt: {"body": …} or {"error": code}; those that did not answer in time are left out."""
        answers: dict[str, Any] = {}
        waiting: dict[Any, str] = {}
        for request in requests:
            attempt_id = request["attempt_id"]
            actor = self._find(attempt_id)
            if actor is None:
                answers[attempt_id] = {"error": AttemptGoneError.code}
            else:
                fence = {"lease_generation": request["lease_generation"], "grant": request["grant"]}
                waiting[actor.pull.remote(request["cursor"], **fence)] = attempt_id
        if not waiting:
            return answers
        ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=timeout_seconds)
        for reference in ready:
            attempt_id = waiting[reference]
            try:
                answers[attempt_id] = {"body": _get(reference, CALL_SECONDS)}
            except ClusterUnavailableError:
                continue
            except TunepoolError as error:
                self._forget(attempt_id, error)
                answers[attempt_id] = {"error": error.code, "message": error.message}
        return answers

    def stop(self, attempt_id: str, *, stop: str, lease_generation: int, grace_seconds: float) -> None:
        actor = self._find(attempt_id)
        if actor is None:
            raise AttemptGoneError
        try:
            order = actor.stop.remote(stop, lease_generation=lease_generation, grace_seconds=grace_seconds)
            _get(order, CALL_SECONDS)
        except AttemptGoneError as error:
            self._forget(attempt_id, error)
            raise

    def release(self, attempt_id: str) -> None:
        actor = self._find(attempt_id)
        if actor is None:
            return
        try:
            _get(actor.close.remote(), CLOSE_SECONDS)
        except AttemptGoneError:
            pass
        finally:
            self._kill(attempt_id, actor)

    def confirm_gone(self, attempt_id: str, *, node_name: str) -> bool:
        actor = self._find(attempt_id)
        if actor is not None:
            self._kill(attempt_id, actor)
        return self._clean_node(attempt_id, node_name, may_start_again=False)

    def validate(
        self, spec: str, *, worker_command: list[str] | None, limits: dict[str, float], timeout_seconds: float
    ) -> str:
        nodes = [n for n in ray.nodes() if n["Alive"] and decode_devices(n["Resources"], n["Labels"])]
        if not nodes:
            raise ClusterUnavailableError("no node with a device is there")
        # One model's files are checked on one node, so that its tokenizer is fetched once.
        model = ValidationSpec.model_validate_json(spec).model.name
        node = nodes[zlib.crc32(model.encode()) % len(nodes)]
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
        command = None if worker_command is None else tuple(worker_command)
        task = self._validate.options(num_cpus=0, max_retries=0, scheduling_strategy=place)
        reference = task.remote(spec, worker_command=command, limits=limits)
        try:
            return _get(reference, timeout_seconds)
        except ClusterUnavailableError:
            ray.cancel(reference, force=True)
            raise

    def measure(self, node_name: str, *, worker_command: list[str] | None, timeout_seconds: float) -> str:
        command = None if worker_command is None else tuple(worker_command)
        task = self._measure.options(num_cpus=0, max_retries=0, scheduling_strategy=self._on_node(node_name))
        reference = task.remote(worker_command=command)
        try:
            return _get(reference, timeout_seconds)
        except ClusterUnavailableError:
            ray.cancel(reference, force=True)
            raise

    def request_devices(self, bundles: list[dict[str, float]], *, selectors: list[dict[str, str]]) -> None:
        """A standing hint that replaces the one before; kept by the head, so one that was restarted has none."""
        request_resources(bundles=bundles, bundle_label_selectors=selectors)

    def _create(self, parsed: StartOrder, order: str, node_name: str) -> tuple[ActorHandle, bool]:
        """(the attempt's actor, whether it is ours). Another control plane may be faster; then it is the same one."""
        spec = parsed.spec
        try:
            actor = self._actor_class.options(
                name=spec.attempt_id,
                namespace=self._namespace,
                lifetime="detached",
                num_cpus=0,
                num_gpus=0,
                # All devices in one request, which Ray grants as a whole or not at all.
                resources={resource_name(d.index): resource_amount(d.reserved_bytes) for d in spec.devices},
                scheduling_strategy=self._on_node(node_name),
                max_restarts=0,
                max_task_retries=0,
                max_concurrency=ACTOR_CALLS,
            ).remote(order)
        except ActorAlreadyExistsError:
            return ray.get_actor(spec.attempt_id, namespace=self._namespace), False
        self._actors[spec.attempt_id] = actor
        return actor, True

    def _take_back(self, attempt_id: str, actor: ActorHandle, node_name: str) -> None:
        """Leave nothing of a launch that was not accepted. What cannot be cleaned now, its lease ends."""
        self._kill(attempt_id, actor)
        with suppress(TunepoolError):
            self._clean_node(attempt_id, node_name, may_start_again=True)

    def _clean_node(self, attempt_id: str, node_name: str, *, may_start_again: bool) -> bool:
        task = self._clean.options(num_cpus=0, max_retries=0, scheduling_strategy=self._on_node(node_name))
        return bool(json.loads(_get(task.remote(attempt_id, may_start_again=may_start_again), TASK_SECONDS)))

    def _on_node(self, node_name: str) -> NodeAffinitySchedulingStrategy:
        """Hard: there or nowhere. Just after a node's restart its old entry may still be listed and be taken; the call
        then runs into its limit and is repeated."""
        nodes = [n for n in ray.nodes() if n["Alive"] and n["Labels"].get(f"{LABEL_PREFIX}node") == node_name]
        if not nodes:
            raise ClusterUnavailableError(f"node {node_name} is not in the cluster")
        return NodeAffinitySchedulingStrategy(nodes[-1]["NodeID"], soft=False)

    def _find(self, attempt_id: str) -> ActorHandle | None:
        actor = self._actors.get(attempt_id)
        if actor is None:
            try:
                actor = ray.get_actor(attempt_id, namespace=self._namespace)
            except ValueError:
                return None
            self._actors[attempt_id] = actor
        return actor

    def _forget(self, attempt_id: str, error: TunepoolError) -> None:
        if isinstance(error, AttemptGoneError):
            self._actors.pop(attempt_id, None)

    def _kill(self, attempt_id: str, actor: ActorHandle) -> None:
        self._actors.pop(attempt_id, None)
        ray.kill(actor, no_restart=True)


def _get(reference: Any, timeout_seconds: float) -> str:
    """The body of an answer. Raises what the answer says, or what became of Ray."""
    try:
        answer = Answer.model_validate_json(ray.get(reference, timeout=timeout_seconds))
    except GetTimeoutError as error:
        raise ClusterUnavailableError(f"no answer within {timeout_seconds:g} s") from error
    except ActorUnavailableError as error:
        raise ClusterUnavailableError("the supervisor cannot be reached now") from error
    except RayActorError as error:
        raise AttemptGoneError from error
    except RayTaskError as error:
        raise TunepoolError(f"the supervisor failed: {type(error.cause).__name__}") from error
    except RayError as error:
        raise ClusterUnavailableError(f"the cluster failed: {type(error).__name__}") from error
    if answer.error is not None:
        raise error_of(answer.error, answer.message)
    return answer.body


def serve(connection: Connection, driver: Driver) -> None:
    """Answer calls, each in a thread of its own, until the launcher's process is gone."""
    lock = threading.Lock()

    def run(call: dict[str, Any]) -> None:
        answer = json.dumps({"call_id": call["call_id"], **_run(driver, call)}).encode()
        with lock, suppress(OSError):
            connection.send_bytes(answer)

    while True:
        try:
            call = json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return
        threading.Thread(target=run, args=(call,), daemon=True).start()


def _run(driver: Driver, call: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": getattr(driver, call["name"])(**call["arguments"])}
    except TunepoolError as error:
        return {"error": error.code, "message": error.message}
    except (RayError, ConnectionError, TimeoutError) as error:
        return {"error": ClusterUnavailableError.code, "message": f"the cluster failed: {type(error).__name__}"}
    except Exception as error:
        return {"error": TunepoolError.code, "message": f"{call['name']}: {type(error).__name__}: {error}"}


def main() -> None:
    address, namespace, handle = sys.argv[1:]
    connection = Connection(int(handle))
    try:
        ray.init(address=address, namespace=namespace, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        connection.send_bytes(json.dumps({"error": words[0]}).encode())
        os._exit(1)
    connection.send_bytes(json.dumps({"error": None}).encode())
    serve(connection, Driver(namespace))
    # Not through Ray's own exit, which may wait for a head that is not there.
    os._exit(0)


if __name__ == "__main__":
    main()
