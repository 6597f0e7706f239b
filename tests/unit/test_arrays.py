"""How one job and the values that vary become many, and how an error names the value at fault."""

from typing import Any

import pytest

from api.cli.arrays import read_vary
from api.cli.exits import CommandError
from api.schemas.arrays import ArrayCreate
from orchestrator.domain.arrays import MAX_JOBS, expand, find_differences
from orchestrator.domain.errors import CannotFitError, InvalidRequestError
from orchestrator.domain.spec import JobSpec

JOB: dict[str, Any] = {"model": "tiny", "training_file": "file-1", "lora": {"r": 4, "dropout": 0.1}}


def ask(vary: dict[str, list[Any]], **job: Any) -> ArrayCreate:
    return ArrayCreate.model_validate({"job": {**JOB, **job}, "vary": vary})


def test_every_combination_is_a_job_and_the_last_field_changes_fastest() -> None:
    found = ask({"lora.r": [8, 16, 32], "training.learning_rate": [1e-4, 2e-4]}).to_variants()
    assert [(v.spec.lora.r, v.spec.training.learning_rate) for v in found] == [
        (8, 1e-4),
        (8, 2e-4),
        (16, 1e-4),
        (16, 2e-4),
        (32, 1e-4),
        (32, 2e-4),
    ]
    assert {v.spec.lora.dropout for v in found} == {0.1}
    assert [v.variation.number for v in found] == [1, 2, 3, 4, 5, 6]


def test_what_varies_is_read_from_the_specs_themselves() -> None:
    specs = [v.spec for v in ask({"lora.r": [8, 16], "lora.target_modules": [["q_proj"], "auto"]}).to_variants()]
    assert find_differences(specs) == [
        {"lora.r": 8, "lora.target_modules": ["q_proj"]},
        {"lora.r": 8, "lora.target_modules": "auto"},
        {"lora.r": 16, "lora.target_modules": ["q_proj"]},
        {"lora.r": 16, "lora.target_modules": "auto"},
    ]
    metadata = [JobSpec(model="m", training_file="f", metadata=found) for found in (None, {"a": "1"})]
    assert find_differences(metadata) == [{"metadata.a": None}, {"metadata.a": "1"}]


@pytest.mark.parametrize(
    ("vary", "param", "words"),
    [
        ({"lora.r": [8, 0]}, "vary.lora.r[1]", "job 2 of 2 (lora.r = 0): lora.r should be greater than"),
        ({"lora.r": [8, "many"]}, "vary.lora.r[1]", "valid integer"),
        ({"lora.rank": [8]}, "vary.lora.rank[0]", "unknown field 'lora.rank'"),
        ({"lora.target_modules": [["q_proj"], [1]]}, "vary.lora.target_modules[1]", "valid string"),
        ({"lora": [{"r": 8}, {"r": 0}]}, "vary.lora[1]", "lora.r should be"),
        ({"lora.r": []}, "vary.lora.r", "no values"),
        ({"lora.r": [8, 16, 8]}, "vary.lora.r[2]", "8 twice"),
        ({"lora.r": [8], "lora": [{"r": 8}]}, "vary.lora.r", "part of lora"),
        ({"model.name": ["x"]}, "vary.model.name", "model has no fields"),
        ({"team": ["other"]}, "vary.team", "cannot vary"),
        ({"lora..r": [8]}, "vary.lora..r", "cannot vary"),
        ({"lora.r": list(range(1, 18)), "seed": list(range(16))}, "vary", "that is 272 jobs"),
    ],
)
def test_a_refusal_names_the_value_at_fault(vary: dict[str, list[Any]], param: str, words: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        ask(vary).to_variants()
    assert refused.value.param == param
    assert words.replace("cannot vary", "not a field that can vary") in refused.value.message


def test_a_combination_that_does_not_go_together_is_refused() -> None:
    rate = {"supervised": {"hyperparameters": {"learning_rate_multiplier": 2.0}}}
    with pytest.raises(InvalidRequestError, match="not both") as refused:
        ask({"training.learning_rate": [1e-4]}, method=rate).to_variants()
    assert refused.value.param == "vary"


def test_an_error_about_the_job_itself_keeps_its_kind_and_its_field() -> None:
    (variant,) = ask({"lora.r": [8]}).to_variants()
    found = variant.variation.locate(CannotFitError("too large", param="resources"))
    assert (type(found), found.code, found.param) == (CannotFitError, "cannot_fit", "job.resources")
    assert found.message == "job 1 of 1 (lora.r = 8): too large"


def test_the_most_jobs_that_an_array_may_have() -> None:
    assert len(expand(JOB, {"seed": list(range(MAX_JOBS))})) == MAX_JOBS
    with pytest.raises(InvalidRequestError):
        expand(JOB, {"seed": list(range(MAX_JOBS + 1))})


def test_values_on_the_command_line_are_read_as_in_a_job_file() -> None:
    assert read_vary(["lora.r=8,16", "training.learning_rate=1e-4,2e-4", "lora.target_modules=[q_proj],auto"]) == {
        "lora.r": [8, 16],
        "training.learning_rate": [1e-4, 2e-4],
        "lora.target_modules": [["q_proj"], "auto"],
    }


@pytest.mark.parametrize(
    "options", [["lora.r"], ["=8"], ["lora.r="], ["lora.r=[8"], ["suffix=2026-11-01"], ["a=1", "a=2"]]
)
def test_what_is_no_field_and_values_is_refused(options: list[str]) -> None:
    with pytest.raises(CommandError, match="--vary"):
        read_vary(options)
