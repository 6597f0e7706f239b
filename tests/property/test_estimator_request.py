"""Whatever a line says, it gets an answer or an error that names a field; and the answer makes sense."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workers.estimator.__main__ import answer_line
from workers.estimator.request import _OPTIMIZER_WORDS, Request

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning")

CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
}
DTYPES = st.sampled_from(["bfloat16", "float16", "float32"])
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(-3, 3), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(-3, 3), max_size=2),
)
LORA = st.fixed_dictionaries(
    {},
    optional={
        "r": st.integers(1, 16),
        "dropout": st.sampled_from([0.0, 0.1]),
        "target_modules": st.sampled_from([None, [], "all-linear", ["q_proj"], ["lm_head"], ["embed_tokens"], ["x"]]),
        "use_dora": st.booleans(),
        "use_rslora": st.booleans(),
        "use_lora_fa": st.booleans(),
        "modules_to_save": st.sampled_from([None, ["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head"]]),
        "adapter_dtype": DTYPES,
        "bias": st.sampled_from(["none", "all", "lora_only"]),
    },
)
TRAINING = st.fixed_dictionaries(
    {"max_seq_length": st.integers(2, 40), "micro_batch_size": st.integers(1, 3)},
    optional={
        "packing": st.booleans(),
        "padded": st.sampled_from([None, True, False]),
        "gradient_checkpointing": st.booleans(),
        "optimizer": st.sampled_from(sorted(_OPTIMIZER_WORDS)),
        "optimizer_dtype": st.one_of(st.none(), DTYPES),
        "dtype": DTYPES,
        "residual_dtype": st.one_of(st.none(), DTYPES),
        "loss": st.sampled_from(["materialized", "chunked", "fused"]),
        "attention": st.sampled_from(["flash", "sdpa", "eager"]),
        "keeps_outputs": st.booleans(),
        "evaluates": st.booleans(),
        "method": st.sampled_from(["sft", "dpo"]),
        "precomputes_reference": st.booleans(),
    },
)
LINES = st.fixed_dictionaries(
    {"model_config": st.just(CONFIG), "lora": st.one_of(st.none(), LORA), "training": TRAINING},
    optional={
        "quantization": st.fixed_dictionaries(
            {"type": st.sampled_from(["none", "nf4", "fp4", "int8"])}, optional={"double_quant": st.booleans()}
        ),
        "devices": st.fixed_dictionaries(
            {"count": st.integers(1, 4), "sharding": st.sampled_from(["none", "ddp", "fsdp"])}
        ),
    },
)
FIELDS = ("line", "model_config", "model", "lora", "quantization", "training", "devices", "id", "surprise")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(line=LINES)
def test_each_combination_is_answered_or_refused_by_name(line: dict[str, Any]) -> None:
    _check(answer_line(json.dumps(line)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(line=LINES, data=st.data())
def test_a_field_of_any_value_is_answered_or_named(line: dict[str, Any], data: st.DataObject) -> None:
    """One field, on any level, takes a value that nobody meant."""
    changed = json.loads(json.dumps(line))
    level = data.draw(st.sampled_from(["", "lora", "quantization", "training", "devices", "model_config"]))
    place = changed if not level else changed.setdefault(level, {})
    if place is None:
        place = changed[level] = {}
    names = sorted(place) or ["surprise"]
    place[data.draw(st.sampled_from([*names, "surprise"]))] = data.draw(JUNK)
    _check(answer_line(json.dumps(changed)))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    training=st.fixed_dictionaries(
        {
            "max_seq_length": st.integers(8, 64),
            "micro_batch_size": st.integers(1, 4),
            "dtype": st.sampled_from(["bfloat16", "float32"]),
            "loss": st.sampled_from(["materialized", "chunked", "fused"]),
            "attention": st.sampled_from(["flash", "sdpa", "eager"]),
            "optimizer": st.sampled_from(["adamw", "adamw_torch", "paged_adamw_8bit", "adafactor", "rmsprop"]),
            "padded": st.booleans(),
        }
    ),
    rank=st.sampled_from([1, 4, 8]),
    quantization=st.sampled_from(["none", "nf4", "int8"]),
    devices=st.sampled_from([{}, {"count": 4, "sharding": "ddp"}, {"count": 4, "sharding": "fsdp"}]),
)
def test_more_never_takes_less(training: dict[str, Any], rank: int, quantization: str, devices: dict[str, Any]) -> None:
    """More rows, longer ones, a higher rank, and layers that keep everything."""
    line: dict[str, Any] = {
        "model_config": CONFIG,
        "lora": {"r": rank, "target_modules": "all-linear"},
        "quantization": {"type": quantization},
        "training": {**training, "gradient_checkpointing": True},
        "devices": devices,
    }
    least = _peak(line)
    assert least <= _peak(line | {"lora": {**line["lora"], "r": 2 * rank}})
    for change in (
        {"micro_batch_size": training["micro_batch_size"] + 1},
        {"max_seq_length": training["max_seq_length"] + 8},
        {"gradient_checkpointing": False},
    ):
        assert least <= _peak(line | {"training": line["training"] | change}), change


def _peak(line: dict[str, Any]) -> int:
    return int(answer_line(json.dumps(line))["peak_allocated_bytes"])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"model_config": {"model_type": "vit"}}, "model_config.model_type: vit is not a causal language model"),
        ({"model_config": CONFIG | {"num_hidden_layers": 20_000}}, "model_config.num_hidden_layers: 1 to 1000"),
        ({"lora": {"modules_to_save": ["nowhere"]}}, "lora.modules_to_save: this architecture has no module 'nowhere'"),
    ],
)
def test_what_cannot_be_traced_is_named(fields: dict[str, Any], reason: str) -> None:
    answer = answer_line(json.dumps({"id": 7, "model_config": CONFIG, **fields}))
    assert answer["id"] == 7
    assert answer["error"].startswith(reason)


def _check(answer: dict[str, Any]) -> None:
    if "error" in answer:
        assert answer["error"].startswith(FIELDS), answer["error"]
        return
    assert sum(answer["breakdown"].values()) == answer["peak_device_bytes"]
    assert all(size >= 0 for size in answer["breakdown"].values())
    assert 0 < answer["peak_allocated_bytes"] <= answer["peak_reserved_bytes"] < answer["peak_device_bytes"]
    assert 0 <= answer["trainable_parameters"] <= answer["total_parameters"]


def test_every_field_has_its_line_in_the_documentation() -> None:
    """Named with its default, so that nobody has to read the code to ask."""
    from pathlib import Path  # noqa: PLC0415

    text = (Path(__file__).resolve().parents[2] / "docs" / "estimator.md").read_text()
    for level, field in Request.model_fields.items():
        model = getattr(field.annotation, "model_fields", None)
        for name in model or ():
            assert f"| `{level}.{name}` |" in text
