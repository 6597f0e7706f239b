"""Rows of other formats as messages, and where a job's data come from when another tool's file is imported."""

import json
from pathlib import Path
from typing import Any

import pytest

from api.cli.exits import CommandError, ExitCode
from api.cli.foreign.conversion import Kind, RowError, Shape, convert_row, detect_shape
from api.cli.foreign.data import PLACEHOLDER
from orchestrator.domain.datasets import DatasetValidator
from tests.support.imported import example, imported, values, write, write_rows

ALPACA = {"instruction": "Say it", "input": "x", "output": "it"}
SHAREGPT = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
MESSAGES = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def converted(row: dict[str, Any]) -> list[tuple[str, str]]:
    shape = detect_shape(row)
    assert shape is not None
    return [(message["role"], message["content"]) for message in convert_row(row, shape)["messages"]]


def test_rows_say_the_same_as_messages() -> None:
    assert converted(ALPACA) == [("user", "Say it\nx"), ("assistant", "it")]
    assert converted(SHAREGPT) == [("user", "q"), ("assistant", "a")]
    assert converted({"conversation": TURNS, "system": "be brief"})[0] == ("system", "be brief")
    assert converted({"prompt": "q", "completion": "a"}) == [("user", "q"), ("assistant", "a")]
    assert converted({"prompt": TURNS[:1], "completion": TURNS[1:]}) == [("user", "q"), ("assistant", "a")]
    long = {**ALPACA, "system": "s", "history": [["q1", "a1"]], "input": ""}
    roles = ["system", "user", "assistant", "user", "assistant"]
    assert [role for role, _ in converted(long)] == roles
    assert detect_shape(MESSAGES) == Shape(Kind.MESSAGES, "messages", "role", "content")
    assert detect_shape({"text": "raw"}) is None


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"conversations": [{"from": "human", "value": "q"}]}, "does not end with the model's answer"),
        ({"conversations": [{"from": "observation", "value": "q"}]}, "is a tool's"),
        ({"conversations": [{"from": "narrator", "value": "q"}]}, "'narrator' is not known"),
        ({"conversations": [{"from": "human", "value": 3}]}, "'value' is not text"),
        ({**ALPACA, "output": None}, "'output' is not text"),
        ({**ALPACA, "history": ["x"]}, "pairs of texts"),
    ],
)
def test_a_row_that_messages_cannot_say_is_refused(row: dict[str, Any], words: str) -> None:
    shape = detect_shape(row)
    assert shape is not None
    with pytest.raises(RowError, match=words):
        convert_row(row, shape)


def test_a_file_of_messages_is_named_as_it_is(tmp_path: Path) -> None:
    write_rows(tmp_path / "support.jsonl", MESSAGES)
    out = imported(example("axolotl_qlora.yml", tmp_path))
    assert values(out)["training_file"] == "support.jsonl"
    assert "datasets" not in told_of(out)


def told_of(out: Any) -> set[str]:
    return {note.name for note in out.notes}


def test_other_rows_are_converted_when_that_is_asked_for_and_some_are_kept_apart(tmp_path: Path) -> None:
    write_rows(tmp_path / "support.jsonl", *[SHAREGPT] * 30)
    path = example("axolotl_qlora.yml", tmp_path)
    assert values(imported(path))["training_file"] == PLACEHOLDER
    assert not (tmp_path / "job.train.jsonl").exists()
    out = imported(path, convert=True)
    assert values(out)["training_file"] == "job.train.jsonl"
    assert values(out)["validation_file"] == "job.heldout.jsonl"
    counts = {}
    for name in ("job.train.jsonl", "job.heldout.jsonl"):
        validator = DatasetValidator()
        validator.feed((tmp_path / name).read_bytes())
        report = validator.finish()
        assert report.is_valid
        counts[name] = report.rows
    assert counts == {"job.train.jsonl": 27, "job.heldout.jsonl": 3}
    with pytest.raises(CommandError, match="is there already") as caught:
        imported(path, convert=True)
    assert caught.value.code is ExitCode.CONFLICT
    assert values(imported(path, convert=True, force=True))["training_file"] == "job.train.jsonl"


def test_two_files_that_llamafactory_describes_become_one(tmp_path: Path) -> None:
    info = {
        "faq": {"file_name": "faq.json", "columns": {"prompt": "ask", "response": "tell"}},
        "chats": {
            "file_name": "chats.jsonl",
            "formatting": "sharegpt",
            "columns": {"messages": "turns"},
            "tags": {"role_tag": "who", "content_tag": "what", "user_tag": "client", "assistant_tag": "us"},
        },
    }
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(info))
    (tmp_path / "data" / "faq.json").write_text(json.dumps([{"ask": f"q{n}", "tell": "a"} for n in range(8)]))
    turns = [{"who": "client", "what": "hi"}, {"who": "us", "what": "hello"}]
    write_rows(tmp_path / "data" / "chats.jsonl", *[{"turns": turns}] * 4)
    out = imported(example("llamafactory_lora.yaml", tmp_path), convert=True)
    assert values(out)["training_file"] == "job.train.jsonl"
    rows = [
        json.loads(line)
        for name in ("job.train.jsonl", "job.heldout.jsonl")
        for line in (tmp_path / name).read_text().splitlines()
    ]
    assert sorted(row["messages"][0]["content"] for row in rows) == sorted([*(f"q{n}" for n in range(8)), *["hi"] * 4])
    assert len((tmp_path / "job.heldout.jsonl").read_text().splitlines()) == 5


def test_a_row_that_cannot_be_converted_is_told_with_its_line(tmp_path: Path) -> None:
    write_rows(tmp_path / "support.jsonl", SHAREGPT, {"conversations": [{"from": "tool", "value": "x"}]})
    with pytest.raises(CommandError, match=r"support\.jsonl:2: this row cannot be written as messages"):
        imported(example("axolotl_qlora.yml", tmp_path), convert=True)
    assert not (tmp_path / "job.train.jsonl").exists()


def test_rows_in_no_known_format_are_told(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", {"text": "raw"})
    path = write(tmp_path, "base_model: a\nadapter: lora\ndatasets: [{path: rows.jsonl}]\n")
    with pytest.raises(CommandError, match=r"rows\.jsonl:1: rows with text are in no format"):
        imported(path)
    (tmp_path / "rows.jsonl").write_text("{}\n{broken\n")
    with pytest.raises(CommandError, match=r"rows\.jsonl:1: rows with "):
        imported(path)
    (tmp_path / "rows.jsonl").write_text("{broken\n")
    with pytest.raises(CommandError, match=r"rows\.jsonl:1: not valid JSON"):
        imported(path)


def test_a_converted_file_keeps_every_character(tmp_path: Path) -> None:
    said = "é 漢字 \x1b[31m \u2028 \U0001f600"
    write_rows(tmp_path / "r.jsonl", {"instruction": said, "output": said})
    out = imported(write(tmp_path, "base_model: a\nadapter: lora\ndatasets: [{path: r.jsonl}]\n"), convert=True)
    assert "datasets" in told_of(out)
    row = json.loads((tmp_path / "job.train.jsonl").read_text(encoding="utf-8"))
    assert row["messages"][0]["content"] == said
