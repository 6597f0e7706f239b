"""Figures that can be worked out by hand."""

from typing import Any

import pytest

from tests.support.architectures import make_request
from workers.estimator.answer import Answer, estimate
from workers.estimator.context import CONTEXT_BYTES, CUBLAS_WORKSPACE_BYTES, CUBLAS_WORKSPACES
from workers.estimator.request import Request

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning")

MISTRAL = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
}
LAYER_WEIGHTS = 4096 * (4096 + 1024 + 1024 + 4096) + 3 * 4096 * 14336
WORKSPACES = CUBLAS_WORKSPACES * CUBLAS_WORKSPACE_BYTES


def _ask(**fields: Any) -> Answer:
    return estimate(Request.model_validate({"model_config": MISTRAL, **fields}))


def _train(**changes: Any) -> dict[str, Any]:
    return {"max_seq_length": 4096, "gradient_checkpointing": True, "attention": "flash", **changes}


def test_full_training_peaks_in_the_optimizer_at_five_times_the_weights() -> None:
    """Weights, gradients, two moments and the foreach form's square roots, all bfloat16."""
    answer = _ask(training=_train(optimizer="adamw_torch", loss="materialized"))
    weights = 2 * answer.total_parameters
    assert answer.total_parameters == 7_241_732_096
    assert 5 * weights + WORKSPACES <= answer.peak_allocated_bytes < 5 * weights + WORKSPACES + 2**22


def test_materialized_logits_take_fourteen_bytes() -> None:
    """Two rows: the shifted copy of one row alone is the same memory."""
    training = _train(micro_batch_size=2, packing=True)
    kinds = {loss: _ask(lora={"r": 8}, training={**training, "loss": loss}) for loss in ("materialized", "fused")}
    logits = 2 * 4096 * 32000
    found = kinds["materialized"].breakdown["logits_and_loss"]
    assert 14 * logits <= found + 2 * 4 * 2 * 32000 < 15 * logits
    assert kinds["fused"].peak_allocated_bytes < kinds["materialized"].peak_allocated_bytes


@pytest.mark.parametrize(("double", "constants"), [(True, 1 / 64 + 4 / 64 / 256), (False, 4 / 64)])
def test_four_bit_weights_take_half_a_byte_and_their_scales(double: bool, constants: float) -> None:
    answer = _ask(lora={"r": 8}, quantization={"type": "nf4", "double_quant": double}, training=_train())
    linear = 32 * LAYER_WEIGHTS
    rest = 2 * (2 * 32000 * 4096 + 65 * 4096)
    assert answer.breakdown["base_weights"] == pytest.approx(linear / 2 + rest, rel=1e-5)
    assert answer.breakdown["quantization_constants"] == pytest.approx(linear * constants, rel=6e-3)


def test_adapters_their_gradients_and_moments_are_float32() -> None:
    answer = _ask(lora={"r": 16, "target_modules": ["q_proj"]}, training=_train())
    trained = 32 * 16 * (4096 + 4096)
    assert answer.trainable_parameters == trained
    assert answer.breakdown["adapters"] == 4 * trained
    assert answer.breakdown["optimizer"] == pytest.approx(8 * trained, rel=1e-2)


def test_checkpointing_keeps_one_stream_a_layer() -> None:
    answers = {
        kind: _ask(
            lora={"r": 8},
            quantization={"type": "nf4"},
            training=_train(micro_batch_size=4, packing=True, loss="materialized", residual_dtype=kind),
        )
        for kind in ("bfloat16", "float32")
    }
    stream = 4 * 4096 * 4096
    more = answers["float32"].peak_allocated_bytes - answers["bfloat16"].peak_allocated_bytes
    assert more == pytest.approx(32 * 2 * stream, rel=0.02)


@pytest.mark.parametrize("optimizer", ["paged_adamw_8bit", "adamw_8bit", "adamw", "sgd"])
def test_states_are_those_of_the_optimizer(optimizer: str) -> None:
    answer = _ask(lora={"r": 32, "target_modules": ["q_proj"]}, training=_train(optimizer=optimizer))
    moments = {"paged_adamw_8bit": 8 / 256, "adamw_8bit": 2 + 8 / 256, "adamw": 8, "sgd": 0}[optimizer]
    assert answer.breakdown["optimizer"] == pytest.approx(moments * answer.trainable_parameters, rel=0.02)


@pytest.mark.parametrize("optimizer", ["paged_adamw_8bit", "adamw_8bit"])
def test_moments_of_small_tensors_are_float32_in_8_bit_optimizers(optimizer: str) -> None:
    """[1024, 2] of k_proj is too small, [2, 4096] is not; its scales take one of the allocator's smallest blocks."""
    lora = {"r": 2, "target_modules": ["k_proj"]}
    answer = _ask(lora=lora, training=_train(optimizer=optimizer))
    assert answer.breakdown["optimizer"] == 32 * (8 * 2048 + 2 * (8192 + 512))


def test_sharding_spreads_what_has_parameters_behind_it() -> None:
    alone = _ask(training=_train(micro_batch_size=1))
    spread = _ask(training=_train(micro_batch_size=1), devices={"count": 8, "sharding": "fsdp"})
    copied = _ask(training=_train(micro_batch_size=1), devices={"count": 8, "sharding": "ddp"})
    assert spread.peak_allocated_bytes < alone.peak_allocated_bytes / 3
    assert copied.peak_allocated_bytes == pytest.approx(
        alone.peak_allocated_bytes + 2 * alone.total_parameters, rel=0.01
    )


def test_the_parts_add_up_to_the_device() -> None:
    answer = estimate(Request.model_validate(make_request("mixtral", lora={"r": 4})))
    assert sum(answer.breakdown.values()) == answer.peak_device_bytes
    assert answer.peak_device_bytes == answer.peak_reserved_bytes + CONTEXT_BYTES


def test_flops_of_full_training_are_six_a_parameter_and_token() -> None:
    answer = _ask(training=_train(max_seq_length=128, gradient_checkpointing=False, loss="materialized"))
    matrices = 32 * LAYER_WEIGHTS + 32000 * 4096
    assert answer.flops == pytest.approx(6 * matrices * 128, rel=0.02)
