"""How fast devices are: measured on a CPU, from the manufacturer's catalogue for a GPU. Pure.

The four figures are what a training step is made of (`domain.estimate_step`); a machine that is twice as fast at one of
them is not at another.
"""

from typing import NamedTuple

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
"""Of the catalogue's rate that products of matrices reach in training: a little below the 38 to 43 % of the Llama 3
report (table 4, thousands of H100s), because adapters multiply narrow matrices. Not measured by us."""
GPU_BYTES_PER_ELEMENT = 8
"""That an elementwise operation moves: a read and a write of two to four bytes, some of them in the cache."""
GPU_MODULES_PER_SECOND = 8000.0
"""Some 25 kernels a module at 5 us a launch. Not measured by us."""
GPU_START_SECONDS = 12.0


class _Gpu(NamedTuple):
    """`part` of a device type. Dense bfloat16 tensor TFLOP/s with float32 accumulation (float16 on V100 and T4, which
    have no bfloat16), float32 TFLOP/s outside tensor cores, GB/s of memory, and the document of NVIDIA's that says so;
    "from memory" where none that does could be read.
    """

    part: str
    half_tflops: float
    single_tflops: float
    gigabytes_per_second: float
    source: str


_GPUS = (
    _Gpu("b200", 2250, 80, 8000, "Blackwell architecture technical brief, HGX B200; sparse rate halved"),
    _Gpu("h200", 989.5, 67, 4800, "H200 data sheet, SXM; sparse rate halved"),
    _Gpu("h100-nvl", 835.5, 60, 3900, "H100 data sheet, NVL, sparse rate halved; float32 and memory from memory"),
    _Gpu("h100-pcie", 756.5, 51, 2000, "H100 data sheet, PCIe; sparse rate halved"),
    _Gpu("h100", 989.5, 67, 3350, "H100 data sheet, SXM; sparse rate halved"),
    _Gpu("a100-sxm4-80gb", 312, 19.5, 2039, "A100 data sheet 1758950, 80 GB SXM"),
    _Gpu("a100-80gb-pcie", 312, 19.5, 1935, "A100 data sheet 1758950, 80 GB PCIe"),
    _Gpu("a100", 312, 19.5, 1555, "A100 data sheet 1758950, 40 GB"),
    _Gpu("l40s", 362.05, 91.6, 864, "L40S data sheet"),
    _Gpu("l40", 181.05, 90.5, 864, "L40 data sheet"),
    _Gpu("l4", 121, 30.3, 300, "L4 data sheet; sparse rate halved"),
    _Gpu("rtx-6000-ada", 364.2, 91.1, 960, "RTX 6000 Ada data sheet; tensor rate from memory"),
    _Gpu("rtx-a6000", 154.8, 38.7, 768, "RTX A6000 data sheet; sparse rate halved"),
    _Gpu("a40", 149.7, 37.4, 696, "A40 data sheet"),
    _Gpu("a10g", 70, 35, 600, "from memory"),
    _Gpu("a10", 125, 31.2, 600, "A10 data sheet"),
    _Gpu("rtx-5090", 209.5, 104.8, 1792, "RTX Blackwell GPU architecture whitepaper; tensor rate from memory"),
    _Gpu("rtx-4090", 165.2, 82.6, 1008, "Ada GPU architecture whitepaper 2.1, appendix A"),
    _Gpu("rtx-4080", 97.5, 48.7, 717, "Ada GPU architecture whitepaper 2.1, appendix A"),
    _Gpu("rtx-3090", 71, 35.6, 936, "Ampere GA102 GPU architecture whitepaper, appendix A"),
    _Gpu("v100-sxm2", 125, 15.7, 900, "V100 data sheet 1165301, SXM2"),
    _Gpu("v100", 112, 14, 900, "V100 data sheet 1165301, PCIe"),
    _Gpu("t4", 65, 8.1, 300, "T4 data sheet 951643"),
)
"""The first that matches counts, so longer names stand before shorter ones. GeForce cards multiply with float32
accumulation at half the rate that they are advertised with."""
_UNKNOWN_GPU = next(gpu for gpu in _GPUS if gpu.part == "rtx-4090")
"""It lies in the middle on a logarithmic scale."""


def find_speed(kind: DeviceKind, device_type: str = "") -> DeviceSpeed:
    """What is known of a device that was not measured."""
    if kind == "cpu":
        return CPU_SPEED
    parts = f"-{device_type}-"
    gpu = next((gpu for gpu in _GPUS if f"-{gpu.part}-" in parts), _UNKNOWN_GPU)
    return DeviceSpeed(
        kind="cuda",
        half_flops_per_second=GPU_SHARE * gpu.half_tflops * 1e12,
        single_flops_per_second=GPU_SHARE * gpu.single_tflops * 1e12,
        elements_per_second=gpu.gigabytes_per_second * 1e9 / GPU_BYTES_PER_ELEMENT,
        modules_per_second=GPU_MODULES_PER_SECOND,
        start_seconds=GPU_START_SECONDS,
    )
