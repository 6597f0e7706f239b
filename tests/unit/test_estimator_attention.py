"""Bytes of attention's copies and masks, worked out by hand."""

from typing import Any

import pytest

from tests.support.architectures import make_request
from workers.estimator.build import build_model, read_config
from workers.estimator.request import Request
from workers.estimator.step import record_steps
from workers.estimator.tracker import Tracker

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning")
BATCH, TOKENS, HEADS, KEY_HEADS, WIDTH = 2, 48, 4, 2, 16
LAYERS = 2


def _record(**training: Any) -> Tracker:
    fields = make_request(
        "llama", depth=LAYERS, lora={"r": 4, "target_modules": "all-linear", "adapter_dtype": "bfloat16"}
    )
    fields["training"] = {"micro_batch_size": BATCH, "max_seq_length": TOKENS, **training}
    request = Request.model_validate(fields)
    return record_steps(build_model(request, read_config(request)), request)


def _kept(tracker: Tracker) -> list[int]:
    """Sizes in bytes of what the layers' first forward leaves for backward, sorted."""
    end = next(start for start, (name, _) in tracker.marks if name == "head")
    start = next(start for start, (name, _) in tracker.marks if name == "forward")
    born = [event for event in tracker.events[start:end] if event >= 0]
    dead = {~event for event in tracker.events[:end] if event < 0}
    return sorted(tracker.births[number].size_bytes for number in born if number not in dead)


def _more(this: list[int], than: list[int]) -> list[int]:
    left = list(this)
    for size in than:
        if size in left:
            left.remove(size)
    return left


@pytest.mark.parametrize("rows", [{"packing": True}, {"padded": True}])
def test_sdpa_keeps_a_bias_of_the_masks_size_a_layer(rows: dict[str, bool]) -> None:
    """The memory-efficient kernel wants the mask in the queries' dtype, and each layer makes its own of it."""
    masked, plain = _kept(_record(**rows)), _kept(_record(padded=False))
    bias = 2 * BATCH * TOKENS * TOKENS
    assert _more(masked, plain).count(bias) == LAYERS


def test_packed_rows_have_positions_of_their_own() -> None:
    """Cosines and sines are [B, T, D] instead of [1, T, D], in bfloat16, and the mask is bool [B, 1, T, T]."""
    packed = _record(packing=True)
    start, end = (next(start for start, (name, _) in packed.marks if name == wanted) for wanted in ("step", "forward"))
    born = [packed.births[event].size_bytes for event in packed.events[start:end] if event >= 0]
    dead = {~event for event in packed.events[:end] if event < 0}
    left = [packed.births[n].size_bytes for n in packed.events[start:end] if n >= 0 and n not in dead]
    assert left.count(2 * BATCH * TOKENS * WIDTH) == 2
    assert left.count(BATCH * TOKENS * TOKENS) == 1
    assert born.count(BATCH * TOKENS * TOKENS) >= 3, (
        "each condition of the mask is one of its size, and so is their and"
    )


def test_padding_makes_flash_attention_copy_its_output() -> None:
    """Copies of q, k and v take the place of what they are made of; indices and, for the next layer, the padded output
    come on top. (Adapters of another dtype have a cast of it anyhow.)"""
    padded = _kept(_record(attention="flash", padded=True))
    whole = _kept(_record(attention="flash", padded=False))
    more = sum(padded) - sum(whole)
    indices, output = 8 * BATCH * TOKENS, 2 * BATCH * TOKENS * HEADS * WIDTH
    assert more == LAYERS * (indices + output)
