"""Files are counted as training would, problems name their line, and no torch is needed for it."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from orchestrator.domain.batches import count_lengths
from orchestrator.domain.protocol import ModelSource, TokenCounts, ValidationResult, ValidationSpec
from tests.support.models import build_tiny_model
from tests.support.training import describe, make_rows, write_rows
from workers import validation
from workers.builders.data import build_packed_dataset, load_rows
from workers.context import LocalContext


def validate(folder: Path, model: Path, rows: list[dict[str, Any]], **changes: Any) -> ValidationResult:
    training = write_rows(folder / "train.jsonl", rows)
    values: dict[str, Any] = {
        "job_id": "ftjob-1",
        "model": ModelSource(name="tiny", kind="path", revision="r", path=str(model)),
        "training_file": describe(training),
        "validation_file": None,
        "max_seq_tokens": None,
        "context_tokens": 256,
        "cache_dir": str(folder / "cache"),
    }
    return validation.run(ValidationSpec(**values | changes), LocalContext(folder / "context").fetch)


def test_counts_are_those_of_training(tmp_path: Path, tiny_model: Path) -> None:
    held_out = write_rows(tmp_path / "held-out.jsonl", make_rows(2))
    result = validate(tmp_path, tiny_model, make_rows(5), validation_file=describe(held_out))
    assert result.problems == ()
    rows = load_rows(tmp_path / "train.jsonl", AutoTokenizer.from_pretrained(tiny_model), max_tokens=256)
    lengths = [len(row.input_ids) for row in rows]
    assert result.training == TokenCounts(
        rows=5,
        total_tokens=sum(lengths),
        trained_tokens=sum(row.trained_tokens for row in rows),
        longest_row_tokens=max(lengths),
        longest_row_line=lengths.index(max(lengths)) + 1,
        lengths=count_lengths(lengths),
    )
    assert result.validation is not None
    assert result.validation.rows == 2


@pytest.mark.parametrize("asked", [None, 200])
def test_packed_examples_are_those_of_training(tmp_path: Path, tiny_model: Path, asked: int | None) -> None:
    held_out = write_rows(tmp_path / "held-out.jsonl", make_rows(2))
    result = validate(
        tmp_path, tiny_model, make_rows(12), validation_file=describe(held_out), packing=True, max_seq_tokens=asked
    )
    assert result.training is not None
    capacity = asked or -(-result.training.longest_row_tokens // 64) * 64
    rows = load_rows(tmp_path / "train.jsonl", AutoTokenizer.from_pretrained(tiny_model), max_tokens=256)
    packed = build_packed_dataset(rows, max_tokens=capacity)
    lengths = [len(example["input_ids"]) for example in packed]
    assert result.training.lengths == count_lengths(lengths)
    assert len(lengths) < result.training.rows == 12
    assert result.validation is not None
    assert sum(count for _, count in result.validation.lengths) == 2, "the validation file is never packed"


@pytest.mark.parametrize(("max_seq_tokens", "context_tokens", "limit"), [(None, 40, 40), (30, 256, 30), (300, 50, 50)])
def test_rows_over_the_limit_are_problems(
    tmp_path: Path, tiny_model: Path, max_seq_tokens: int | None, context_tokens: int, limit: int
) -> None:
    long = {"messages": [{"role": "user", "content": "word " * 40}, {"role": "assistant", "content": "yes"}]}
    short = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    result = validate(tmp_path, tiny_model, [short, long], max_seq_tokens=max_seq_tokens, context_tokens=context_tokens)
    assert [(p.param, p.line, p.code) for p in result.problems] == [("training_file", 2, "example_too_long")]
    assert f"{limit} are the limit" in result.problems[0].message
    assert result.training is not None
    assert result.training.longest_row_line == 2


def test_every_bad_row_is_listed_with_its_file_and_line(tmp_path: Path, tiny_model: Path) -> None:
    held_out = tmp_path / "held-out.jsonl"
    held_out.write_text('{"messages": []}\n')
    rows = make_rows(4)
    rows[1] = {"messages": [{"role": "user", "content": "no answer"}]}
    result = validate(tmp_path, tiny_model, rows, validation_file=describe(held_out))
    assert [(p.param, p.line, p.code) for p in result.problems] == [
        ("training_file", 2, "no_assistant"),
        ("validation_file", 1, "messages_empty"),
    ]
    assert result.training is not None
    assert result.training.rows == 3


def test_a_template_that_refuses_a_row_is_the_rows_problem(tmp_path: Path) -> None:
    template = "{% if messages | length > 2 %}{{ raise_exception('one question only') }}{% endif %}{{ messages }}"
    model = build_tiny_model(tmp_path / "model", chat_template=template)
    rows = make_rows(1)
    rows[0]["messages"] = rows[0]["messages"] * 2
    result = validate(tmp_path, model, rows)
    assert [(p.line, p.code) for p in result.problems] == [(1, "template_error")]
    assert "one question only" in result.problems[0].message


def test_an_empty_file_and_a_bad_model_are_problems_of_line_zero(tmp_path: Path, tiny_model: Path) -> None:
    assert [(p.line, p.code) for p in validate(tmp_path, tiny_model, []).problems] == [(0, "empty_file")]
    model = build_tiny_model(tmp_path / "model", chat_template=None)
    result = validate(tmp_path, model, make_rows(1))
    assert [(p.line, p.code) for p in result.problems] == [(0, "model_load_failed")]
    assert result.training is None


def test_problems_have_a_cap(tmp_path: Path, tiny_model: Path) -> None:
    result = validate(tmp_path, tiny_model, [{"messages": []}] * 200)
    assert len(result.problems) == validation.MAX_PROBLEMS


def test_nothing_of_a_row_is_shown(tmp_path: Path, tiny_model: Path) -> None:
    secret = "customer 4711"
    rows = [
        {"messages": [{"role": "user", "content": secret}]},
        {"messages": [{"role": secret, "content": secret}]},
        {"messages": [{"role": "user", "content": secret * 100}, {"role": "assistant", "content": secret}]},
    ]
    result = validate(tmp_path, tiny_model, rows, context_tokens=20)
    assert len(result.problems) == 3
    assert secret not in json.dumps(result.model_dump(mode="json"))
