"""A training process that obeys the child-process contract and does what the environment tells it, without torch.

    python child_stub.py train SPEC      python child_stub.py validate SPEC
    python child_stub.py measure SPEC

TUNEPOOL_STUB is a JSON list of steps, run in order:

    {"print": "text"}  {"print_error": "text"}  {"raw": "text on stdout without a newline"}
    {"print_many": [n, "text"]}    that line, n times
    {"report": {...}}              one report            {"raw_report": "text"}   a line that is no report
    {"long_report": n}             a line of n bytes that is no report
    {"wait": "stop"}               until a stop order, then save: report Stopped
    {"wait": "grant"}              until a new upload grant, then report its prefix as a log line
    {"ignore": "stop"}             never reads orders, outlives SIGTERM: a hung process
    {"escape": "FILE"}             start a process in a session of its own that outlives this one; its pid goes to FILE
    {"environment": "FILE"}        write the environment that it was given
    {"eat": bytes}                 hold that much memory
    {"exit": code}                 end like this         {"kill": true}           end by SIGKILL
    {"rank": [n, {...}]}           that step, only in the process of this rank
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import Queue
from typing import Any

ORDERS: Queue[dict[str, Any]] = Queue()
HELD: list[bytes] = []


def main() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    verb, spec_path = sys.argv[1:]
    spec = json.loads(Path(spec_path).read_text())
    script = json.loads(os.environ.get("TUNEPOOL_STUB") or spec.get("probe_environment", {}).get("TUNEPOOL_STUB", "[]"))
    if verb == "validate":
        return validate(spec)
    if verb == "measure":
        return measure()
    if not any("ignore" in step for step in script):
        threading.Thread(target=read_orders, daemon=True).start()
    report({"kind": "phase", "phase": "starting"})
    for step in script:
        (name, value), *_ = step.items()
        globals()[f"do_{name}"](value)
    return None


def read_orders() -> None:
    for line in sys.stdin:
        ORDERS.put(json.loads(line))
    os.killpg(0, signal.SIGKILL)


def report(body: dict[str, Any]) -> None:
    line = json.dumps({"at_unix": time.time(), "report": body}) + "\n"
    os.write(int(os.environ["TUNEPOOL_REPORT_FD"]), line.encode())


def do_print(text: str) -> None:
    print(text, flush=True)


def do_print_error(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def do_raw(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def do_print_many(order: tuple[int, str]) -> None:
    count, text = order
    do_raw(f"{text}\n" * count)


def do_report(body: dict[str, Any]) -> None:
    report(body)


def do_raw_report(text: str) -> None:
    os.write(int(os.environ["TUNEPOOL_REPORT_FD"]), text.encode() + b"\n")


def do_long_report(size: int) -> None:
    data = memoryview(b"x" * size + b"\n")
    while data:
        data = data[os.write(int(os.environ["TUNEPOOL_REPORT_FD"]), data) :]


def do_wait(what: str) -> None:
    while True:
        order = ORDERS.get()
        if what in order:
            break
    if what == "stop":
        report({"kind": "stopped", "reason": order["stop"]["reason"], "step": 7})
    else:
        report({"kind": "log", "stream": "tunepool", "text": f"granted {order['grant']['key_prefix']}"})


def do_ignore(_: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    report({"kind": "phase", "phase": "training"})
    while True:
        signal.pause()


def do_escape(path: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "import signal; signal.pause()"],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    Path(path).write_text(str(process.pid))
    report({"kind": "log", "stream": "tunepool", "text": f"escaped {process.pid}"})


def do_environment(path: str) -> None:
    Path(path).write_text(json.dumps(dict(os.environ)))


def do_eat(size: int) -> None:
    HELD.append(b"\x01" * size)


def do_exit(code: int) -> None:
    os._exit(code)


def do_rank(order: tuple[int, dict[str, Any]]) -> None:
    rank, step = order
    if os.environ.get("RANK") == str(rank):
        (name, value), *_ = step.items()
        globals()[f"do_{name}"](value)


def do_kill(_: bool) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def validate(spec: dict[str, Any]) -> None:
    """What to do is the training file's name: `rows-12` counts 12 rows, the others misbehave."""
    name = spec["training_file"]["name"]
    if name == "hang":
        signal.pause()
    if name == "eat":
        do_eat(400 * 1024**2)
        signal.pause()
    if name == "crash":
        print(f"cannot read {spec['training_file']['url']}", file=sys.stderr, flush=True)
        os._exit(3)
    rows = int(name.removeprefix("rows-"))
    counts = {"rows": rows, "total_tokens": 10 * rows, "trained_tokens": 4 * rows}
    counts |= {"longest_row_tokens": 20, "longest_row_line": 1}
    line = json.dumps({"training": counts, "validation": None, "problems": []}) + "\n"
    os.write(int(os.environ["TUNEPOOL_REPORT_FD"]), line.encode())


def measure() -> None:
    """TUNEPOOL_STUB does not reach this process: a node's environment is what it is given there."""
    speed = {"half_flops_per_second": 2e11, "single_flops_per_second": 1e11, "elements_per_second": 1e9}
    speed |= {"modules_per_second": 5000, "start_seconds": 3.0, "kind": "cpu", "measured": True}
    os.write(int(os.environ["TUNEPOOL_REPORT_FD"]), json.dumps(speed).encode() + b"\n")


if __name__ == "__main__":
    main()
