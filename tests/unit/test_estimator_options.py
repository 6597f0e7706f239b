"""Each option that moves the peak, held against the real library's storages on a CPU."""

from typing import Any

import pytest

from tests.support.real_steps import (
    OPTIMIZERS,
    TOLERANCE_BYTES,
    count_stored,
    make_plain_request,
    make_real,
    predict,
    train,
)
from tests.support.storages import StorageCount, find_peak
from workers.estimator.request import Request

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning")
LINEARS: dict[str, Any] = {"r": 8, "target_modules": "all-linear"}


def _compare(request: Request) -> int:
    """The real peak, which the prediction must have hit."""
    count, model = StorageCount(), make_real(request)
    count_stored(model, count)
    train(model, request, count)
    assert find_peak(predict(request)) == pytest.approx(count.peak_bytes, abs=TOLERANCE_BYTES)
    return count.peak_bytes


@pytest.fixture(scope="module")
def plain_peak_bytes() -> int:
    return _compare(make_plain_request(LINEARS))


@pytest.mark.parametrize(
    ("option", "direction"),
    [
        ({"use_dora": True}, 1),
        ({"use_rslora": True}, 0),
        ({"use_lora_fa": True}, -1),
        ({"dropout": 0.1}, 1),
        ({"r": 64}, 1),
        ({"target_modules": ["q_proj"]}, -1),
        ({"target_modules": ["q_proj", "embed_tokens"]}, -1),
        ({"modules_to_save": ["lm_head"]}, 1),
    ],
)
def test_an_option_of_the_adapters(option: dict[str, Any], direction: int, plain_peak_bytes: int) -> None:
    change = _compare(make_plain_request(LINEARS | option)) - plain_peak_bytes
    assert (change > TOLERANCE_BYTES) - (change < -TOLERANCE_BYTES) == direction


def test_checkpointing(plain_peak_bytes: int) -> None:
    assert _compare(make_plain_request(LINEARS, gradient_checkpointing=True)) < plain_peak_bytes


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer_of_full_training(optimizer: str) -> None:
    """Peaks in the optimizer's step, so states and temporaries decide."""
    _compare(make_plain_request(None, optimizer=optimizer))
