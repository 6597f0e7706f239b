"""How is a worker process started, talked to and ended? The supervisor's side of the child-process contract.

The child leads a session and a process group of its own, so that one signal reaches all that it starts. Nobody but this
process holds the writing end of its standard input, so it reads the end of the file the moment this process dies. Its
environment is built from an allow-list: no token of the cluster, no credential of the machine.

The kernel's parent-death signal, which the child asks for, is sent when the *thread* that started it ends. So whoever
starts a child stays in that thread until the child has ended.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.domain.protocol import DeviceGrant
from orchestrator.runtime.processes import ATTEMPT_VARIABLE, signal_group

REPORT_VARIABLE = "TUNEPOOL_REPORT_FD"
MAX_UNSENT_BYTES = 256 * 1024
"""Orders that a child does not read are kept up to here; it is killed by its deadline anyway."""
_INHERITED = frozenset(
    {
        *("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH"),
        *("HF_HOME", "HF_HUB_OFFLINE", "HF_ENDPOINT", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
        *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    }
)
_INHERITED_PREFIXES = ("CUDA_", "NVIDIA_", "NCCL_")
_PROJECT_ROOT = Path(__file__).resolve().parents[2]


def default_command() -> tuple[str, ...]:
    """The workers' entry point, in the interpreter that runs this process."""
    return (sys.executable, "-m", "workers")


def child_environment(
    base: Mapping[str, str], *, attempt_id: str, work_dir: Path, devices: Sequence[DeviceGrant] = ()
) -> dict[str, str]:
    """What the child sees of `base`, and our own variables. It sees its attempt's GPUs, in order, and no other."""
    kept = {name: value for name, value in base.items() if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)}
    return {
        **kept,
        ATTEMPT_VARIABLE: attempt_id,
        "TMPDIR": str(work_dir / "tmp"),
        "PYTHONPATH": str(_PROJECT_ROOT),
        "PYTHONUNBUFFERED": "1",
        # nvidia-smi's order, in which devices are declared; CUDA's own default is fastest first.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(str(device.index) for device in devices if device.kind == "cuda"),
    }


@dataclass
class Child:
    """A started process and our ends of its pipes; `reports`, `stdout` and `stderr` are read until they end."""

    process: subprocess.Popen[bytes]
    reports: int
    stdout: int
    stderr: int
    _orders: int
    _unsent: bytearray = field(default_factory=bytearray)

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, order: Mapping[str, Any]) -> None:
        """Queue one order. Never blocks; `flush` goes on with what the pipe did not take."""
        if len(self._unsent) < MAX_UNSENT_BYTES:
            self._unsent += json.dumps(order).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        while self._unsent and self._orders >= 0:
            try:
                del self._unsent[: os.write(self._orders, self._unsent)]
            except BlockingIOError:
                return
            except OSError:
                # The child closed its input: it is ending.
                self._unsent.clear()

    def signal(self, number: signal.Signals) -> None:
        """To the child and everything in its process group, whether or not the child itself still lives."""
        signal_group(self.pid, number)

    def close_orders(self) -> None:
        if self._orders >= 0:
            os.close(self._orders)
            self._orders = -1

    def close(self) -> None:
        """After the readers are done with the pipes."""
        self.close_orders()
        for handle in (self.reports, self.stdout, self.stderr):
            with suppress(OSError):
                os.close(handle)


def start_child(command: Sequence[str], *, environment: Mapping[str, str], work_dir: Path) -> Child:
    """Start `command` in `work_dir`. Raises OSError. Call it from a thread that outlives the child."""
    ours: list[int] = []
    theirs: list[int] = []
    try:
        for _ in range(3):
            read, write = os.pipe()
            ours.append(read)
            theirs.append(write)
        reports, stdout, stderr = theirs
        read, write = os.pipe()
        theirs.append(read)
        ours.append(write)
        os.set_blocking(write, False)
        process = subprocess.Popen(
            command,
            cwd=work_dir,
            env={**environment, REPORT_VARIABLE: str(reports)},
            stdin=read,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(reports,),
            start_new_session=True,
        )
    except BaseException:
        _close_all(ours)
        raise
    finally:
        _close_all(theirs)
    return Child(process=process, reports=ours[0], stdout=ours[1], stderr=ours[2], _orders=ours[3])


def write_private(path: Path, text: str) -> None:
    """A new file that only this user can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(text)


def read_chunks(handle: int) -> Iterator[bytes]:
    """What comes out of a pipe until its last writer is gone."""
    while True:
        try:
            data = os.read(handle, 64 * 1024)
        except OSError:
            return
        if not data:
            return
        yield data


def _close_all(handles: list[int]) -> None:
    for handle in handles:
        os.close(handle)
