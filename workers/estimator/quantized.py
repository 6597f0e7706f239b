"""bitsandbytes' quantized linear layers with storages of the true sizes and the allocations of the true kernels.

They are subclasses, so that PEFT takes its own path for them: its 4-bit layers copy the base layer's output.
"""

from typing import Any

import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Linear4bit, Linear8bitLt, Params4bit
from torch import nn

from workers.estimator.request import Quantization
from workers.estimator.tracker import count_flops

BLOCK, NESTED_BLOCK = 64, 256
"""Weights a scale, and first-level scales a second-level scale (bitsandbytes' defaults; QLoRA, section 3)."""
CODE_VALUES, NESTED_CODE_VALUES = 16, 256
"""Values of the 4-bit code book, and of the dynamic 8-bit one for scales; both float32."""


class _Dequantized(torch.autograd.Function):
    """A product with a 4-bit weight: unpacked into the compute dtype for it, in both directions, and dropped.

    Since 0.50 bitsandbytes' fused kernel needs no unpacked copy for few rows only; here every product makes one.
    """

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, shape: tuple[int, int], bias: torch.Tensor | None) -> torch.Tensor:
        ctx.shape = shape
        return nn.functional.linear(inputs, inputs.new_empty(shape), bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return torch.matmul(gradient, gradient.new_empty(ctx.shape)), None, None


class PackedLinear4bit(Linear4bit):
    """Weight [out, in] in two values a byte; scales as float32, or as bytes under a second level."""

    def __init__(self, linear: nn.Linear, quantization: Quantization, compute_dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.compute_dtype, self.compute_type_is_set = compute_dtype, True
        self.source_dtype = linear.weight.dtype
        self.bias = linear.bias
        count = self.in_features * self.out_features
        shape = torch.Size((self.out_features, self.in_features))
        state = _make_state(shape, quantization, linear.weight.dtype)
        self.weight = _pack(_bytes(-(-count // 2), 1), state, quantization)
        for index, constant in enumerate(_constants(state)):
            self.register_buffer(f"quantization_constant_{index}", constant, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes in the compute dtype and returns the input's, as bitsandbytes does."""
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        inputs = x.to(self.compute_dtype)
        return _Dequantized.apply(inputs, (self.out_features, self.in_features), bias).to(x.dtype)


class _Product8bit(torch.autograd.Function):
    """bitsandbytes' LLM.int8 with its threshold (0.50, MatMul8bitLt and the CUDA operations behind it).

    Forward casts inputs to float16, looks for outliers, packs rows to bytes, multiplies into int32 and scales those
    into float16, whatever the dtype of input and output; it keeps the reshaped input. Backward unpacks the weight
    [out, in] into the input's dtype. What outliers take by themselves depends on the data, and is little.
    """

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        rows = inputs.reshape(-1, inputs.shape[-1])
        packed, scales = _quantize_rows(rows.to(torch.float16))
        products = packed.new_empty(rows.shape[0], weight.shape[0], dtype=torch.int32)
        output = products.new_empty(products.shape, dtype=torch.float16).to(inputs.dtype)
        count_flops(2 * rows.numel() * weight.shape[0])
        del products, packed, scales
        ctx.inputs, ctx.weight, ctx.shape = rows, weight, inputs.shape
        return output.view(*inputs.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        rows = gradient.reshape(-1, gradient.shape[-1]).contiguous()
        unpacked = ctx.weight.new_empty(ctx.weight.shape, dtype=ctx.inputs.dtype)
        return torch.matmul(rows.to(ctx.inputs.dtype), unpacked).view(ctx.shape), None, None


def _quantize_rows(half: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, K] of float16 to bytes and a float32 scale a row; outliers are found by a whole absolute value."""
    scales = half.new_empty(half.shape[0], dtype=torch.float32)
    packed = half.new_empty(half.shape, dtype=torch.int8)
    half.abs().ge(_State8bit.threshold)
    return packed, scales


class PackedLinear8bit(Linear8bitLt):
    """Weight [out, in] of bytes and a float32 scale for each of its rows."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self.index, self.state = None, _State8bit()
        self.source_dtype = torch.float16
        self.weight = nn.Parameter(_bytes(self.out_features, self.in_features).view(torch.int8), requires_grad=False)
        scales = torch.empty(self.out_features, dtype=torch.float32, device="meta")
        self.register_buffer("quantization_constant_0", scales, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Product8bit.apply(x, self.weight, self.bias)


class _State8bit:
    """What PEFT asks bitsandbytes' state for when it wraps a layer."""

    has_fp16_weights = False
    threshold = 6.0


def quantize_linears(model: nn.Module, quantization: Quantization, compute_dtype: torch.dtype) -> None:
    """Replace every linear layer but the output head, as transformers does for bitsandbytes."""
    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child is not head:
                packed: nn.Module
                if quantization.type == "int8":
                    packed = PackedLinear8bit(child)
                else:
                    packed = PackedLinear4bit(child, quantization, compute_dtype)
                setattr(parent, name, packed)


def _bytes(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.uint8, device="meta")


def _floats(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.float32, device="meta")


def _make_state(shape: torch.Size, quantization: Quantization, dtype: torch.dtype) -> QuantState:
    """Scales and code book; with double quantization the scales are bytes that have scales of their own."""
    blocks, nested = -(-shape.numel() // BLOCK), None
    if quantization.double_quant:
        nested = QuantState(
            absmax=_floats(-(-blocks // NESTED_BLOCK)),
            blocksize=NESTED_BLOCK,
            code=_floats(NESTED_CODE_VALUES),
            dtype=torch.float32,
        )
    return QuantState(
        absmax=_floats(blocks) if nested is None else _bytes(blocks),
        shape=shape,
        dtype=dtype,
        blocksize=BLOCK,
        code=_floats(CODE_VALUES),
        quant_type=quantization.type,
        offset=None if nested is None else _floats(),
        state2=nested,
    )


def _pack(packed: torch.Tensor, state: QuantState, quantization: Quantization) -> Params4bit:
    """bitsandbytes' parameter as it is after quantizing, so that whoever unpacks it finds what it needs."""
    weight: Any = torch.Tensor._make_subclass(Params4bit, packed, False)
    weight.blocksize, weight.compress_statistics = BLOCK, quantization.double_quant
    weight.quant_type, weight.quant_storage = quantization.type, torch.uint8
    weight.quant_state, weight.bnb_quantized, weight.module = state, True, None
    return weight


def _constants(state: QuantState) -> list[torch.Tensor]:
    """All storages of a layer's state."""
    found = [state.absmax, state.code]
    if state.state2 is not None:
        found += [state.state2.absmax, state.state2.code, state.offset]
    return found
