"""How fast is this machine's CPU at what a training step is made of? Measured in some three seconds on an idle core.

A step is products of matrices, passes over activations that the memory bounds, and many small calls whose time is their
own. The three differ between machines by different factors, so each is measured. What a step needs of each is known by
`orchestrator.domain.estimate_step`.
"""

import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from orchestrator.domain.speed import DeviceSpeed

WARM_UPS, FEWEST_REPEATS = 3, 9
LEAST_SHARE = 0.8
"""Below it the machine is too busy for a measurement: threads that wait for each other are slowed many times over."""
TIMED_SECONDS, MOST_SECONDS = 0.25, 2.0
"""For each of the figures: calls are repeated that long, so that some of them meet nothing else on a busy machine."""
PRODUCT_ROWS, PRODUCT_WIDTH = 256, 1024
"""A small micro-batch at a small model's width; larger ones reach the same rate within 5 % (two EPYC cores)."""
PASSED_ELEMENTS = 2**24
"""Larger than malloc ever keeps (32 MiB; mallopt(3), M_MMAP_THRESHOLD), in both dtypes: so each pass is over fresh
pages, which `domain.estimate_step` counts in. Smaller blocks were fresh or not by what was freed before: a factor of
nine."""
PASSES = 5
"""Over memory in `_pass`: there and back, for each of its operations."""
SMALL_ROWS, SMALL_WIDTH, SMALL_RANK, SMALL_MODULES = 8, 64, 8, 24


def measure_cpu(*, start_seconds: float) -> DeviceSpeed:
    """Of this process, with as many threads as torch would train with here."""
    return DeviceSpeed(
        kind="cpu",
        half_flops_per_second=_measure_products(torch.bfloat16),
        single_flops_per_second=_measure_products(torch.float32),
        elements_per_second=_measure_passes(),
        modules_per_second=_measure_modules(),
        start_seconds=start_seconds,
        measured=True,
    )


def measure_share() -> float:
    """The processor time that this process gets, of what its threads could use: far below 1 beside other work."""
    began_at, used_before = time.perf_counter(), time.process_time()
    _measure_products(torch.float32)
    used = time.process_time() - used_before
    return used / ((time.perf_counter() - began_at) * torch.get_num_threads())


def _measure_products(dtype: torch.dtype) -> float:
    """FLOPs per second of [M, K] @ [K, N]."""
    left = torch.randn(PRODUCT_ROWS, PRODUCT_WIDTH, dtype=dtype)
    weight = torch.randn(PRODUCT_WIDTH, PRODUCT_WIDTH, dtype=dtype)
    seconds = _time(lambda: functional.linear(left, weight))
    return 2 * PRODUCT_ROWS * PRODUCT_WIDTH * PRODUCT_WIDTH / seconds


def _measure_passes() -> float:
    """Elements per second that one elementwise operation gets through, forward and backward, in both dtypes."""
    given = torch.randn(PASSED_ELEMENTS, dtype=torch.bfloat16)
    seconds = _time(lambda: _pass(given))
    return PASSES * PASSED_ELEMENTS / seconds


def _pass(given: torch.Tensor) -> None:
    whole = given.float()
    scaled = whole * 0.5
    torch.add(scaled, whole, out=scaled)
    functional.silu(scaled.to(torch.bfloat16))


def _measure_modules() -> float:
    """Linear layers with an adapter per second, forward and backward, so small that only the calls take time."""
    modules = [_SmallModule() for _ in range(SMALL_MODULES)]
    given = torch.randn(SMALL_ROWS, SMALL_WIDTH, requires_grad=True)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            held = given
            for module in modules:
                held = module(held)
        held.float().sum().backward()

    return SMALL_MODULES / _time(step)


class _SmallModule(nn.Module):
    """[T, 64] to [T, 64]: a frozen product with a low-rank one beside it, as PEFT writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(SMALL_WIDTH, SMALL_WIDTH, dtype=torch.bfloat16), requires_grad=False)
        self.down = nn.Linear(SMALL_WIDTH, SMALL_RANK, bias=False)
        self.up = nn.Linear(SMALL_RANK, SMALL_WIDTH, bias=False)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        plain = functional.linear(given, self.weight)
        return functional.silu(plain + self.up(self.down(given.float())) * 2.0)


def _time(work: Callable[[], object]) -> float:
    """Seconds of the fastest of many calls: whatever else runs on the machine makes calls slower, and none faster."""
    for _ in range(WARM_UPS):
        work()
    taken: list[float] = []
    began_at = time.perf_counter()
    while len(taken) < FEWEST_REPEATS or (sum(taken) < TIMED_SECONDS and time.perf_counter() < began_at + MOST_SECONDS):
        started_at = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started_at)
    return min(taken)
