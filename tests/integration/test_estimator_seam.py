"""The control plane and the real tracer: what one asks, the other answers; with torch, in a process of its own."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.domain.estimate_changes import suggest_savings
from orchestrator.domain.sizer import Gauge
from orchestrator.runtime.sizer import TracedSizer
from orchestrator.runtime.tracer import Tracer, TracerLimits
from tests.support.plans import SMOLLM2_135M, make_base_model, make_plan

SMOLLM2_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
    "vocab_size": 49_152,
}
MODEL = replace(make_base_model(), config=SMOLLM2_CONFIG)
UNKNOWN = replace(make_base_model(), config={**SMOLLM2_CONFIG, "model_type": "no_such_type"})


@pytest.fixture(scope="module")
def sizer() -> Iterator[TracedSizer]:
    tracer = Tracer(limits=TracerLimits(start_seconds=200, answer_seconds=100))
    yield TracedSizer(tracer, 200)
    tracer.close()


def test_smollm2_is_traced_and_its_weights_are_counted_exactly(sizer: TracedSizer) -> None:
    plan = make_plan()
    (found,) = sizer.measure(MODEL, [plan], kind="cuda")
    assert (found.method, found.reason) == ("traced", None)
    assert found.breakdown["base_weights"] == pytest.approx(2 * SMOLLM2_135M.total_parameters, rel=0.01)
    assert found.flops is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "paged_adamw_8bit", "quantization": "nf4"},
        {"optimizer": "adamw_8bit", "quantization": "int8"},
        {"optimizer": "adafactor", "use_dora": True, "lora_bias": "lora_only"},
        {"optimizer": "sgd", "compute_dtype": "float32", "use_rslora": True, "lora_dropout": 0.1},
        {"quantization": "fp4", "double_quant": False, "compute_dtype": "float16"},
    ],
)
def test_whatever_a_plan_may_say_is_understood(sizer: TracedSizer, changes: dict[str, Any]) -> None:
    (found,) = sizer.measure(MODEL, [make_plan(max_seq_tokens=64, **changes)], kind="cuda")
    assert (found.method, found.reason) == ("traced", None)


def test_a_cpu_reserves_what_its_process_takes(sizer: TracedSizer) -> None:
    """[4, 64] tokens in NF4: a real training process took 1053 MiB (docs/benchmarks.md)."""
    plan = make_plan(quantization="nf4", micro_batch_rows=4, max_seq_tokens=64)
    (found,) = sizer.measure(MODEL, [plan], kind="cpu")
    assert (found.method, found.reason) == ("traced", None)
    assert found.device_bytes == pytest.approx(1053 * 2**20, rel=0.1)
    assert found.total_bytes == found.device_bytes + found.breakdown["margin"]
    (refused,) = sizer.measure(MODEL, [make_plan(quantization="int8")], kind="cpu")
    assert (refused.method, refused.reason) == (
        "closed_form",
        "the tracer cannot do this: quantization.type: int8's products on a CPU are not traced",
    )


def test_what_would_make_it_smaller_is_traced_too(sizer: TracedSizer) -> None:
    savings = suggest_savings(make_plan(micro_batch_rows=2), Gauge(sizer=sizer, model=MODEL, kind="cuda"))
    assert {change.method for change in savings} == {"traced"}
    checkpointing = next(change for change in savings if "training.gradient_checkpointing" in change.settings)
    assert checkpointing.time_factor is not None
    assert 1.2 < checkpointing.time_factor < 1.5


def test_an_architecture_that_is_not_known_has_a_reason(sizer: TracedSizer) -> None:
    (found,) = sizer.measure(UNKNOWN, [make_plan()], kind="cuda")
    assert found.method == "closed_form"
    assert found.reason is not None
    assert "no_such_type" in found.reason
