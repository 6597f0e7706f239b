"""The peak of a training process on a CPU: its resident set, as workers/memory.py reports it there.

It is the larger of two peaks. Loading: the mapped file, all of it read, beside the weights that are made of it.
Training: what is alive before the first step, and what malloc holds for two steps, one after the other (heap.py). Both
beside the libraries.
"""

from collections import Counter
from typing import NamedTuple

from transformers import PreTrainedConfig

from workers.estimator.depth import Recording
from workers.estimator.heap import simulate_resident
from workers.estimator.request import Request

RUNTIME_BYTES = 512 * 2**20
"""A training process before it loads a model: 507 MiB resident with torch, transformers, peft, trl, bitsandbytes and
the tokenizer of SmolLM2, the same in three runs; the rest for pages of libraries that the first step touches
(Linux x86-64, torch 2.13 for CPUs, 25 November 2026)."""
_FILE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


class Peaks(NamedTuple):
    """Bytes: of tensors, with what malloc holds for them, and of the process; and what the last is made of."""

    allocated_bytes: int
    held_bytes: int
    device_bytes: int
    parts: Counter[str]


def find_peaks(recording: Recording, request: Request, config: PreTrainedConfig, *, frozen_parameters: int) -> Peaks:
    """Of the last recorded step, which has everything that a step may find: gradients, the optimizer's states, and the
    holes of the step before."""
    steps = [place for place, (name, _) in recording.marks if name == "step"]
    standing = _count_alive(recording, steps[-1])
    allocated, parts = _find_most(recording, steps[-1], standing)
    before = _count_alive(recording, steps[0]).total()
    held = max(allocated, before + simulate_resident(recording, start=steps[0]))
    loading = _loading_bytes(request, config, standing, frozen_parameters)
    parts["allocator"] = held - allocated
    parts["loading"] = max(0, loading - held)
    parts["context"] = RUNTIME_BYTES
    return Peaks(allocated, held, max(held, loading) + RUNTIME_BYTES, parts)


def _count_alive(recording: Recording, end: int) -> Counter[str]:
    """Bytes by what they are for, of what lives at event `end`."""
    parts: Counter[str] = Counter()
    for event in recording.events[:end]:
        born = recording.births[event if event >= 0 else ~event]
        parts[born.kind] += born.size_bytes if event >= 0 else -born.size_bytes
    return parts


def _find_most(recording: Recording, start: int, standing: Counter[str]) -> tuple[int, Counter[str]]:
    """The most bytes alive at once from event `start` on, and what they were."""
    live = most = standing.total()
    moment = start
    for index, event in enumerate(recording.events[start:], start):
        size = recording.births[event if event >= 0 else ~event].size_bytes
        live += size if event >= 0 else -size
        if live > most:
            most, moment = live, index
    return most, _count_alive(recording, moment + 1)


def _loading_bytes(request: Request, config: PreTrainedConfig, standing: Counter[str], parameters: int) -> int:
    """The mapped file beside what is made of it. Weights that stay as they are in the file stay in its mapping."""
    in_file = str(config.dtype or "float32").removeprefix("torch.")
    if request.quantization.type == "none" and in_file == request.training.dtype:
        return 0
    made = standing["base_weights"] + standing["quantization_constants"]
    return _FILE_BYTES.get(in_file, 4) * parameters + made
