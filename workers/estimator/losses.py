"""The three ways from hidden states to a loss, and what each keeps.

materialized: the model's own: logits [B, T, V], their float32 copy, log-probabilities, and both gradients.
chunked: some tokens at a time, recomputed in backward. fused: gradients made in forward, one tile at a time.
"""

from typing import Any

import torch
from peft import PeftModel
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from workers.estimator.tracker import count_flops

CHUNK_TOKENS = 256
"""Tokens a chunk of TRL's chunked loss (trl 1.16, SFTConfig's loss_type chunked_nll)."""
TILE_TOKENS, TILE_WORDS = 4096, 32_768
"""Logits that TRL's fused head makes at a time (trl 1.16, TOKEN_CHUNK_SIZE and _CHUNKED_LOGPROB_CHUNK_SIZE)."""
NUMBERS_A_TOKEN = 7
"""Running maximum, sums and the target's logit, float32 each, in the same function."""


def shifted_copy_loss(logits: torch.Tensor, labels: torch.Tensor, vocab_size: int, **_kwargs: Any) -> torch.Tensor:
    """transformers' causal loss as it was up to 4.49, which copied the float32 logits to shift them by one.

    With the copy the forward pass holds 14 bytes a logit, without it backward holds 12; the larger is assumed.
    """
    wide = logits.float()
    shifted = wide[..., :-1, :].contiguous().view(-1, vocab_size)
    targets = labels[..., 1:].contiguous().view(-1)
    return functional.cross_entropy(shifted, targets)


def chunked_loss(hidden: torch.Tensor, head: torch.nn.Module, labels: torch.Tensor) -> torch.Tensor:
    """hidden [B, T, H], labels [B, T]; logits exist for CHUNK_TOKENS tokens at a time."""
    flat, targets = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
    total = torch.zeros((), device=hidden.device)
    for rows, wanted in zip(flat.split(CHUNK_TOKENS), targets.split(CHUNK_TOKENS), strict=True):
        total = total + checkpoint(_sum_of_chunk, rows, head, wanted, use_reentrant=False)
    return total / len(targets)


def _sum_of_chunk(rows: torch.Tensor, head: torch.nn.Module, wanted: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(head(rows).float(), wanted, reduction="sum")


def headless_loss(model: torch.nn.Module, batch: dict[str, Any], labels: torch.Tensor, *, kind: str) -> torch.Tensor:
    """A loss from the last hidden states [B, T, H], where whole logits never exist."""
    causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    hidden = causal.base_model(**batch, use_cache=False).last_hidden_state
    head = causal.get_output_embeddings()
    if kind == "chunked":
        return chunked_loss(hidden, head, labels)
    scored = hidden[:, :-1].reshape(-1, hidden.shape[-1]).contiguous()
    return _Fused.apply(scored, head.weight, head.bias).sum()


def log_probabilities(
    model: torch.nn.Module, batch: dict[str, Any], labels: torch.Tensor, *, kind: str
) -> torch.Tensor:
    """What DPO compares. Whole logits [B, T, V] become float32 on their way out of accelerate, and log-probabilities
    row by row, as in TRL before its fused head (selective_log_softmax)."""
    if kind != "materialized":
        return headless_loss(model, batch, labels, kind=kind)
    logits = model(**batch).logits.float()
    wanted = labels[:, 1:].unsqueeze(-1)
    rows = [
        functional.log_softmax(row[:-1], dim=-1).gather(-1, target).squeeze(-1)
        for row, target in zip(logits, wanted, strict=True)
    ]
    return torch.stack(rows).sum()


class _Fused(torch.autograd.Function):
    """TRL's fused head on a GPU (trl 1.16, kernels/chunked_logprob.py): logits of a tile at a time, in both passes.

    Forward folds each tile into a few float32 numbers for each scored token; backward makes the tiles again and adds
    their gradients up in float32. hidden [N, H], weight [V, H].
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        count = len(hidden)
        numbers = [hidden.new_empty(count, dtype=torch.float32) for _ in range(NUMBERS_A_TOKEN)]
        _tile = hidden.new_empty(min(count, TILE_TOKENS), min(len(weight), TILE_WORDS))
        count_flops(2 * hidden.numel() * len(weight))
        ctx.save_for_backward(hidden, weight, bias, *numbers[:2])
        return numbers[2]

    @staticmethod
    def backward(ctx: Any, _gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        hidden, weight, bias = ctx.saved_tensors[:3]
        wide = torch.empty_like(hidden, dtype=torch.float32)
        wide_weight = torch.empty_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        _tile = hidden.new_empty(min(len(hidden), TILE_TOKENS), min(len(weight), TILE_WORDS))
        count_flops(2 * hidden.numel() * len(weight) * (2 + ctx.needs_input_grad[1]))
        grad_bias = torch.empty_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        return wide.to(hidden.dtype), None if wide_weight is None else wide_weight.to(weight.dtype), grad_bias
