"""From a request to its answer: three peaks that are never confused, and what they are made of.

peak_allocated: what the tensors take (torch's max_memory_allocated). peak_reserved: what the caching allocator holds
for them. peak_device: the whole process, as nvidia-smi shows it. The breakdown is taken at the moment of the largest
allocation and adds up to peak_device.
"""

import gc
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from transformers import PreTrainedConfig

from workers.estimator import cpu
from workers.estimator.allocator import NoRoom, round_size, simulate_reserved
from workers.estimator.build import EstimateError, build_model, build_reference, read_config
from workers.estimator.context import USUAL_DEVICE_BYTES, measure_context, workspaces
from workers.estimator.depth import Plan, Recording, Unstretchable, plan_depth, shrink_config, stretch
from workers.estimator.request import Devices, Request
from workers.estimator.resident import find_peaks
from workers.estimator.sharding import insert, shard
from workers.estimator.step import STEPS, record_steps

PARTS = (
    "base_weights",
    "quantization_constants",
    "adapters",
    "gradients",
    "optimizer",
    "activations",
    "logits_and_loss",
    "allocator",
    "context",
)
CACHED_ANSWERS = 4096


@dataclass(frozen=True)
class Answer:
    """Bytes on one device. `flops` are those of one micro-batch, forward and backward, recomputation included."""

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    peak_device_bytes: int
    breakdown: dict[str, int]
    trainable_parameters: int
    total_parameters: int
    flops: int
    seconds: float

    def as_line(self) -> dict[str, Any]:
        return {**vars(self), "seconds": round(self.seconds, 4)}


def estimate(request: Request) -> Answer:
    """Trace, or look up, one request. Raises EstimateError. `seconds` is the time that this call took."""
    began = time.perf_counter()
    key = request.model_copy(update={"id": None}).model_dump_json(by_alias=True)
    return replace(_estimate(key), seconds=time.perf_counter() - began)


@lru_cache(maxsize=CACHED_ANSWERS)
def _estimate(text: str) -> Answer:
    request = Request.model_validate_json(text)
    config = read_config(request)
    if request.devices.kind == "cpu" and (reason := cpu.refuse(request)):
        raise EstimateError(reason)
    with warnings.catch_warnings(), _without_cycle_collection():
        warnings.simplefilter("ignore")  # libraries warn about what a step without data cannot mean
        return _answer(request, config)


def _answer(request: Request, config: PreTrainedConfig) -> Answer:
    recording, parameters = _record(request, config)
    if request.devices.kind == "cpu":
        return _answer_for_cpu(request, config, recording, parameters)
    recording = _with_workspaces(shard(recording, request.devices))
    allocated, parts = _find_peak(recording)
    reserved = _simulate(recording, request)
    context = measure_context(request.devices)
    parts["allocator"] = reserved - allocated
    parts["context"] += context
    return Answer(
        peak_allocated_bytes=allocated,
        peak_reserved_bytes=reserved,
        peak_device_bytes=reserved + context,
        breakdown={part: parts[part] for part in PARTS},
        trainable_parameters=parameters[0],
        total_parameters=parameters[1],
        flops=recording.flops // STEPS,
        seconds=0.0,
    )


@contextmanager
def _without_cycle_collection() -> Iterator[None]:
    """Python's collector comes at moments that depend on all that ran before; a recording must not. And it would look
    through a hundred thousand events again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _answer_for_cpu(
    request: Request, config: PreTrainedConfig, recording: Recording, parameters: tuple[int, int]
) -> Answer:
    peaks = find_peaks(recording, request, config, frozen_parameters=parameters[1] - parameters[0])
    return Answer(
        peak_allocated_bytes=peaks.allocated_bytes,
        peak_reserved_bytes=peaks.held_bytes,
        peak_device_bytes=peaks.device_bytes,
        breakdown={part: peaks.parts[part] for part in (*PARTS, "loading")},
        trainable_parameters=parameters[0],
        total_parameters=parameters[1],
        flops=recording.flops // STEPS,
        seconds=0.0,
    )


def _record(request: Request, config: PreTrainedConfig) -> tuple[Recording, tuple[int, int]]:
    """The deep model's recording, stretched from a shallow one where its layers repeat; and its parameters."""
    plan = plan_depth(config)
    try:
        return _record_as(request, config, plan)
    except Unstretchable:
        return _record_as(request, config, replace(plan, copies=0))


def _record_as(request: Request, config: PreTrainedConfig, plan: Plan) -> tuple[Recording, tuple[int, int]]:
    small = shrink_config(config, plan)
    tracker = record_steps(build_model(request, small), request, reference=build_reference(request, small))
    counted = tracker.parameters
    inner = [sum(pair[i] for layer, pair in counted.items() if plan.first <= layer < plan.last) for i in (0, 1)]
    trained, total = (sum(pair[i] for pair in counted.values()) + plan.copies * inner[i] for i in (0, 1))
    return stretch(tracker, plan), (trained, total)


def _with_workspaces(recording: Recording) -> Recording:
    """cuBLAS takes its workspaces from the allocator at the first products, after the model is loaded."""
    place = next(start for start, (name, _) in recording.marks if name == "step")
    added = workspaces()
    numbers = list(range(len(recording.births), len(recording.births) + len(added)))
    return insert(recording, recording.births + added, {place: numbers})


def _find_peak(recording: Recording) -> tuple[int, Counter[str]]:
    """The most bytes alive at once, and what they were."""
    sizes = np.array([round_size(born.size_bytes) for born in recording.births], dtype=np.int64)
    events = np.array(recording.events, dtype=np.int64)
    numbers = np.where(events < 0, ~events, events)
    changes = np.where(events < 0, -sizes[numbers], sizes[numbers])
    live = np.cumsum(changes)
    moment = int(live.argmax())
    held = np.bincount(numbers[: moment + 1], weights=changes[: moment + 1], minlength=len(sizes))
    parts: Counter[str] = Counter()
    for number in np.flatnonzero(held).tolist():
        parts[recording.births[number].kind] += int(held[number])
    return int(live[moment]), parts


def _simulate(recording: Recording, request: Request) -> int:
    """Reserved bytes on the request's device, or on a usual one; without a limit when it takes more than that."""
    empties = request.training.keeps_outputs
    device: Devices = request.devices
    limit = (device.memory_bytes or USUAL_DEVICE_BYTES) - measure_context(device)
    try:
        return simulate_reserved(recording, limit_bytes=limit, empties_cache=empties)
    except NoRoom:
        return simulate_reserved(recording, limit_bytes=None, empties_cache=empties)
