"""What the batch interface accepts, and how it says no."""

import io
import json
from typing import Any

import pytest
from pydantic import ValidationError

from tests.support.architectures import make_request
from workers.estimator.__main__ import serve
from workers.estimator.request import Request, describe_error

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"training": {"optimizer": "magic"}}, "training.optimizer"),
        ({"training": {"max_seq_lenght": 5}}, "training.max_seq_lenght"),
        ({"quantization": {"type": "int3"}}, "quantization.type"),
        ({"lora": {"r": 0}}, "lora.r"),
        ({"devices": {"count": 0}}, "devices.count"),
        ({"devices": {"count": 1, "sharding": "fsdp"}}, "devices.sharding"),
        ({"lora": None, "quantization": {"type": "nf4"}}, "lora"),
        ({"model": "folder"}, "model_config"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Request.model_validate(make_request("llama") | change)
    assert named in describe_error(caught.value)


@pytest.mark.parametrize("name", ["adamw", "adamw_torch", "adamw_bnb_8bit", "paged_adamw_32bit", "adafactor", "sgd"])
def test_optimizers_go_by_our_names_and_by_those_of_transformers(name: str) -> None:
    request = Request.model_validate(make_request("llama", training={"optimizer": name}))
    assert request.training.optimizer_kind


def _run(*lines: str) -> list[dict[str, Any]]:
    answers = io.StringIO()
    serve(io.StringIO("\n".join(lines) + "\n"), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_a_bad_line_does_not_stop_the_run() -> None:
    training = {"max_seq_length": 32}
    unknown = make_request("llama", lora={"target_modules": ["no_proj"]}, training=training)
    bad, wrong, missing, good = _run(
        "{",
        json.dumps({"id": 7, "model_config": {"model_type": "no such type"}}),
        json.dumps(unknown),
        json.dumps(make_request("llama", lora={"r": 4}, training=training)),
    )
    assert "JSON" in bad["error"]
    assert wrong["id"] == 7
    assert "model_config" in wrong["error"]
    assert "lora.target_modules" in missing["error"]
    assert "no_proj" in missing["error"]
    assert good["id"] == "llama"
    assert sum(good["breakdown"].values()) == good["peak_device_bytes"]
    assert good["peak_allocated_bytes"] <= good["peak_reserved_bytes"] < good["peak_device_bytes"]


def test_an_answer_is_remembered() -> None:
    line = json.dumps(make_request("mistral", training={"max_seq_length": 48}))
    first, second = _run(line, line)
    assert second["seconds"] < 0.005 < first["seconds"]
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
