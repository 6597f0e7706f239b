"""Bytes of an 8-bit product, operation by operation, as bitsandbytes' CUDA path allocates them."""

import torch
from torch import nn

from workers.estimator.quantized import PackedLinear8bit
from workers.estimator.tracker import Tracker

ROWS, INPUTS, OUTPUTS = 6, 512, 1024


def test_an_eight_bit_product_and_its_gradient() -> None:
    layer = PackedLinear8bit(nn.Linear(INPUTS, OUTPUTS, bias=False, device="meta", dtype=torch.bfloat16))
    inputs = torch.empty(2, ROWS // 2, INPUTS, dtype=torch.bfloat16, device="meta", requires_grad=True)
    gradient = torch.empty(2, ROWS // 2, OUTPUTS, dtype=torch.bfloat16, device="meta")
    with Tracker() as tracker:
        output = layer(inputs)
        forward, kept = _sizes(tracker), _alive(tracker)
        output.backward(gradient)
        backward = _sizes(tracker)[len(forward) :]
    cells, results = ROWS * INPUTS, ROWS * OUTPUTS
    assert sorted(forward) == sorted(
        [2 * cells, 4 * ROWS, cells, 2 * cells, cells, 4 * results, 2 * results, 2 * results]
    ), "float16 copy, scales, bytes, magnitudes, outliers; int32, float16 and the output's own dtype"
    assert kept == [2 * results], "of its own only the output: what backward needs is the input"
    assert backward == [2 * INPUTS * OUTPUTS, 2 * cells], "the unpacked weight and the input's gradient"
    assert sum(tracker.flops.values()) == 2 * 2 * cells * OUTPUTS


def _sizes(tracker: Tracker) -> list[int]:
    return [born.size_bytes for born in tracker.births]


def _alive(tracker: Tracker) -> list[int]:
    return [tracker.births[number].size_bytes for number in tracker.alive]
