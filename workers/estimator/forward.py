"""From a batch to its loss, as the training loop goes: one forward, DPO's two, or an evaluation's without gradients."""

from typing import Any, Literal

import torch
from torch import nn

from workers.estimator import attention, cpu, losses
from workers.estimator.precision import Precision
from workers.estimator.request import Request, Training
from workers.estimator.tracker import Tracker

PAIR = 2
"""DPO's rows a micro-batch row: the chosen and the rejected one, concatenated (trl 1.16, DPOTrainer)."""


def forward(
    model: nn.Module,
    training: Training,
    length: int,
    *,
    reference: nn.Module | None,
    precision: Precision,
    device: Literal["cpu", "cuda"],
) -> tuple[torch.Tensor, Any]:
    """The loss of a batch of rows of `length` tokens, and the outputs that the loop keeps until its next batch."""
    rows = training.micro_batch_size * (PAIR if training.method == "dpo" else 1)
    ids = torch.empty(rows, length, dtype=torch.int64, device="meta")
    labels = torch.empty_like(ids)
    batch: dict[str, Any] = {"input_ids": ids}
    packed = attention.rows_of_batch.get() == "packed"
    batch["position_ids" if packed else "attention_mask"] = torch.ones_like(ids)
    if training.method == "dpo":
        return _prefer(model, training, batch, labels, reference=reference, precision=precision), None
    if device == "cpu":
        loss = cpu.compute_loss(model, batch, labels)
        precision.forget()
        return loss, None
    if training.loss != "materialized":
        loss = losses.headless_loss(model, batch, labels, kind=training.loss)
        precision.forget()
        return loss, None
    if training.keeps_outputs:
        outputs = model(**batch, labels=labels, num_items_in_batch=1)
        precision.forget()
        return outputs.loss, outputs
    outputs = model(**batch, labels=labels)
    precision.forget()
    outputs.logits.float()  # accelerate hands what a forward pass in lower precision returns on as float32
    return outputs.loss, None


def _prefer(
    model: Any,
    training: Training,
    batch: dict[str, Any],
    labels: torch.Tensor,
    *,
    reference: nn.Module | None,
    precision: Precision,
) -> torch.Tensor:
    """The policy's forward, then the reference's beside what backward needs; an adapter switched off is one."""
    policy = losses.log_probabilities(model, batch, labels, kind=training.loss)
    precision.forget()
    if training.precomputes_reference:
        return policy.sum()
    with torch.no_grad():
        if reference is not None:
            base = losses.log_probabilities(reference, batch, labels, kind=training.loss)
        else:
            with model.disable_adapter():
                base = losses.log_probabilities(model, batch, labels, kind=training.loss)
    precision.forget()
    return (policy - base).sum()


def evaluate_once(
    model: nn.Module, request: Request, tracker: Tracker, *, reference: nn.Module | None, precision: Precision
) -> None:
    """One batch of an evaluation between two steps, beside the optimizer's states. Its work is no part of a step's."""
    training, flops = request.training, dict(tracker.flops)
    count = training.eval_batch_size or training.micro_batch_size
    # Rows of a validation file are not packed, and not all of one length.
    batches = training.model_copy(
        update={"micro_batch_size": count, "packing": False, "padded": training.padded or training.packing or None}
    )
    token = attention.rows_of_batch.set(batches.rows)
    tracker.enter("evaluation")
    tracker.kind = "activations"
    model.eval()
    with torch.no_grad():
        forward(
            model,
            batches,
            batches.max_seq_length,
            reference=reference,
            precision=precision,
            device=request.devices.kind,
        )
    attention.rows_of_batch.reset(token)
    tracker.enter("evaluated")
    tracker.flops = flops
