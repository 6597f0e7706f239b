"""Two whole training steps on the meta device, recorded: forward, backward, clipping and the optimizer.

The second step has what the first one leaves behind: optimizer states and, in a loop that keeps them, old outputs.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.autograd.graph import _engine_run_backward
from torch.nn import functional

from workers.estimator import attention, cpu, losses
from workers.estimator.build import DTYPES, find_layers, is_saved_module
from workers.estimator.forward import evaluate_once, forward
from workers.estimator.optimizers import Steps, build_optimizer
from workers.estimator.precision import Precision, emulated_autocast
from workers.estimator.quantized import BLOCK, PackedLinear4bit, PackedLinear8bit
from workers.estimator.repeat import FirstStep
from workers.estimator.request import Request
from workers.estimator.tracker import Tracker

STEPS = 2
"""Recorded steps: the first allocates the optimizer's states, the second runs beside them."""


def record_steps(model: nn.Module, request: Request, *, reference: nn.Module | None = None) -> Tracker:
    """Everything that a training loop allocates, from the model's own storages to the end of the second step, and of an
    evaluation after it. `reference` is DPO's frozen model, where it is one of its own."""
    tracker = Tracker()
    layers = find_layers(model)
    owners = _own_parameters(model, layers)
    _load_storages(model, tracker, owners)
    if request.training.loss == "materialized" and not request.training.keeps_outputs:
        causal = model.get_base_model() if isinstance(model, PeftModel) else model
        causal.loss_function = losses.shifted_copy_loss
    precision = _make_precision(request)
    _mark_layers(layers, tracker, precision)
    if reference is not None:
        layers = find_layers(reference)
        _load_storages(reference, tracker, _own_parameters(reference, layers), counts=False)
        _mark_layers(layers, tracker, precision)
    _mark_gradients(model, tracker, owners)
    optimizer = build_optimizer(request, model, tracker, owners)
    with ExitStack() as stack:
        stack.callback(attention.rows_of_batch.reset, attention.rows_of_batch.set(request.training.rows))
        stack.enter_context(emulated_autocast(precision, device=request.devices.kind))
        stack.enter_context(attention.masks_of_kernels())
        stack.enter_context(tracker)
        stack.enter_context(precision)
        loop = _Loop(model, request, tracker=tracker, precision=precision, reference=reference)
        loop.train(optimizer)
        if request.training.evaluates:
            evaluate_once(model, request, tracker, reference=reference, precision=precision)
        tracker.enter("end")
    tracker.close()
    return tracker


class _Loop:
    def __init__(
        self,
        model: nn.Module,
        request: Request,
        *,
        tracker: Tracker,
        precision: Precision,
        reference: nn.Module | None,
    ) -> None:
        self._model, self._request, self._reference = model, request, reference
        self._tracker, self._precision = tracker, precision
        self._outputs: Any = None
        # On a CPU the peak is that of the worker's probe, which has gradients beforehand (recipes/probe.py).
        self._keeps_gradients = request.devices.kind == "cpu"
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def train(self, optimizer: Steps) -> None:
        """Two steps; the second is written instead of run where it is the first one's like."""
        for step in range(STEPS):
            first = FirstStep(self._tracker)
            self._run_until_clipped(step)
            if step == 0 and not self._keeps_gradients and self._outputs is None and first.leaves_only_gradients():
                first.finish_twice(optimizer.step, self._free_gradients)
                return
            self._tracker.enter("optimizer")
            optimizer.step()
            self._tracker.enter("zero")
            if not self._keeps_gradients or step == STEPS - 1:
                self._free_gradients()

    def _run_until_clipped(self, step: int) -> None:
        """Forward, beside the outputs that were kept of the batch before, backward and clipping."""
        tracker, precision = self._tracker, self._precision
        tracker.enter("step")
        tracker.kind = "activations"
        length = _length(self._request, step)
        loss, self._outputs = forward(
            self._model,
            self._request.training,
            length,
            reference=self._reference,
            precision=precision,
            device=self._request.devices.kind,
        )
        tracker.enter("head_backward")
        with tracker.counting_as("logits_and_loss"):
            _run_backward(loss)
        precision.forget()
        del loss
        tracker.enter("clip")
        torch.nn.utils.clip_grad_norm_(self._trained, 1.0)

    def _free_gradients(self) -> None:
        for parameter in self._trained:
            parameter.grad = None


def _run_backward(loss: torch.Tensor) -> None:
    """What loss.backward() does, but with the function mode left on, so that recomputed layers cast again."""
    _engine_run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def _make_precision(request: Request) -> Precision:
    lower = _autocast_dtype(request)
    product = functional.scaled_dot_product_attention
    if request.devices.kind == "cpu":
        return Precision(lower, {product: cpu.stand_in_for_sdpa}, to_lower=cpu.LOWER, to_float32=cpu.FLOAT32)
    return Precision(lower, {product: attention.stand_in_for_sdpa})


