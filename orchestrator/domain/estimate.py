"""How much memory a plan will take, in a closed form: what is known of any model at once, from its shapes.

Every term is a mechanism with its source; the sum errs high. A traced estimate (`domain.trace`) is better where there
is one; `domain.sizer` is through what both are asked. Each term is derived where it is computed:
`estimate_weights` (what has a parameter behind it), `estimate_activations` (what a micro-batch needs), `estimate_time`.
"""

from dataclasses import dataclass, replace

from orchestrator.domain.estimate_activations import ActivationEstimate, estimate_activations
from orchestrator.domain.estimate_terms import CALIBRATION_TERM, Method
from orchestrator.domain.estimate_time import TimeEstimate, estimate_time
from orchestrator.domain.estimate_weights import (
    FP32_BYTES,
    compute_bytes,
    estimate_base_bytes,
    estimate_constant_bytes,
    estimate_optimizer_bytes,
    measure_adapter,
)
from orchestrator.domain.models import ModelFacts
from orchestrator.domain.placement import DeviceKind
from orchestrator.domain.plan import TrainingPlan

__all__ = [
    "KINDS",
    "DeviceKind",
    "MemoryEstimate",
    "Method",
    "TimeEstimate",
    "calibrate_memory",
    "can_run",
    "estimate_memory",
    "estimate_time",
]

KINDS: tuple[DeviceKind, ...] = ("cpu", "cuda")

BREAKDOWN_TERMS = (
    "base_weights",
    "quantization_constants",
    "adapters",
    "gradients",
    "optimizer",
    "activations",
    "logits_and_loss",
    "backward",
    "runtime",
    "margin",
)
"""`logits_and_loss` and `backward` (one block's gradients, recomputation and unpacked weights) need their room one
after the other, so `backward` holds only what it needs beyond the loss."""
MIB = 2**20
FILE_BYTES = 2
"""Of a weight in the checkpoint's file."""
CPU_RUNTIME_BYTES = 700 * MIB
"""A training process on CPU beside tensors: 487 MiB resident after importing torch, transformers, peft, trl and
bitsandbytes, and about 200 for the trainer and for pages of libraries that the first step touches (measured on
23 November 2026, Linux x86-64, torch 2.13 CPU)."""
CPU_HEAP_SHARE = 0.55
"""What malloc cannot use again: each block's forward leaves holes between the tensors that stay. With and without
checkpointing, the peak was above the sum of all terms by 0.45 to 0.55 of what the blocks of one forward pass allocate
(measured with the figure above, SmolLM2-135M at 4 x 64 and 4 x 256 tokens, before the worker gave holes back (decision
0018); too much since, not measured anew)."""
CPU_LOADING_HEAP_BYTES = 256 * MIB
"""What quantizing the weights on CPU left behind in malloc's arenas; training used it again (measured likewise, before
holes were given back)."""
CUDA_RUNTIME_BYTES = 640 * MIB
"""CUDA's context and loaded kernels, some 500 MiB on recent devices, and cuBLAS's workspaces. Not measured by us."""
COLLECTIVE_BYTES = 32 * 2 * 10 * MIB
"""What NCCL takes beside the allocator where devices work together: 32 channels with a buffer of 10 MiB for each peer,
as on eight H100s (nccl#1685, its log of allocations); two peers, one each for ring and tree, within a machine, where
memory grows with the channels and not with the devices (nccl#986). Fewer channels on slower links."""
CUDA_MARGIN_SHARE = 0.08
"""Blocks that the caching allocator rounds up or cannot split."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on one device: three peaks that are not the same, and what placement reserves.

    `allocated_bytes` are those of tensors, `reserved_bytes` what the allocator holds for them, `device_bytes` the whole
    process: what nvidia-smi shows, on CPU the peak resident set. `total_bytes` is the sum of the breakdown: the whole
    process with a margin. `reason` says why a closed form was not traced. `flops`, of one micro-batch forward and
    backward with what is recomputed, only a trace knows.
    """

    total_bytes: int
    breakdown: dict[str, int]
    allocated_bytes: int
    reserved_bytes: int
    device_bytes: int
    method: Method
    reason: str | None = None
    flops: int | None = None


def estimate_memory(plan: TrainingPlan, facts: ModelFacts, kind: DeviceKind) -> MemoryEstimate:
    """Peak memory of one attempt on each of its devices, for rows as long as the plan allows. Several devices exchange
    gradients through buckets that are as large again (torch 2.13, DistributedDataParallel)."""
    shape = measure_adapter(plan, facts)
    activations = estimate_activations(plan, facts, kind)
    breakdown = {
        "base_weights": estimate_base_bytes(plan, facts),
        "quantization_constants": estimate_constant_bytes(plan, facts),
        "adapters": FP32_BYTES * shape.parameters,
        "gradients": FP32_BYTES * shape.parameters * (2 if plan.devices > 1 else 1),
        "optimizer": estimate_optimizer_bytes(plan, shape),
        "activations": activations.held_bytes,
        "logits_and_loss": activations.loss_bytes,
        "backward": max(0, activations.block_bytes - activations.loss_bytes),
    }
    allocated = sum(breakdown.values())
    if kind == "cpu":
        breakdown["runtime"] = CPU_RUNTIME_BYTES
        breakdown["margin"] = _heap_holes(plan, activations)
        breakdown["margin"] += max(0, _loading_bytes(plan, facts) - sum(breakdown.values()))
    else:
        breakdown["margin"] = int(CUDA_MARGIN_SHARE * sum(breakdown.values()))
        breakdown["runtime"] = CUDA_RUNTIME_BYTES + (COLLECTIVE_BYTES if plan.devices > 1 else 0)
    total = sum(breakdown.values())
    return MemoryEstimate(
        total_bytes=total,
        breakdown={term: breakdown[term] for term in BREAKDOWN_TERMS},
        allocated_bytes=allocated,
        reserved_bytes=allocated + breakdown["margin"],
        device_bytes=total,
        method="closed_form",
    )


def calibrate_memory(estimate: MemoryEstimate, factor: float) -> MemoryEstimate:
    """With the margin that measured runs ask for, as a term of its own: negative when the estimate was too high."""
    added = round((factor - 1.0) * estimate.total_bytes)
    if not added:
        return estimate
    return replace(
        estimate,
        total_bytes=estimate.total_bytes + added,
        breakdown={**estimate.breakdown, CALIBRATION_TERM: added},
    )


def can_run(plan: TrainingPlan, kind: DeviceKind) -> bool:
    """Whether the workers' libraries can do this plan on such a device: bitsandbytes keeps 8-bit optimizer states on
    CUDA only, and float16 needs its loss scaling."""
    return kind == "cuda" or not (plan.optimizer.endswith("_8bit") or plan.compute_dtype == "float16")


def _heap_holes(plan: TrainingPlan, activations: ActivationEstimate) -> int:
    holes = int(CPU_HEAP_SHARE * activations.heap_bytes)
    return holes if plan.quantization == "none" else max(holes, CPU_LOADING_HEAP_BYTES)


def _loading_bytes(plan: TrainingPlan, facts: ModelFacts) -> int:
    """The resident set on CPU while weights are converted: the mapped 16-bit file and what is made of it."""
    if plan.quantization == "none" and compute_bytes(plan) == FILE_BYTES:
        return 0
    made = estimate_base_bytes(plan, facts) + estimate_constant_bytes(plan, facts)
    return CPU_RUNTIME_BYTES + FILE_BYTES * facts.total_parameters + made
