"""From lines of a data set to token ids and labels, loss on the assistant's tokens only. No torch, no datasets.

Validation counts with the same function that training learns from, so what was promised is what is trained.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from orchestrator.domain.datasets_rows import check_row
from orchestrator.domain.strict_json import StrictJsonError, parse_json
from workers.builders.chat import Rendered, Span, render_conversation
from workers.failures import BadDataError

IGNORED_LABEL = -100
"""torch's cross entropy leaves out positions with this label."""


@dataclass(frozen=True)
class EncodedRow:
    """[T] token ids, and [T] labels that repeat the id where there is loss. `line` counts from 1."""

    line: int
    input_ids: list[int]
    labels: list[int]

    @property
    def trained_tokens(self) -> int:
        """Tokens with loss. The first token of a row is never predicted, so it never counts."""
        return sum(label != IGNORED_LABEL for label in self.labels[1:])


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Line numbers and lines that hold something."""
    with path.open("rb") as file:
        yield from number_lines(file)


def number_lines(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """As `read_lines`, of lines that are read already."""
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def encode_line(tokenizer: PreTrainedTokenizerBase, line: int, content: bytes) -> EncodedRow:
    """Parse, check, render and tokenize one line, at its full length. Raises BadDataError."""
    return _encode(tokenizer, _render(tokenizer, line, content), line)[0]


def split_line(
    tokenizer: PreTrainedTokenizerBase, line: int, content: bytes
) -> tuple[EncodedRow, list[tuple[str, bool]]]:
    """As `encode_line`, and the line's text as the model sees it, in pieces of neighbouring tokens, with whether they
    are learned."""
    rendered = _render(tokenizer, line, content)
    encoded, offsets = _encode(tokenizer, rendered, line)
    pieces: list[tuple[str, bool]] = []
    at = 0
    for (_, end), label in zip(offsets, encoded.labels, strict=True):
        text, is_learned = rendered.text[at:end], label != IGNORED_LABEL
        if pieces and pieces[-1][1] == is_learned:
            pieces[-1] = (pieces[-1][0] + text, is_learned)
        elif text:
            pieces.append((text, is_learned))
        at = max(at, end)
    return encoded, pieces


def _render(tokenizer: PreTrainedTokenizerBase, line: int, content: bytes) -> Rendered:
    try:
        row = parse_json(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadDataError(line, "not_utf8", "the line is not UTF-8") from error
    except StrictJsonError as error:
        raise BadDataError(line, error.code, error.message) from error
    for finding in check_row(row):
        raise BadDataError(line, finding.code, f"{finding.path}: {finding.message}".removeprefix(": "))
    messages = [_plain_message(message) for message in row["messages"]]
    weights = [message.get("weight", 1) for message in row["messages"]]
    return render_conversation(tokenizer, messages, tools=_plain_tools(row), weights=weights, line=line)


def truncate(row: EncodedRow, max_tokens: int) -> EncodedRow:
    """The first `max_tokens` tokens. Raises BadDataError when nothing that is learned is left."""
    if len(row.input_ids) <= max_tokens:
        return row
    cut = EncodedRow(row.line, row.input_ids[:max_tokens], row.labels[:max_tokens])
    if not cut.trained_tokens:
        raise BadDataError(row.line, "no_trained_tokens", f"nothing to learn is left of the first {max_tokens} tokens")
    return cut


def _encode(tokenizer: PreTrainedTokenizerBase, rendered: Rendered, line: int) -> tuple[EncodedRow, list[Span]]:
    """The row, and of each token where it stands in the text."""
    encoding = tokenizer(rendered.text, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = encoding["input_ids"]
    offsets: list[Span] = encoding["offset_mapping"]
    labels = _label(ids, offsets, rendered.learned)
    encoded = EncodedRow(line, ids, labels)
    if not encoded.trained_tokens:
        raise BadDataError(line, "no_trained_tokens", "no token of this row is learned")
    return encoded, offsets


def _label(ids: list[int], offsets: list[tuple[int, int]], spans: tuple[tuple[int, int], ...]) -> list[int]:
    """A token is learned when it holds a character of a span. Both lists are in order, so one pass suffices."""
    labels = [IGNORED_LABEL] * len(ids)
    remaining = iter(spans)
    span = next(remaining, None)
    for number, (start, end) in enumerate(offsets):
        while span is not None and span[1] <= start:
            span = next(remaining, None)
        if span is None:
            break
        if end > span[0] and end > start:
            labels[number] = ids[number]
    return labels


def _plain_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's message as chat templates know it.

    Templates know 'system' and 'tool', not their newer and older names; content as text; calls with their arguments as
    an object, because templates write them as JSON themselves.
    """
    role = {"developer": "system", "function": "tool"}.get(message["role"], message["role"])
    plain: dict[str, Any] = {"role": role, "content": _plain_content(message.get("content"))}
    for key in ("name", "tool_call_id"):
        if message.get(key) is not None:
            plain[key] = message[key]
    calls = list(message.get("tool_calls") or ())
    if message.get("function_call"):
        calls.append({"type": "function", "function": message["function_call"]})
    if calls:
        plain["tool_calls"] = [_plain_call(call) for call in calls]
    return plain


def _plain_content(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    return content or ""


def _plain_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):
            arguments = json.loads(arguments)
    return {**call, "function": {**function, "arguments": arguments}}


def _plain_tools(row: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    tools = list(row.get("tools") or ())
    tools += [{"type": "function", "function": function} for function in row.get("functions") or ()]
    return tools or None
