"""The Ray cluster of an embedded stack: one head node, loopback only, token authentication on, no dashboard.

Ray calls itself on the machine's real address even when it is told loopback, and listens on every interface, unless
clusters are declared off; then it binds 127.0.0.1 alone (Ray 2.60, measured in November 2026 with `ss -ltnp`). That
switch is named after the systems where Ray uses it by default.
"""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from api.stack.errors import StackError
from api.stack.folder import DataFolder, short_path
from api.stack.ports import HOST, Ports

OBJECT_STORE_BYTES = 80 * 1024**2
"""Near Ray's minimum (75 MiB): no data passes through its object store."""
LONGEST_FOLDER = 40
"""A socket's path ends after 107 bytes (unix(7)); Ray appends up to 63: session name, /sockets/ and plasma_store."""


def ray_command(folder: DataFolder, ports: Ports, device_arguments: tuple[str, ...]) -> tuple[str, ...]:
    return (
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--port", str(ports.ray), "--node-ip-address", HOST),
        *("--temp-dir", str(ray_folder(folder)), "--object-store-memory", str(OBJECT_STORE_BYTES)),
        *("--include-dashboard", "false", "--include-log-monitor", "false", "--no-monitor", "--disable-usage-stats"),
        *("--log-style", "record", "--log-color", "false"),
        *device_arguments,
    )


def ray_environment(folder: DataFolder) -> dict[str, str]:
    """What every process of the cluster and every client of it needs; the token is read from its file."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder.ray_token_file),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "RAY_ROTATION_MAX_BYTES": str(10 * 1024**2),
        "RAY_ROTATION_BACKUP_COUNT": "1",
        "RAY_worker_niceness": "0",  # Ray's own 15 starves training wherever anything else runs on the machine
    }


def ray_folder(folder: DataFolder) -> Path:
    return short_path(folder.ray, longest=LONGEST_FOLDER)


def read_device_arguments(environment: dict[str, str], *, cpu_memory_gib: float | None) -> tuple[str, ...]:
    """Ask the executor's own module which devices this machine has, as arguments of `ray start`."""
    asked = [] if cpu_memory_gib is None else ["--cpu-memory-gib", f"{cpu_memory_gib:g}"]
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.runtime.devices", *asked],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise StackError(f"the devices of this machine could not be read: {done.stderr.strip()}")
    return tuple(json.loads(done.stdout))


def drop_old_sessions(folder: DataFolder) -> None:
    """Remove what earlier clusters left: a session is of no use once its processes are gone."""
    for session in folder.ray.glob("session_*"):
        if session.is_symlink():
            session.unlink()
        else:
            shutil.rmtree(session, ignore_errors=True)


def is_ray_ready(folder: DataFolder, ports: Ports) -> bool:
    """The control store listens and the node's own daemon has opened its socket."""
    raylet = ray_folder(folder) / "session_latest" / "sockets" / "raylet"
    try:
        socket.create_connection((HOST, ports.ray), timeout=1).close()
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            probe.connect(str(raylet))
    except OSError:
        return False
    return True
