"""Real Ray clusters on this machine: declared devices, token authentication on, and nothing left behind.

One node listens on loopback alone, as the embedded stack's does; Ray does not allow several nodes that way.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from orchestrator.runtime.devices import declare_device, ray_start_arguments
from orchestrator.runtime.launcher import DeclaredDevice
from orchestrator.runtime.ray import RayLauncher, ray_environment
from tests.support.attempt_specs import MIB, STUB_COMMAND

HOST = "127.0.0.1"
OBJECT_STORE_BYTES = 80 * MIB
READY_SECONDS = 90.0
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""With "clusters" declared off, Ray binds loopback alone and calls itself by that address."""
_MARK = "TEST_CLUSTER_MARK"
_FAKE_NODES = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}
"""As ray.cluster_utils.AutoscalingCluster sets them, which we don't use: it stops every Ray of the machine first."""


@dataclass
class Cluster:
    """A head with its node, and further nodes. `port` stays the same over `start_head`."""

    folder: Path
    port: int
    token: str
    mark: str
    is_loopback: bool
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    launchers: list[RayLauncher] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    """Of the further nodes, in the order in which they were added."""
    autoscaling: Mapping[str, object] | None = None
    """What the head's autoscaler is configured with: nodes that it adds are processes of this machine, too."""

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs that attaches to this cluster, or is part of it."""
        variables = {**os.environ, **ray_environment(self.token), **self._binding, _MARK: self.mark}
        return variables if self.autoscaling is None else variables | _FAKE_NODES

    def start_head(self, devices: Sequence[DeclaredDevice]) -> None:
        arguments = ["--head", "--port", str(self.port), "--node-ip-address", HOST]
        if self.autoscaling is not None:
            config = self.folder / "autoscaling.json"
            config.write_text(json.dumps(self.autoscaling))
            arguments.append(f"--autoscaling-config={config}")
        self._start(arguments, devices)

    def add_node(self, devices: Sequence[DeclaredDevice]) -> None:
        """Another node of the same machine."""
        self.names.append(devices[0].node_name)
        self._start(["--address", self.address, "--node-ip-address", HOST], devices)

    def launcher(self, **changes: object) -> RayLauncher:
        """One more control plane's launcher, whose workers are the stub; closed with the cluster."""
        options: dict[str, object] = {
            "stop_grace_seconds": 2.0,
            "worker_command": STUB_COMMAND,
            "environment": LOOPBACK,
        }
        options |= changes
        launcher = RayLauncher(self.address, "tunepool", self.token, **options)  # type: ignore[arg-type]
        self.launchers.append(launcher)
        return launcher

    def wait_ready(self, devices: int) -> RayLauncher:
        """A launcher that sees this many devices."""
        launcher = self.launcher()
        deadline = time.monotonic() + READY_SECONDS
        while True:
            with suppress(Exception):
                if len(launcher.list_devices()) == devices:
                    return launcher
            assert time.monotonic() < deadline, self._logs()
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL to every process of the cluster at once, its actors and what they started included."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for node in self.nodes:
            node.wait()
        deadline = time.monotonic() + 20
        while self._processes():
            assert time.monotonic() < deadline, self._processes()
            time.sleep(0.02)
        self.nodes.clear()

    def kill_node(self, name: str) -> None:
        """SIGKILL to all that one further node consists of and runs, as when its machine loses power."""
        node = self.nodes[1 + self.names.index(name)]
        top = psutil.Process(node.pid)
        victims = [top, *top.children(recursive=True)]
        for _ in range(2):  # what was started between the look and the kill
            victims += [p for v in victims if v.is_running() for p in v.children(recursive=True)]
        for victim in victims:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        node.wait()

    def find_process(self, name: str) -> psutil.Process:
        """The one process of the cluster whose name or command line begins so, such as gcs_server or raylet."""
        (found,) = [p for p in self._processes() if p.name().startswith(name)]
        return found

    @property
    def _binding(self) -> dict[str, str]:
        return LOOPBACK if self.is_loopback else {}

    def _start(self, arguments: list[str], devices: Sequence[DeclaredDevice]) -> None:
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *arguments),
            *("--temp-dir", str(self.folder), "--object-store-memory", str(OBJECT_STORE_BYTES), "--num-cpus", "1"),
            *("--include-log-monitor", "false", "--disable-usage-stats", "--min-worker-port", "0"),
            *("--max-worker-port", "0", "--log-style", "record", "--log-color", "false"),
            *(("--include-dashboard", "false") if "--head" in arguments else ()),
            *ray_start_arguments(devices),
        ]
        log = (self.folder / f"start-{len(self.nodes)}.log").open("wb")
        with log:
            self.nodes.append(
                subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
            )

    def _processes(self) -> list[psutil.Process]:
        """By the mark in their environment: some of Ray's processes leave both its group and its tree."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                is_ours = process.pid != os.getpid() and process.environ().get(_MARK) == self.mark
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in self.folder.glob("start-*.log"))


@contextmanager
def run_cluster(
    *nodes: Sequence[DeclaredDevice], grows_by: DeclaredDevice | None = None, idle_minutes: float = 5
) -> Iterator[Cluster]:
    """A cluster of so many nodes, ready when it is given out. With `grows_by` Ray's own autoscaler adds one node with
    that device when it is asked for, and takes it away once it was idle for `idle_minutes`."""
    # Short, because Ray's sockets are below it and a socket's path ends after 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="tp", dir="/tmp"))
    port = _free_port()
    cluster = Cluster(
        folder=folder,
        port=port,
        token=secrets.token_hex(16),
        mark=secrets.token_hex(8),
        is_loopback=len(nodes) == 1 and grows_by is None,
        autoscaling=None if grows_by is None else _autoscaling(grows_by, port, idle_minutes),
    )
    try:
        cluster.start_head(nodes[0])
        cluster.wait_ready(len(nodes[0])).close()
        for devices in nodes[1:]:
            cluster.add_node(devices)
        cluster.wait_ready(sum(map(len, nodes))).close()
        yield cluster
    finally:
        for launcher in cluster.launchers:
            launcher.close()
        for node in cluster.nodes:
            with suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGTERM)
        cluster.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _autoscaling(device: DeclaredDevice, port: int, idle_minutes: float) -> dict[str, object]:
    resources, labels = _declaration(device)
    added = {"resources": {"CPU": 1, "object_store_memory": OBJECT_STORE_BYTES, **resources}, "labels": labels}
    return {
        "cluster_name": "test",
        "max_workers": 1,
        "idle_timeout_minutes": idle_minutes,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": f"{HOST}:{port}",
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
            "added": {**added, "node_config": {}, "min_workers": 0, "max_workers": 1},
        },
        "head_node_type": "ray.head.default",
        **{f"{name}_commands": [] for name in ("setup", "initialization", "head_setup", "worker_setup")},
        **{f"{name}_start_ray_commands": [] for name in ("head", "worker")},
        "file_mounts": {},
        "cluster_synced_files": [],
        "auth": {},
    }


def _declaration(device: DeclaredDevice) -> tuple[dict[str, int], dict[str, str]]:
    """(resources, labels), from the arguments that a node of production starts with."""
    arguments = ray_start_arguments([device])
    labels = arguments[arguments.index("--labels") + 1]
    resources = json.loads(arguments[arguments.index("--resources") + 1])
    return resources, dict(pair.split("=", 1) for pair in labels.split(","))


def cpu_device(node_name: str, *, mebibytes: int = 1024, index: int = 0) -> DeclaredDevice:
    return declare_device(node_name, kind="cpu", index=index, device_type="cpu", usable_bytes=mebibytes * MIB)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
