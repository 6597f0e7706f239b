"""Several processes on one node that train one adapter, a device each: which of them is this one, and how do they meet?

Data parallel (torch's DistributedDataParallel): each rank holds the whole model and works on micro-batches of its own,
and gradients are averaged. The rank is in the environment, in the variables that accelerate reads. The first rank
leads. The others take no decision that depends on time or on what they are told, so that all of them take the same
steps; when the first one stops, the supervisor ends the others.
"""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch

from orchestrator.domain.protocol import AttemptSpec

MEETING_FILE = "meeting"
"""In the attempt's own folder; a port that was free a moment ago may be taken."""
SILENCE_SECONDS = 24 * 3600
"""How long ranks wait for one another: the first one may have to wait for an upload, or to evaluate. A rank that died
is seen by the supervisor, at once."""


def spec_of_rank(spec: AttemptSpec, rank: int) -> AttemptSpec:
    """The spec as this rank takes it: its own device and, but for the first, a folder of its own and no business with
    limits and checkpoints."""
    if rank == 0:
        return spec
    folder = Path(spec.work_dir) / f"rank-{rank}"
    folder.mkdir(mode=0o700, exist_ok=True)
    plan = spec.plan.model_copy(update={"checkpoint_steps": None, "checkpoint_seconds": None})
    own = {"device": spec.devices[rank], "work_dir": str(folder), "plan": plan, "run_limit_seconds": None}
    return spec.model_copy(update=own)


def meet(spec: AttemptSpec, rank: int) -> None:
    """Wait for the other ranks of this attempt, if it has any, and take this rank's device."""
    count = len(spec.devices)
    if count == 1:
        return
    if spec.device.kind == "cuda":
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(
        "nccl" if spec.device.kind == "cuda" else "gloo",
        init_method=f"file://{Path(spec.work_dir) / MEETING_FILE}",
        rank=rank,
        world_size=count,
        timeout=timedelta(seconds=SILENCE_SECONDS),
    )


def get_rank() -> int:
    """0 for the first rank, and for a process that trains alone."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def count_ranks() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def sum_over_ranks(values: Sequence[int]) -> list[int]:
    """Every rank has to ask, and gets the same answer."""
    if count_ranks() == 1:
        return list(values)
    kind = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    total = torch.tensor(values, dtype=torch.int64, device=kind)
    torch.distributed.all_reduce(total)
    return [int(value) for value in total.tolist()]


def seed_step(seed: int, step: int) -> None:
    """Give each rank random numbers of its own, which depend on the seed and the step alone: a checkpoint holds the
    random states of the first rank only. A process that trains alone goes on with the states that it has."""
    count = count_ranks()
    if count > 1:
        torch.manual_seed((seed * 1_000_003 + step) * count + get_rank())
