"""Runs a stack without a terminal: `python -m api.stack --data-dir DIR`. `tunepool up --detach` starts this."""

import argparse
import signal
import sys
from pathlib import Path

from api.stack.errors import StackError
from api.stack.state import StackStatus
from api.stack.up import Options, Stack


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m api.stack")
    parser.add_argument("--data-dir", type=Path, default=Path(".tunepool"))
    parser.add_argument("--port", type=int)
    parser.add_argument("--cpu-memory-gib", type=float)
    asked = parser.parse_args()
    options = Options(data_dir=asked.data_dir, api_port=asked.port, cpu_memory_gib=asked.cpu_memory_gib)
    stack = Stack(options, _write_line)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stack.request_stop())
    try:
        stack.run()
    except StackError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _write_line(status: StackStatus) -> None:
    parts = " ".join(f"{part.name}={part.state}" for part in status.parts)
    sys.stdout.write(f"{status.phase} {parts}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
