"""What a CUDA process takes beside its tensors: each constant with its source."""

from orchestrator.domain.estimate import COLLECTIVE_BYTES
from workers.estimator.request import Devices
from workers.estimator.tracker import Born

CUBLAS_WORKSPACES = 2
"""One for the thread that runs forward, one for autograd's (torch's CUDABlas.cpp keys them by handle and stream)."""
CUBLAS_WORKSPACE_BYTES = (4096 * 2 + 16 * 8) * 1024
"""Torch's default, CUBLAS_WORKSPACE_CONFIG=:4096:2:16:8; taken from the caching allocator, so that it counts as
allocated (aten/src/ATen/cuda/CublasHandlePool.cpp, parseChosenWorkspaceSize). On compute capability 9 it is 32 MiB
(pytorch#89027), on 10 and 12 in some versions (pytorch#175344, #182669): 47 MiB more for both, which no request can say
and which the context below has to spare."""
CONTEXT_BYTES = 2_000_000_000
"""The context and the loaded kernels: the upper end of the 1 to 2 GB that transformers' documentation gives ("Model
training anatomy", where nvidia-smi shows 1343 MB for a single number). It depends on device, driver and version, none
of which a request names; too little would say 'fits' for what dies. (1343 MB left one published nvidia-smi figure 4 %
above the prediction.)"""
USUAL_DEVICE_BYTES = 84_987_740_160
"""79.15 GiB, what torch reports as the memory of an 80 GB A100 or H100. Near its limit the allocator gives back what it
holds without need, so a peak close to it is played again on a device of this size."""


def measure_context(devices: Devices) -> int:
    """Bytes of the process on a device that are not the allocator's."""
    return CONTEXT_BYTES + (0 if devices.sharding == "none" else COLLECTIVE_BYTES)


def workspaces() -> list[Born]:
    return [Born(CUBLAS_WORKSPACE_BYTES, "context", -1) for _ in range(CUBLAS_WORKSPACES)]
