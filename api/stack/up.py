"""Runs one embedded stack from its data folder, in this process, until it is asked to end.

The first admin key is made on the first start; it is kept in client.json, which this user alone can read, and nowhere
else.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from api.stack import processes
from api.stack.errors import StackError
from api.stack.folder import DataFolder, Lock, load_secrets, open_folder, read_json, write_private
from api.stack.parts import BOOTSTRAP, Layout, base_environment, build_parts
from api.stack.ports import Claims, choose_ports
from api.stack.rayhead import read_device_arguments
from api.stack.state import PartStatus, Phase, StackStatus, write_status
from api.stack.supervisor import PartState, Supervisor
from api.stack.weed import PORT_COUNT, find_weed


@dataclass(frozen=True, kw_only=True)
class Options:
    """`cpu_memory_gib` is the share of memory that jobs may use on a machine without a GPU; None leaves the default."""

    data_dir: Path
    api_port: int | None = None
    cpu_memory_gib: float | None = None


class Stack:
    """`changed` is called with every new status, in the thread that runs the stack."""

    def __init__(self, options: Options, changed: Callable[[StackStatus], None]) -> None:
        self._options = options
        self._changed = changed
        self._started_at = int(time.time())
        self._was_ready = False
        self._first_start = False
        self._key_taken = False
        self._stop_wanted = False
        self._supervisor: Supervisor | None = None
        self._layout: Layout | None = None

    def request_stop(self) -> None:
        """Ask the stack to end; asked twice, nothing is waited for. Safe in a signal handler."""
        self._stop_wanted = True
        if self._supervisor is not None:
            self._supervisor.request_stop()

    def run(self) -> None:
        """Run until a stop is asked for. Raises StackError when it cannot start. Either way nothing is left running."""
        find_weed()
        folder = open_folder(self._options.data_dir)
        lock = Lock(folder)
        claims = Claims()
        try:
            self._run_locked(folder, claims)
        finally:
            claims.release()
            lock.release()

    def _run_locked(self, folder: DataFolder, claims: Claims) -> None:
        first = StackStatus(phase="starting", pid=os.getpid(), url="", started_at=self._started_at, parts=(), ports={})
        write_status(folder, first)
        secrets = load_secrets(folder)
        mark = processes.mark_of(secrets.stack_id, folder.root)
        processes.kill_leftovers(mark)
        ports = choose_ports(claims, api_port=self._options.api_port, weed_count=PORT_COUNT)
        devices = read_device_arguments(base_environment(folder), cpu_memory_gib=self._options.cpu_memory_gib)
        self._layout = Layout(folder=folder, secrets=secrets, ports=ports, device_arguments=devices)
        supervisor = Supervisor(
            build_parts(self._layout), mark=mark, folder=folder.root, logs=folder.logs, changed=self._publish
        )
        self._supervisor = supervisor
        if self._stop_wanted:
            supervisor.request_stop()
        try:
            supervisor.run()
        except StackError as error:
            self._publish_as("failed", str(error))
            raise
        self._publish_as("stopped")

    def _publish(self) -> None:
        assert self._supervisor is not None, "only a running supervisor reports changes"
        if self._supervisor.running[BOOTSTRAP].state is PartState.READY and not self._key_taken:
            self._take_key()
        if self._supervisor.is_stopping:
            self._publish_as("stopping")
        elif self._supervisor.is_ready:
            self._was_ready = True
            self._publish_as("ready")
        else:
            self._publish_as("degraded" if self._was_ready else "starting")

    def _take_key(self) -> None:
        """Move the first key, when there is one, from the task's output to the file of the command line."""
        assert self._layout is not None, "the supervisor was built from a layout"
        folder = self._layout.folder
        made = read_json(folder.bootstrap_file)
        folder.bootstrap_file.unlink(missing_ok=True)
        known = read_json(folder.client_file)
        self._first_start = bool(made.get("created"))
        api_key = made.get("api_key") or known.get("api_key") or ""
        write_private(folder.client_file, json.dumps({"url": self._layout.url, "api_key": api_key}) + "\n")
        self._key_taken = True

    def _publish_as(self, phase: Phase, message: str = "") -> None:
        assert self._layout is not None, "a status has a layout"
        assert self._supervisor is not None, "a status has a supervisor"
        ports = self._layout.ports
        status = StackStatus(
            phase=phase,
            pid=os.getpid(),
            url=self._layout.url,
            started_at=self._started_at,
            parts=tuple(
                PartStatus(name=name, state=r.state, pid=r.pid, restarts=r.restarts, cause=r.cause)
                for name, r in self._supervisor.running.items()
            ),
            ports={"api": ports.api, "s3": ports.s3, "ray": ports.ray},
            message=message,
            first_start=self._first_start,
        )
        write_status(self._layout.folder, status)
        self._changed(status)