def _autocast_dtype(request: Request) -> torch.dtype | None:
    """The Trainer of transformers runs under autocast; a plain loop that keeps its outputs (as in PEFT) does not."""
    training = request.training
    if training.keeps_outputs or training.dtype == "float32":
        return None
    return DTYPES[training.dtype]


def _length(request: Request, step: int) -> int:
    """Tokens a row. Outputs that a loop keeps are those of the batch before, and the longest batch follows a usual one.

    Rows of data sets are rarely near the longest, so the batch before is taken as half as long.
    """
    longest = request.training.max_seq_length
    shorter = request.training.keeps_outputs and not request.training.packing and step < STEPS - 1
    return max(2, longest // 2) if shorter else longest


def _own_parameters(model: nn.Module, layers: nn.ModuleList) -> dict[int, int]:
    """The layer that each parameter or buffer is in, by identity; -1 for embeddings, final norm and head."""
    owners = {id(tensor): -1 for tensor in (*model.parameters(), *model.buffers())}
    for index, layer in enumerate(layers):
        owners.update({id(tensor): index for tensor in (*layer.parameters(), *layer.buffers())})
    return owners


def _load_storages(model: nn.Module, tracker: Tracker, owners: dict[int, int], *, counts: bool = True) -> None:
    """The model's own storages in the order of its modules, as they are loaded; parameters are noted if it `counts`.

    A packed layer comes from a whole weight [out, in] that was there before it, with its float32 scales; those stay
    behind in the allocator's cache.
    """
    tracker.enter("model")
    for name, module in model.named_modules():
        adapters = "lora_" in name or is_saved_module(name + ".")
        with tracker.counting_as("adapters" if adapters else "base_weights"):
            sources = _load_sources(module, tracker, owners)
            for parameter in module.parameters(recurse=False):
                owner, count = owners[id(parameter)], _count(parameter)
                trained, total = tracker.parameters.get(owner, (0, 0))
                if tracker.add(parameter, owner=owner) and counts:
                    tracker.parameters[owner] = (trained + count * parameter.requires_grad, total + count)
            for part, buffer in module.named_buffers(recurse=False):
                kind = "quantization_constants" if part.startswith("quantization_constant_") else None
                tracker.add(buffer, kind=kind, owner=owners[id(buffer)], rows=0)
            del sources


def _load_sources(module: nn.Module, tracker: Tracker, owners: dict[int, int]) -> list[torch.Tensor]:
    """What is quantized, while it is."""
    if not isinstance(module, PackedLinear4bit | PackedLinear8bit):
        return []
    weight = torch.empty(module.out_features, module.in_features, dtype=module.source_dtype, device="meta")
    sources = [weight]
    if isinstance(module, PackedLinear4bit):
        sources.append(torch.empty(-(-weight.numel() // BLOCK), dtype=torch.float32, device="meta"))
    for source in sources:
        tracker.add(source, owner=owners[id(module.weight)], rows=0)
    return sources


def _count(parameter: nn.Parameter) -> int:
    """Parameters that a tensor stands for: a packed one holds two a byte."""
    return parameter.numel() * (2 if hasattr(parameter, "quant_storage") else 1)


def _mark_layers(layers: nn.ModuleList, tracker: Tracker, precision: Precision) -> None:
    """Start a section where a layer's forward begins and ends, and where its backward begins."""
    for index, layer in enumerate(layers):
        layer.__class__ = _marked(type(layer))
        layer.__dict__["marking"] = (tracker, precision, index, index == len(layers) - 1)


def _marked(cls: type[nn.Module]) -> type[nn.Module]:
    """The same class, whose calls are sections."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        tracker, precision, index, last = self.__dict__["marking"]
        tracker.enter("forward", index)
        tracker.kind = "activations"
        outputs = cls.__call__(self, *args, **kwargs)
        hidden = outputs[0] if isinstance(outputs, tuple) else outputs
        if hidden.requires_grad:
            hidden.register_hook(_entering(tracker, precision, index))
        if last:
            tracker.enter("head")
            tracker.kind = "logits_and_loss"
        return outputs

    return type(cls.__name__, (cls,), {"__call__": call})


def _entering(tracker: Tracker, precision: Precision, index: int) -> Callable[[torch.Tensor], None]:
    """A recomputed layer runs under an autocast context of its own, so its cached casts go when the next one starts."""

    def enter(_gradient: torch.Tensor) -> None:
        precision.forget()
        tracker.enter("backward", index)
        tracker.kind = "activations"

    return enter


def _mark_gradients(model: nn.Module, tracker: Tracker, owners: dict[int, int]) -> None:
    def remember(parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            tracker.retag(parameter.grad, "gradients", owners[id(parameter)])

    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(remember)
