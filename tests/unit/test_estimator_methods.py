"""What an evaluation, DPO's pairs and its reference model take, worked out by hand."""

from typing import Any

import pytest

from tests.support.architectures import make_request
from workers.estimator.answer import Answer, estimate
from workers.estimator.request import Request

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning")
VOCABULARY, TOKENS = 4096, 64


def _ask(*, lora: dict[str, Any] | None = None, **training: Any) -> Answer:
    fields = make_request("llama", depth=8, lora=lora, training={"max_seq_length": TOKENS, **training})
    fields["model_config"]["vocab_size"] = VOCABULARY
    return estimate(Request.model_validate(fields))


def test_an_evaluation_of_fused_rows_needs_no_more_than_a_step() -> None:
    """What our worker does: the same rows and the same head, but nothing kept."""
    quiet, evaluated = (vars(_ask(evaluates=on)) for on in (False, True))
    assert {**quiet, "seconds": 0} == {**evaluated, "seconds": 0}


def test_an_evaluation_in_larger_batches_can_be_the_peak() -> None:
    """Beside the states, logits in bfloat16 and float32, the shifted copy and its log-softmax: 14 bytes each, and no
    gradient. A step is no larger for it, and no more work."""
    lora = {"r": 4}
    quiet = _ask(lora=lora, loss="materialized", evaluates=True)
    evaluated = _ask(lora=lora, loss="materialized", evaluates=True, eval_batch_size=8)
    logits = 8 * TOKENS * VOCABULARY
    assert quiet.peak_allocated_bytes < evaluated.peak_allocated_bytes
    assert 13.5 * logits <= evaluated.breakdown["logits_and_loss"] <= 14.5 * logits
    assert evaluated.breakdown["gradients"] == 0
    assert evaluated.flops == quiet.flops


def test_the_reference_of_full_training_is_another_set_of_weights() -> None:
    without, beside = (
        _ask(method="dpo", precomputes_reference=computed, gradient_checkpointing=True) for computed in (True, False)
    )
    weights = 2 * without.total_parameters
    assert beside.breakdown["base_weights"] - without.breakdown["base_weights"] == pytest.approx(weights, rel=0.01)
    assert (beside.total_parameters, beside.trainable_parameters) == (
        without.total_parameters,
        without.trainable_parameters,
    )


def test_an_adapter_is_its_own_reference() -> None:
    answers = [_ask(lora={"r": 8}, method="dpo", precomputes_reference=computed) for computed in (True, False)]
    assert len({answer.breakdown["base_weights"] for answer in answers}) == 1
    assert len({answer.breakdown["adapters"] for answer in answers}) == 1


def test_a_pair_is_two_rows_and_the_reference_a_forward_more() -> None:
    """Forward and backward of twice the rows; then one forward, which is a third of those for full training."""
    alone, computed, pairs = (
        _ask(micro_batch_size=2, loss="materialized"),
        _ask(method="dpo", precomputes_reference=True, loss="materialized"),
        _ask(method="dpo", loss="materialized"),
    )
    assert computed.flops == pytest.approx(alone.flops, rel=0.001)
    assert pairs.flops == pytest.approx(alone.flops * 4 / 3, rel=0.03)


def test_pairs_of_whole_logits_take_eight_bytes_each() -> None:
    """Their float32 copy and its log-probabilities, of chosen and rejected rows; single tokens take next to nothing."""
    fused, whole = (
        _ask(lora={"r": 4}, method="dpo", loss=loss, precomputes_reference=True) for loss in ("fused", "materialized")
    )
    logits = 2 * TOKENS * VOCABULARY
    assert 8 * logits <= whole.breakdown["logits_and_loss"] <= 9 * logits
    assert fused.peak_allocated_bytes < whole.peak_allocated_bytes
