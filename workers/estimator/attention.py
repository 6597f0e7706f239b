"""Attention that allocates and saves what the GPU kernels do, and computes nothing.

Flash and memory-efficient attention keep q, k, v, their output and its log-sum-exp (Dao et al. 2022, algorithm 1 and
appendix B); no T x T matrix exists. Eager attention is not replaced: it is ordinary operations.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from transformers import AttentionInterface, AttentionMaskInterface, masking_utils
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

from workers.estimator.tracker import count_flops

WITHOUT_MASK, WITH_MASK = "kernel_without_mask", "kernel_with_mask"
"""Names under which transformers finds the stand-ins."""
BIAS_MULTIPLE = 8
"""Torch pads a mask's last dimension to this for the memory-efficient kernel (ATen, transformers/attention.cpp)."""
HEAD_MULTIPLE, ROW_MULTIPLE = 32, 128
"""Flash attention rounds head sizes and rows so for its float32 accumulators (flash_api.cpp, mha_bwd)."""

Rows = Literal["whole", "padded", "packed"]
"""What a batch's rows are: all of one length, filled up with padding, or several examples each, kept apart."""
rows_of_batch: ContextVar[Rows] = ContextVar("rows_of_batch", default="whole")


class KernelAttention(torch.autograd.Function):
    """query [B, H, T, D]; key, value [B, K, S, D] with K a divisor of H; bias [B or 1, 1, T, S] or None."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, bias: Any) -> Any:
        batch, heads, rows, _ = query.shape
        out = query.new_empty(batch, rows, heads, value.shape[-1]).transpose(1, 2)
        sums = query.new_empty(batch, heads, rows, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, sums, bias)
        _count(query, key, value, products=2)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        """Gradients in the inputs' dtype; dq is summed in float32, dk and dv per query head before grouping."""
        query, key, value, _out, _sums, _bias = ctx.saved_tensors
        batch, heads, rows, width = query.shape
        gradient = gradient.contiguous() if gradient.stride(-1) != 1 else gradient
        rounded = -(-rows // ROW_MULTIPLE) * ROW_MULTIPLE
        grad_query, grad_key, grad_value = (torch.empty_like(item) for item in (query, key, value))
        scratch = [
            query.new_empty(batch, heads, rounded, dtype=torch.float32),
            query.new_empty(batch, heads, rounded, -(-width // HEAD_MULTIPLE) * HEAD_MULTIPLE, dtype=torch.float32),
        ]
        if key.shape[1] != heads:
            scratch += [item.new_empty(batch, heads, *item.shape[2:]) for item in (key, value)]
        _count(query, key, value, products=5)
        return grad_query, grad_key, grad_value, None


def _count(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, products: int) -> None:
    """Forward multiplies twice, backward five times (scores again, dv, dp, dq, dk); all T x T, half masked or not."""
    width = query.shape[-1] + value.shape[-1]
    count_flops(query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2] * width * products)


def stand_in_for_sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    *_args: Any,
    **_kwargs: Any,
) -> torch.Tensor:
    """In the place of torch's scaled_dot_product_attention: a mask becomes a bias in the query's dtype, aligned."""
    bias = None
    if attn_mask is not None:
        bias = attn_mask
        if bias.dtype != query.dtype:
            bias = attn_mask.new_empty(attn_mask.shape, dtype=query.dtype)
        columns = -(-bias.shape[-1] // BIAS_MULTIPLE) * BIAS_MULTIPLE
        if columns != bias.shape[-1]:
            bias = bias.new_empty(*bias.shape[:-1], columns)
    if key.dtype != query.dtype or value.dtype != query.dtype:
        key, value = key.to(query.dtype), value.to(query.dtype)
    return KernelAttention.apply(query, key, value, bias)


def _attend_without_mask(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None,
    **_kwargs: Any,
) -> tuple[torch.Tensor, None]:
    if query.dtype == torch.float32:
        query, key, value = (item.to(torch.bfloat16) for item in (query, key, value))
    width = value.shape[-1]
    if query.shape[-1] != width:  # the kernel wants one width, so values are filled up and the output is cut
        value = torch.nn.functional.pad(value, [0, query.shape[-1] - width])
    attend = _attend_unpadded if rows_of_batch.get() == "padded" else _attend_whole
    output = attend(query, key, value)
    return output if width == output.shape[-1] else output[..., :width], None


def _attend_whole(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """[B, H, T, D] in, [B, T, H, D] out."""
    output: torch.Tensor = KernelAttention.apply(query, key, value, None)
    return output.transpose(1, 2)


def _attend_unpadded(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The same; the kernel gets copies without padding, [tokens, H, D], and its output goes into a padded one.

    As in transformers 5.23's modeling_flash_attention_utils (_upad_input, _pad_input). Rows are taken as full, so that
    the copies are as large as they can be.
    """
    batch, heads, rows, _ = query.shape
    tokens = query.new_empty(batch * rows, dtype=torch.int64)
    packed = [item.transpose(1, 2).reshape(batch * rows, *item.shape[1::2])[tokens] for item in (query, key, value)]
    output = _attend_whole(*(item.unsqueeze(0).transpose(1, 2) for item in packed))[0]
    padded = output.new_zeros(batch * rows, heads, output.shape[-1])
    padded[tokens] = output
    return padded.view(batch, rows, heads, output.shape[-1])


def _no_mask(*_args: Any, **_kwargs: Any) -> None:
    return None


def _mask_of_kernel(batch_size: int, q_length: int, kv_length: int, *args: Any, **kwargs: Any) -> torch.Tensor | None:
    """[B, 1, T, S] of bool for padded rows or a window that cuts keys off, else None: kernels know the triangle.

    Packed rows get transformers' own mask, whose making takes as much again for a moment.
    """
    rows, window = rows_of_batch.get(), kwargs.get("local_size")
    if rows == "packed":
        mask: torch.Tensor | None = sdpa_mask(batch_size, q_length, kv_length, *args, **kwargs)
        return mask
    if rows == "whole" and (window is None or window >= kv_length):
        return None
    return torch.empty(batch_size, 1, q_length, kv_length, dtype=torch.bool, device="meta")


def _find_packed_rows(position_ids: torch.Tensor) -> torch.Tensor | None:
    """transformers' find_packed_sequence_indices [B, T], which looks whether there is more than one example a row."""
    if rows_of_batch.get() != "packed":
        return None
    steps = torch.diff(position_ids, prepend=position_ids[:, :1] - 1, dim=-1)
    return (steps != 1).cumsum(-1)


def register() -> None:
    """Make the stand-ins known to transformers under their own names; nothing of transformers' own is replaced."""
    AttentionInterface.register(WITHOUT_MASK, _attend_without_mask)
    AttentionInterface.register(WITH_MASK, sdpa_attention_forward)
    AttentionMaskInterface.register(WITHOUT_MASK, _no_mask)
    AttentionMaskInterface.register(WITH_MASK, _mask_of_kernel)


@contextmanager
def masks_of_kernels() -> Iterator[None]:
    """Masks without looking into the data, also for architectures that know transformers' own names only."""
    own, find = ALL_MASK_ATTENTION_FUNCTIONS["sdpa"], masking_utils.find_packed_sequence_indices
    ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] = _mask_of_kernel
    masking_utils.find_packed_sequence_indices = _find_packed_rows
    try:
        yield
    finally:
        ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] = own
        masking_utils.find_packed_sequence_indices = find
