"""A preview shows what training would learn, character for character, and counts as validation does."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from orchestrator.domain.previews import PreviewResult, PreviewSpec
from orchestrator.domain.protocol import ModelSource
from tests.support.training import make_rows
from workers import previews
from workers.builders.rows import IGNORED_LABEL, encode_line, split_line


def preview(model: Path, content: str, **changes: Any) -> PreviewResult:
    source = ModelSource(name="tiny", kind="path", revision="r", path=str(model))
    fields = {"model": source, "content": content, "most_rows": 2, "most_characters": 10_000, "cache_dir": "/nowhere"}
    return previews.run(PreviewSpec(**fields | changes), fetch=_refuse)


def _refuse(*_: object) -> None:
    raise AssertionError("a folder needs no download")


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_rows_are_shown_as_training_encodes_them(tiny_model: Path) -> None:
    rows = make_rows(5)
    found = preview(tiny_model, lines(rows))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    encoded = [encode_line(tokenizer, n, json.dumps(row).encode()) for n, row in enumerate(rows, 1)]
    assert found.total_tokens == sum(len(row.input_ids) for row in encoded)
    assert found.trained_tokens == sum(row.trained_tokens for row in encoded)
    assert sum(count for _, count in found.lengths) == 5
    assert [(row.line, row.tokens, row.trained_tokens) for row in found.shown] == [
        (n, len(row.input_ids), row.trained_tokens) for n, row in enumerate(encoded[:2], 1)
    ]
    for row, shown in zip(rows, found.shown, strict=False):
        whole = "".join(piece.text for piece in shown.pieces)
        assert whole == tokenizer.apply_chat_template(row["messages"], tokenize=False)
        learned = "".join(piece.text for piece in shown.pieces if piece.trained)
        answers = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
        assert all(answer in learned for answer in answers)
        assert "user" not in learned


def test_pieces_follow_the_labels_of_a_text_with_wide_characters(tiny_model: Path) -> None:
    row = {"messages": [{"role": "user", "content": "𝔘ñí 🙂 \u202e"}, {"role": "assistant", "content": "ja 🙂🙂"}]}
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    content = json.dumps(row).encode()
    encoded, pieces = split_line(tokenizer, 1, content)
    assert encoded == encode_line(tokenizer, 1, content)
    assert "".join(text for text, _ in pieces) == tokenizer.apply_chat_template(row["messages"], tokenize=False)
    learned = tokenizer.decode([label for label in encoded.labels if label != IGNORED_LABEL])
    assert "".join(text for text, is_learned in pieces if is_learned) == learned


def test_rows_that_cannot_be_learned_are_named_and_counted(tiny_model: Path) -> None:
    bad = '{"messages": [{"role": "user", "content": "only a question"}]}\n'
    found = preview(tiny_model, lines(make_rows(1)) + bad * 30)
    assert (found.troubled, len(found.troubles), found.troubles[0].line) == (30, previews.MOST_TROUBLES, 2)
    assert found.troubles[0].code == "no_assistant"
    assert len(found.shown) == 1


def test_a_long_row_is_cut_and_says_so(tiny_model: Path) -> None:
    found = preview(tiny_model, lines(make_rows(1)), most_characters=10)
    (shown,) = found.shown
    whole = preview(tiny_model, lines(make_rows(1))).shown[0]
    assert sum(len(piece.text) for piece in shown.pieces) == 10
    assert shown.cut_characters == sum(len(piece.text) for piece in whole.pieces) - 10


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_nothing_is_nothing(tiny_model: Path, content: str) -> None:
    found = preview(tiny_model, content)
    assert (found.shown, found.lengths, found.total_tokens) == ((), (), 0)


def test_a_model_that_is_gone_is_a_trouble_of_no_line(tmp_path: Path) -> None:
    found = preview(tmp_path, lines(make_rows(1)))
    assert [(trouble.line, trouble.code) for trouble in found.troubles] == [(0, "model_load_failed")]
