"""One attempt, several devices: a process for each, and what the end of one means for the others.

The ranks exchange gradients among themselves; the first one leads: it alone is told to stop, reports, saves and
publishes. The others follow it, and have no purpose without it. So the attempt ends when the first one ends, or as soon
as any other one fails.
"""

import os
import select
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from orchestrator.domain.protocol import AttemptSpec
from orchestrator.runtime.child import Child, child_environment, start_child


def rank_environment(rank: int, count: int) -> dict[str, str]:
    """What torch.distributed and accelerate read; nothing for a process that trains alone. All are on one node, so
    nothing leaves it, and the cores are shared out unless the node's owner has said how many threads there are."""
    if count == 1:
        return {}
    return {
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // count)),
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
    }


class Ranks:
    """The processes of one attempt, started and watched by one thread. `lead` is the first."""

    def __init__(self, children: Sequence[Child]) -> None:
        self.children = tuple(children)
        self.lead = self.children[0]
        self._handles = ExitStack()
        self._poll = select.poll()
        self._pids: dict[int, int] = {}
        for child in self.children:
            handle = os.pidfd_open(child.pid)
            self._handles.callback(os.close, handle)
            self._poll.register(handle, select.POLLIN)
            self._pids[handle] = child.pid

    def wait(self, timeout_seconds: float) -> bool:
        """Whether the attempt is over: the first has ended, or another one did not end well."""
        for handle, _ in self._poll.poll(timeout_seconds * 1000):
            pid = self._pids[handle]
            if pid == self.lead.pid or _peek_exit(pid) != 0:
                return True
            self._poll.unregister(handle)
        return False

    def get_exit_code(self) -> int:
        """Why it is over, asked when it is and before anything is killed. Unless the first one ended well, that is the
        code of one that a signal ended, because the others fail for missing it; else the first one's, else another's.
        """
        codes = [_peek_exit(child.pid) for child in self.children]
        failed = [code for code in codes if code]
        return 0 if codes[0] == 0 else next((code for code in failed if code < 0), failed[0])

    def close(self) -> None:
        self._handles.close()


def start_ranks(
    spec: AttemptSpec, command: Sequence[str], *, environment: Mapping[str, str], work_dir: Path
) -> tuple[Child, ...]:
    """One process per device, or none: raises OSError. Call it from a thread that outlives them."""
    own = child_environment(environment, attempt_id=spec.attempt_id, work_dir=work_dir, devices=spec.devices)
    count = len(spec.devices)
    children: list[Child] = []
    try:
        for rank in range(count):
            variables = {**spec.probe_environment, **rank_environment(rank, count), **own}
            children.append(start_child(command, environment=variables, work_dir=work_dir))
    except BaseException:
        for child in children:
            child.process.kill()
            child.process.wait()
            child.close()
        raise
    return tuple(children)


def _peek_exit(pid: int) -> int | None:
    """As a Popen's returncode, without waiting for the process: until then its id cannot mean another one."""
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if found is None:
        return None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
