"""What a job may ask for: defaults, limits, PEFT's words, and refusals that name the field."""

from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.domain.spec import AUTO, EstimateSpec, JobSpec, Strict

SMALLEST = {"model": "smol", "training_file": "file-1"}


def spec(**more: Any) -> JobSpec:
    return JobSpec.model_validate({**SMALLEST, **more})


def test_a_model_and_a_file_are_enough() -> None:
    asked = spec()
    assert asked.method.type == "supervised"
    assert asked.method.supervised.hyperparameters.n_epochs == AUTO
    assert (asked.lora.r, asked.lora.alpha, asked.quantization.type) == (16, AUTO, "none")
    assert (asked.seed, asked.metadata, asked.max_cost_usd_micros) == (None, None, None)


def test_it_survives_its_stored_form() -> None:
    asked = spec(
        max_cost_usd="12.345678",
        metadata={"ticket": "T-1", "empty": ""},
        lora={"target_modules": ["q_proj", "v_proj"], "lora_alpha": 8},
        training={"learning_rate": 1e-4, "max_grad_norm": 0.3},
    )
    assert JobSpec.model_validate(asked.model_dump(mode="json")) == asked
    assert JobSpec.model_validate_json(asked.model_dump_json()) == asked


def test_pefts_words_are_understood() -> None:
    asked = spec(lora={"lora_alpha": 64, "lora_dropout": 0.1, "init_lora_weights": "pissa"})
    assert (asked.lora.alpha, asked.lora.dropout, asked.lora.init) == (64, 0.1, "pissa")


@pytest.mark.parametrize("text", ["0.000001", "999999.999999", "3.5", 7, 0.1])
def test_money_is_exact(text: Any) -> None:
    asked = spec(max_cost_usd=text)
    assert asked.max_cost_usd_micros == int(Decimal(str(text)) * 1_000_000)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"n_epochs": 3}, ("n_epochs",)),
        ({"lora": {"rank": 8}}, ("lora", "rank")),
        ({"lora": {"r": 0}}, ("lora", "r")),
        ({"lora": {"dropout": 1.0}}, ("lora", "dropout")),
        ({"lora": {"target_modules": "q_proj"}}, ("lora", "target_modules")),
        ({"quantization": {"type": "int4"}}, ("quantization", "type")),
        ({"training": {"learning_rate": 0}}, ("training", "learning_rate")),
        ({"training": {"learning_rate": 1.5}}, ("training", "learning_rate")),
        ({"training": {"max_seq_length": 4}}, ("training", "max_seq_length")),
        ({"training": {"max_grad_norm": float("inf")}}, ("training", "max_grad_norm")),
        ({"resources": {"count": 0}}, ("resources", "count")),
        ({"resources": {"count": 17}}, ("resources", "count")),
        ({"seed": 2_147_483_648}, ("seed",)),
        ({"seed": -1}, ("seed",)),
        ({"suffix": "a b"}, ("suffix",)),
        ({"suffix": "x" * 65}, ("suffix",)),
        ({"suffix": "../../etc"}, ("suffix",)),
        ({"max_cost_usd": "0"}, ("max_cost_usd",)),
        ({"max_cost_usd": "0.0000001"}, ("max_cost_usd",)),
        ({"max_cost_usd": "NaN"}, ("max_cost_usd",)),
        ({"metadata": {str(n): "" for n in range(17)}}, ("metadata",)),
        ({"metadata": {"k" * 65: ""}}, ("metadata",)),
        ({"metadata": {"k": "v" * 513}}, ("metadata",)),
        ({"metadata": {"k": 1}}, ("metadata", "k")),
        ({"model": ""}, ("model",)),
        ({"training_file": None}, ("training_file",)),
        ({"priority": 101}, ("priority",)),
    ],
)
def test_what_cannot_be_is_refused_at_its_place(changes: dict[str, Any], place: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        spec(**changes)
    assert caught.value.errors()[0]["loc"][: len(place)] == place


@pytest.mark.parametrize("multiplier", [float("inf"), float("nan"), 0, -1])
def test_a_multiplier_is_a_positive_number(multiplier: float) -> None:
    with pytest.raises(ValidationError):
        spec(method={"supervised": {"hyperparameters": {"learning_rate_multiplier": multiplier}}})


def test_two_learning_rates_are_one_too_many() -> None:
    method = {"supervised": {"hyperparameters": {"learning_rate_multiplier": 2}}}
    with pytest.raises(ValidationError, match="not both"):
        spec(method=method, training={"learning_rate": 1e-4})


def test_limits_of_metadata_are_allowed_up_to_the_last() -> None:
    pairs = {f"{number:02d}" + "k" * 62: "v" * 512 for number in range(16)}
    assert spec(metadata=pairs).metadata == pairs


def test_an_estimate_needs_no_file() -> None:
    asked = EstimateSpec.model_validate({"model": "smol", "rows": 100, "tokens": 5000})
    assert (asked.training_file, asked.rows) == (None, 100)
    with pytest.raises(ValidationError):
        EstimateSpec.model_validate({"model": "smol", "rows": 0})


def test_every_part_refuses_unknown_fields_and_changes() -> None:
    parts = [Strict]
    for part in parts:
        parts += [child for child in part.__subclasses__() if child.__module__ == Strict.__module__]
    assert len(parts) == 11
    for part in parts:
        assert part.model_config["extra"] == "forbid"
        assert part.model_config["frozen"] is True
