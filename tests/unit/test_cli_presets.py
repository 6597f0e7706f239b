"""Job files that are made: valid whatever is asked for, with a reason at each field."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from api.cli.jobfile import read_jobfile
from api.cli.jobtext import JobField, render_job
from api.cli.presets import Goal, Task, choose_fields, describe_task, guess_parameters


@pytest.mark.parametrize("goal", list(Goal))
@pytest.mark.parametrize(("model", "rows"), [("tiny", 3), ("org/Llama-3.1-8B-Instruct", 900), ("Qwen2.5-72B", 90_000)])
def test_every_preset_is_a_valid_job_with_a_reason_at_each_field(
    tmp_path: Path, goal: Goal, model: str, rows: int
) -> None:
    task = Task(model=model, training_file="train.jsonl", goal=goal, rows=rows)
    fields = choose_fields(task)
    assert all(field.comment for field in fields)
    path = tmp_path / "job.yaml"
    path.write_text(render_job(fields, head=describe_task(task, "job.yaml")))
    read = read_jobfile(path).fields
    assert (read["model"], read["training_file"]) == (model, "train.jsonl")
    for field in fields:
        inside: Any = read
        for part in field.place:
            inside = inside[part]
        assert inside == field.value


def chosen(**task: Any) -> dict[str, Any]:
    asked = Task(**{"model": "m", "training_file": "t.jsonl", "goal": Goal.TASK, "rows": 500, **task})
    return {".".join(field.place): field.value for field in choose_fields(asked)}


def test_large_models_are_quantized_and_the_largest_learn_slower() -> None:
    assert chosen(parameters=135_000_000)["quantization.type"] == "none"
    assert chosen(parameters=8_030_000_000)["quantization.type"] == "nf4"
    assert "training.learning_rate" not in chosen(parameters=8_030_000_000)
    assert chosen(parameters=70_000_000_000)["training.learning_rate"] == 1e-4


def test_what_it_is_for_and_how_much_there_is_decide_rank_and_passes() -> None:
    assert [chosen(goal=goal)["lora.r"] for goal in (Goal.STYLE, Goal.TASK, Goal.KNOWLEDGE)] == [8, 16, 64]
    assert chosen(rows=500)["hyperparameters.n_epochs"] == 3
    assert chosen(rows=50_000)["hyperparameters.n_epochs"] == 1
    assert chosen(goal=Goal.TRY)["training.max_steps"] == 20


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", 8_000_000_000),
        ("smollm2-135m-instruct", 135_000_000),
        ("Qwen/Qwen2.5-0.5B", 500_000_000),
        ("mistral_7b_v0.3", 7_000_000_000),
        ("llama-3.2", None),
        ("a1b2c3", None),
    ],
)
def test_names_say_how_large_a_model_is(name: str, parameters: int | None) -> None:
    assert guess_parameters(name) == parameters


TEXTS = st.text(st.characters(codec="utf-8"), max_size=120)


@given(model=TEXTS, comment=TEXTS, head=TEXTS, pairs=st.dictionaries(TEXTS, TEXTS, max_size=2))
def test_whatever_is_written_reads_back_and_comments_stay_comments(
    model: str, comment: str, head: str, pairs: dict[str, str]
) -> None:
    fields = [
        JobField(("model",), model, comment),
        JobField(("training_file",), "t", comment * 3),
        JobField(("max_cost_usd",), Decimal("0.50")),
        JobField(("lora", "target_modules"), ("q", "v"), comment),
        JobField(("training", "learning_rate"), 2e-5),
    ]
    text = render_job(fields, head=head, tail="\n".join(pairs.values()))
    assert yaml.safe_load(text) == {
        "model": model,
        "training_file": "t",
        "max_cost_usd": 0.5,
        "lora": {"target_modules": ["q", "v"]},
        "training": {"learning_rate": 2e-5},
    }


def test_long_comments_stand_above_and_commands_are_not_broken() -> None:
    command = "python -c " + "x " * 60 + "end"
    field = JobField(("model",), "m", "because " * 20)
    lines = render_job([field], tail=f"To do:\n    {command}").splitlines()
    assert lines[-1] == f"#     {command}"
    assert "model: m" in lines
    assert all(len(line) <= 100 for line in lines if not re.match("#     ", line))
