"""How a training step on a CPU differs from one on a GPU: casts, attention, the loss, and the process around it.

Sources are those of the installed versions (torch 2.13, transformers 5.23, bitsandbytes 0.50) and our own worker.
"""

import inspect
from typing import Any

import torch
from peft import PeftModel
from torch.nn import functional

from workers.builders import loss as direct
from workers.estimator import precision
from workers.estimator.attention import KernelAttention
from workers.estimator.losses import headless_loss
from workers.estimator.request import Request
from workers.estimator.tracker import count_flops

LOWER: frozenset[Any] = precision.TO_LOWER - {torch.einsum}
FLOAT32: frozenset[Any] = frozenset({functional.cross_entropy, functional.nll_loss, torch.prod, torch.Tensor.prod})
"""Torch's table for CPU ("Automatic Mixed Precision package", CPU op reference): norms, softmax and powers are in
neither list there, and run in the dtype of what they are given."""
TILE_COPIES = 7
"""Float32 tiles that TRL's fused head has at once in backward on a CPU, beside a mask of bytes (trl 1.16,
kernels/chunked_logprob.py, its path without a kernel)."""


class CpuAttention(KernelAttention):
    """Torch's flash attention for CPUs saves the same; its backward adds up in place and needs rows of scratch only
    (ATen, native/cpu/FlashAttentionKernel.cpp)."""

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        query, key, value = ctx.saved_tensors[:3]
        width = query.shape[-1] + value.shape[-1]
        count_flops(query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2] * width * 5)
        return *(torch.empty_like(item) for item in (query, key, value)), None


def stand_in_for_sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    *_args: Any,
    **_kwargs: Any,
) -> torch.Tensor:
    """In the place of torch's scaled_dot_product_attention: a mask becomes a bias in the query's dtype."""
    bias = attn_mask
    if bias is not None and bias.dtype != query.dtype:
        bias = bias.new_empty(bias.shape, dtype=query.dtype)
    return CpuAttention.apply(query, key.to(query.dtype), value.to(query.dtype), bias)


def compute_loss(model: torch.nn.Module, batch: dict[str, Any], labels: torch.Tensor) -> torch.Tensor:
    """What the worker does (`workers.builders.loss`), when every position of every row is learned."""
    causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    vocabulary = causal.config.get_text_config().vocab_size
    tokens = labels.numel()
    fused_bytes = direct.FUSED_BYTES_PER_CELL * direct.FUSED_TILE_WORDS * min(tokens, direct.FUSED_TILE_TOKENS)
    asks = "logits_to_keep" in inspect.signature(type(causal).forward).parameters
    if not asks or direct.DIRECT_BYTES_PER_CELL * tokens * vocabulary > fused_bytes:
        return _Folded.apply(headless_loss(model, batch, labels, kind="fused"), tokens, vocabulary)
    positions = torch.empty(labels.shape[1], dtype=torch.int64, device="meta")
    # accelerate hands what a forward pass in lower precision returns on as float32
    logits = model(**batch, logits_to_keep=positions, use_cache=False).logits.float()
    wanted = torch.empty(tokens, dtype=torch.int64, device="meta")
    given = logits.view(-1, logits.shape[-1])[wanted]
    return functional.cross_entropy(given.float(), wanted, reduction="sum")


class _Folded(torch.autograd.Function):
    """The tiles that TRL's fused head folds on a CPU, where no kernel keeps them in registers."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor, tokens: int, vocabulary: int) -> torch.Tensor:
        ctx.tile = min(tokens, direct.FUSED_TILE_TOKENS), min(vocabulary, direct.FUSED_TILE_WORDS)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        _tiles = [gradient.new_empty(ctx.tile, dtype=torch.float32) for _ in range(TILE_COPIES)]
        _mask = gradient.new_empty(ctx.tile, dtype=torch.bool)
        return gradient.clone(), None, None


def refuse(request: Request) -> str | None:
    """Why this cannot be traced on a CPU, if it cannot."""
    if request.quantization.type == "int8":
        return "quantization.type: int8's products on a CPU are not traced"
    if request.training.dtype == "float16":
        return "training.dtype: float16 is not trained on a CPU"
    if request.devices.count > 1:
        return "devices.count: a CPU is one device"
    return None
