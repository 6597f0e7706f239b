"""How fast devices are: measured on a CPU, from the manufacturer's catalogue for a GPU. Pure.

The four figures are what a training step is made of (`domain.estimate_step`); a machine that is twice as fast at one of
them is not at another.
"""

from pydantic import BaseModel, ConfigDict, PositiveFloat

from orchestrator.domain.placement import DeviceKind


class DeviceSpeed(BaseModel):
    """FLOPs per second of matrix products by dtype; elements per second that an elementwise operation passes over; tiny
    modules per second, forward and backward, of which only the calls take time.

    `start_seconds` pass until the worker's libraries are imported. `measured` on the device itself.
    """

    model_config = ConfigDict(frozen=True)

    kind: DeviceKind
    half_flops_per_second: PositiveFloat
    single_flops_per_second: PositiveFloat
    elements_per_second: PositiveFloat
    modules_per_second: PositiveFloat
    start_seconds: PositiveFloat
    measured: bool = False

    def flops_per_second(self, dtype: str) -> float:
        return self.single_flops_per_second if dtype == "float32" else self.half_flops_per_second


CPU_SPEED = DeviceSpeed(
    kind="cpu",
    half_flops_per_second=4.3e11,
    single_flops_per_second=1.85e11,
    elements_per_second=1.25e9,
    modules_per_second=6300,
    start_seconds=6.0,
)
"""Until a CPU was measured: two cores of an AMD EPYC with AVX512-BF16, by `workers.speed` on 25 November 2026. Cores
without bfloat16 units reach a third of it, machines with more cores a multiple."""

GPU_SHARE = 0.35
"""Of the catalogue's rate that products of matrices reach in training. A middle figure; not measured by us."""
GPU_BYTES_PER_ELEMENT = 8
"""That an elementwise operation moves: a read and a write of two to four bytes, some of them in the cache."""
GPU_MODULES_PER_SECOND = 8000.0
"""Some 25 kernels a module at 5 us a launch. Not measured by us."""
GPU_START_SECONDS = 12.0

_GPUS: tuple[tuple[str, float, float, float], ...] = (
    ("b200", 2250, 80, 8000),
    ("h200", 989, 67, 4800),
    ("h100-pcie", 756, 51, 2000),
    ("h100", 989, 67, 3350),
    ("a100-sxm4-80gb", 312, 19.5, 2039),
    ("a100-80gb-pcie", 312, 19.5, 1935),
    ("a100", 312, 19.5, 1555),
    ("l40s", 362, 91.6, 864),
    ("l40", 181, 90.5, 864),
    ("l4", 121, 30.3, 300),
    ("rtx-6000-ada", 364, 91.1, 960),
    ("rtx-a6000", 155, 38.7, 768),
    ("a40", 150, 37.4, 696),
    ("a10g", 70, 31.2, 600),
    ("a10", 125, 31.2, 600),
    ("rtx-5090", 210, 105, 1792),
    ("rtx-4090", 165, 82.6, 1008),
    ("rtx-4080", 97, 48.7, 717),
    ("rtx-3090", 71, 35.6, 936),
    ("v100", 112, 14, 900),
    ("t4", 65, 8.1, 320),
)
"""Part of the device type; dense bfloat16 tensor TFLOP/s with float32 accumulation (float16 on V100 and T4, which have
no bfloat16), float32 TFLOP/s outside tensor cores, GB/s of memory: NVIDIA's published figures,
written down from memory and not yet compared with the data sheets. The first that matches
counts, so longer names stand before shorter ones."""
_UNKNOWN_GPU = (165, 82.6, 1008)
"""An RTX 4090's, which lies in the middle on a logarithmic scale."""


def find_speed(kind: DeviceKind, device_type: str = "") -> DeviceSpeed:
    """What is known of a device that was not measured."""
    if kind == "cpu":
        return CPU_SPEED
    parts = f"-{device_type}-"
    half, single, memory = next((row[1:] for row in _GPUS if f"-{row[0]}-" in parts), _UNKNOWN_GPU)
    return DeviceSpeed(
        kind="cuda",
        half_flops_per_second=GPU_SHARE * half * 1e12,
        single_flops_per_second=GPU_SHARE * single * 1e12,
        elements_per_second=memory * 1e9 / GPU_BYTES_PER_ELEMENT,
        modules_per_second=GPU_MODULES_PER_SECOND,
        start_seconds=GPU_START_SECONDS,
    )
