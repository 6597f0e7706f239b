"""The three ways from hidden states to a loss, and what each keeps.

materialized: the model's own: logits [B, T, V], their float32 copy, log-probabilities, and both gradients.
chunked: some tokens at a time, recomputed in backward. fused: gradients made in forward, one tile at a time.
"""

from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

CHUNK_TOKENS = 256
"""Tokens a chunk of TRL's chunked loss (trl 1.16, SFTConfig's loss_type chunked_nll)."""


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
