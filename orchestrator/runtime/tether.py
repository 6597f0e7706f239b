"""Becomes a command that dies with the thread that started it, also by `kill -9` of the whole process.

Run as a file by an isolated interpreter (`python -I -S tether.py PARENT_PID COMMAND…`), with nothing but the standard
library: for commands that do not ask the kernel for it themselves, as `python -m workers` does.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h; what it sets outlives exec."""


def main(argv: list[str]) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != int(argv[0]):
        sys.exit("the parent is gone already")
    os.execvp(argv[1], argv[1:])  # noqa: S606 (an argument list, never a shell)


if __name__ == "__main__":
    main(sys.argv[1:])
