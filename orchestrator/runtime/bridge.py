"""How does this process talk to Ray without being attached to it? Through a process of its own that may be lost.

The driver process is started when the first call needs it, and again after it was lost; a call that gets no answer in
its time ends it. So a lost head neither hangs nor aborts the caller, and every call after it finds a fresh connection.
"""

import itertools
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from orchestrator.domain.errors import AttemptGoneError, ClusterUnavailableError, LeaseLostError, TunepoolError

CONNECT_SECONDS = 45.0
"""For importing Ray and attaching to a head, which takes about a second when the machine is idle."""
PROBE_SECONDS = 3.0
"""For a bare connection to the head's port: Ray itself takes 20 s to find out that nobody listens."""
REFUSAL_SECONDS = 2.0
"""After a failed connection, calls fail at once for this long instead of each starting a process."""
MARGIN_SECONDS = 10.0
"""What a call may take longer than its own limits before the driver counts as hanging."""
_PROJECT_ROOT = Path(__file__).resolve().parents[2]
_CLASSES = {error.code: error for error in (ClusterUnavailableError, AttemptGoneError, LeaseLostError)}


def error_of(code: str, message: str) -> TunepoolError:
    """The error that was told across a process border."""
    known = _CLASSES.get(code)
    return known(message or None) if known else TunepoolError(message or None, code=code)


class _DriverProcess:
    """One life of the driver. Thread-safe."""

    def __init__(self, address: str, namespace: str, *, environment: Mapping[str, str]) -> None:
        """Raises ClusterUnavailableError when it cannot attach."""
        ours, theirs = socket.socketpair()
        # A driver that reads nothing must not hold up its callers before their time limit begins.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(MARGIN_SECONDS), 0))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.runtime.driver", address, namespace, str(theirs.fileno())],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._connection = Connection(ours.detach())
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._is_lost = False
        self._attach()
        threading.Thread(target=self._read, name="ray-answers", daemon=True).start()

    @property
    def is_lost(self) -> bool:
        with self._lock:
            return self._is_lost

    @property
    def pid(self) -> int:
        return self._process.pid

    def call(self, name: str, arguments: Mapping[str, Any], *, timeout_seconds: float) -> dict[str, Any]:
        future: Future[dict[str, Any]] = Future()
        with self._lock:
            if self._is_lost:
                raise ClusterUnavailableError("the connection to the cluster was lost")
            call_id = next(self._numbers)
            self._waiting[call_id] = future
            message = {"call_id": call_id, "name": name, "arguments": arguments}
            try:
                self._connection.send_bytes(json.dumps(message).encode())
            except OSError:
                # Perhaps half of it went out. The reader sees the end and ends all that waits.
                self.kill()
        try:
            return future.result(timeout_seconds)
        except FutureTimeoutError:
            self.kill()
            raise ClusterUnavailableError(f"the cluster did not answer within {timeout_seconds:g} s") from None

    def kill(self) -> None:
        """The reader then ends whatever still waits."""
        with suppress(ProcessLookupError):
            self._process.kill()

    def close(self) -> None:
        self.kill()
        self._process.wait()

    def _attach(self) -> None:
        try:
            if not self._connection.poll(CONNECT_SECONDS):
                raise ClusterUnavailableError("the cluster did not answer in time")
            error = json.loads(self._connection.recv_bytes())["error"]
            if error is not None:
                raise ClusterUnavailableError(f"the cluster cannot be reached: {error}")
        except BaseException as caught:
            self.close()
            self._connection.close()
            if isinstance(caught, EOFError | OSError):
                raise ClusterUnavailableError("the connection to the cluster ended before it began") from caught
            raise

    def _read(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                answer = json.loads(self._connection.recv_bytes())
                with self._lock:
                    future = self._waiting.pop(answer["call_id"], None)
                if future is not None:
                    future.set_result(answer)
        self.close()
        with self._lock:
            self._is_lost = True
            waiting, self._waiting = self._waiting, {}
            self._connection.close()
        for future in waiting.values():
            future.set_exception(ClusterUnavailableError("the connection to the cluster was lost"))


class Bridge:
    """Calls to Ray with a limit each. Thread-safe; nothing is started before the first call."""

    def __init__(
        self,
        address: str,
        namespace: str,
        *,
        environment: Mapping[str, str],
        margin_seconds: float = MARGIN_SECONDS,
    ) -> None:
        self._address = address
        self._namespace = namespace
        self._environment = driver_environment(environment)
        self._margin_seconds = margin_seconds
        self._lock = threading.Lock()
        self._driver: _DriverProcess | None = None
        self._refusal: ClusterUnavailableError | None = None
        self._refused_at = 0.0

    @property
    def driver_pid(self) -> int | None:
        with self._lock:
            return self._driver.pid if self._driver else None

    def call(self, name: str, arguments: Mapping[str, Any], *, timeout_seconds: float) -> Any:
        """`timeout_seconds` is what the call may take by its own limits. Raises ClusterUnavailableError, or what the
        answer says."""
        answer = self._connected().call(name, arguments, timeout_seconds=timeout_seconds + self._margin_seconds)
        if answer.get("error") is not None:
            raise error_of(answer["error"], answer["message"])
        return answer["result"]

    def close(self) -> None:
        with self._lock:
            driver, self._driver = self._driver, None
        if driver is not None:
            driver.close()

    def _connected(self) -> _DriverProcess:
        with self._lock:
            if self._driver is not None and not self._driver.is_lost:
                return self._driver
            if self._refusal is not None and time.monotonic() - self._refused_at < REFUSAL_SECONDS:
                raise ClusterUnavailableError(self._refusal.message)
            try:
                _probe(self._address)
                self._driver = _DriverProcess(self._address, self._namespace, environment=self._environment)
            except ClusterUnavailableError as error:
                self._driver, self._refusal, self._refused_at = None, error, time.monotonic()
                raise
            self._refusal = None
            return self._driver


def _probe(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS).close()
    except OSError as error:
        raise ClusterUnavailableError(f"no cluster answers at {address}: {error}") from error


def driver_environment(ray_variables: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without our own secrets, and with what Ray needs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TUNEPOOL_")}
    if "RAY_AUTH_TOKEN" in ray_variables:
        kept.pop("RAY_AUTH_TOKEN_PATH", None)
    path = os.pathsep.join(filter(None, [str(_PROJECT_ROOT), kept.get("PYTHONPATH", "")]))
    return {**kept, "PYTHONPATH": path, **ray_variables}
