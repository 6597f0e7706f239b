"""A tracer without torch: answers JSON lines, or does what the question's config says it `does`.

Run as `python tracer_stub.py FOLDER`; every process leaves a file there that is named by its process id.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

GIB = 2**30


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """1 GiB a row of the micro-batch, half with checkpointing; the process is named so that a restart is seen."""
    training = question["training"]
    activations = training["micro_batch_size"] * GIB // (2 if training["gradient_checkpointing"] else 1)
    breakdown = {"base_weights": GIB, "adapters": 1, "activations": activations, "allocator": 1, "context": GIB}
    total = sum(breakdown.values())
    return {
        "id": question["id"],
        "peak_allocated_bytes": total - GIB - 1,
        "peak_reserved_bytes": total - GIB,
        "peak_device_bytes": total,
        "breakdown": breakdown,
        "flops": 5 if training["gradient_checkpointing"] else 4,
        "process": os.getpid(),
    }


def say(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def do(what: str, question: dict[str, Any], kept: list[bytes]) -> None:
    match what:
        case "crash":
            sys.exit("Segmentation fault, says the stub")
        case "hang":
            time.sleep(3600)
        case "garbage":
            sys.stdout.write("warning: this is no answer\n")
            sys.stdout.flush()
        case "flood":
            sys.stdout.write("x" * 1_000_000)
            sys.stdout.flush()
        case "other_id":
            say({**answer(question), "id": -1})
        case "error":
            say({"id": question["id"], "error": "model_config: this architecture is not supported"})
        case "grow":
            kept.append(b"x" * (400 * 2**20))
            say(answer(question))
        case "swell":
            kept.append(b"x" * (400 * 2**20))
            time.sleep(3600)
        case "talk":
            sys.stderr.write("a library talks\n" * 20_000)
            say(answer(question))
        case _:
            say(answer(question))


def main(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    kept: list[bytes] = []
    for line in sys.stdin:
        question = json.loads(line)
        do(question["model_config"].get("does", "answer"), question, kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
