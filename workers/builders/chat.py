"""Which characters of a rendered conversation does the model learn? Those that an assistant's turn would generate.

The model's own chat template decides how a conversation looks; nothing is rendered in another way than inference
renders it. A template with {% generation %} tags says itself where the turns are. For the others a turn begins where
the generation prompt ends, and goes through the token that ends the turn: the model must learn to stop.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from workers.failures import BadDataError, ModelError

Message = Mapping[str, Any]
Tools = list[Any] | None
Span = tuple[int, int]

_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")
_RENDER_ERRORS = (TemplateError, TypeError, ValueError, KeyError, AttributeError)
"""What a template, which is code in a sandbox, is seen to raise on a conversation that it does not expect."""


@dataclass(frozen=True)
class Rendered:
    """`learned` are the spans of `text`, in order, that carry loss: character positions, end excluded."""

    text: str
    learned: tuple[Span, ...]


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The model's tokenizer, which must have a chat template. Raises ModelError."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError("the base model's tokenizer cannot be loaded") from error
    if not tokenizer.is_fast:
        raise ModelError("the base model has no tokenizer.json, without which tokens cannot be placed in the text")
    get_template(tokenizer)
    return tokenizer


def render_conversation(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    tools: Tools,
    weights: Sequence[int],
    line: int,
) -> Rendered:
    """Render `messages` and find the assistant's turns; `weights` has a number for each message, 0 leaves it out.

    Raises BadDataError naming `line` when the template cannot render the row, or does so in a way that hides where
    its turns are.
    """
    template = get_template(tokenizer, tools)
    chats = [dict(message) for message in messages]
    try:
        if _GENERATION_TAG.search(template):
            text, spans = _spans_by_tags(tokenizer, chats, tools, template)
        else:
            text, spans = _spans_by_prefix(tokenizer, chats, tools)
    except _RENDER_ERRORS as error:
        raise BadDataError(
            line, "template_error", f"the chat template cannot render this row: {_words(error)}"
        ) from error
    learned = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    if len(learned) != len(spans):
        raise BadDataError(
            line,
            "template_error",
            f"the chat template marks {len(spans)} turns, but {len(learned)} are the assistant's",
        )
    kept = tuple(span for number, span in zip(learned, spans, strict=True) if weights[number])
    return Rendered(text, kept)


def get_template(tokenizer: PreTrainedTokenizerBase, tools: Tools = None) -> str:
    """The text of the model's chat template. Raises ModelError when it has none."""
    try:
        return tokenizer.get_chat_template(tools=tools)
    except ValueError as error:
        raise ModelError("the base model has no chat template; use its instruct version, or add a template") from error


def _spans_by_tags(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], tools: Tools, template: str
) -> tuple[str, list[Span]]:
    texts, spans = render_jinja_template(
        conversations=[messages],
        tools=tools,
        chat_template=template,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    return texts[0], [(int(start), int(end)) for start, end in spans[0]]


def _spans_by_prefix(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], tools: Tools
) -> tuple[str, list[Span]]:
    """Render every beginning of the conversation and see where the whole one goes on from there."""

    def render(count: int | None, *, generation: bool = False) -> str:
        return str(
            tokenizer.apply_chat_template(
                messages[:count], tools=tools, tokenize=False, add_generation_prompt=generation
            )
        )

    whole = render(None)
    marks = _special_texts(tokenizer)
    spans = []
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            start = _turn_start(render, whole, number)
            spans.append((start, _turn_end(render, whole, number, start, marks)))
    return whole, spans


def _turn_start(render: Callable[..., str], whole: str, number: int) -> int:
    """Behind the generation prompt. Where that holds more than the turn itself shows, such as an opened thought,
    behind what both have in common."""
    if number == 0:
        return _first_turn_start(render, whole)
    prompt = render(number, generation=True)
    if whole.startswith(prompt):
        return len(prompt)
    before = render(number)
    if not whole.startswith(before):
        raise ValueError(f"it renders what comes before messages[{number}] in another way when an answer follows")
    return max(len(before), _common_length(prompt, whole))


def _first_turn_start(render: Callable[..., str], whole: str) -> int:
    """An empty conversation cannot be rendered, so look for what the generation prompt adds to this one."""
    header = render(None, generation=True).removeprefix(whole)
    found = whole.find(header) if header else -1
    if found < 0:
        raise ValueError("the row begins with an answer, and the template does not show where it starts")
    return found + len(header)


def _turn_end(render: Callable[..., str], whole: str, number: int, start: int, marks: tuple[str, ...]) -> int:
    """Behind the special token that ends the turn; behind the turn's text where a template has no such token.

    Templates that rewrite earlier turns, leaving out old thoughts for example, still end them with the same token.
    """
    until = render(number + 1)
    body = until.rstrip()
    mark = next((mark for mark in marks if body.endswith(mark)), "")
    if whole.startswith(until) and len(until) >= start:
        return len(body) if mark else len(until)
    found = whole.find(mark, start) if mark else -1
    if found < 0:
        raise ValueError(f"it renders messages[{number}] in another way when more messages follow")
    return found + len(mark)


def _common_length(one: str, other: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((number for number, (a, b) in pairs if a != b), min(len(one), len(other)))


def _special_texts(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Special tokens as text, the longest first."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return tuple(sorted(added | set(tokenizer.all_special_tokens), key=lambda text: (-len(text), text)))


def _words(error: Exception) -> str:
    """A template's own words are shown (they are the model's, not the row's); of other errors only the type."""
    shown = isinstance(error, TemplateError) or type(error) is ValueError
    return str(error)[:200] if shown else type(error).__name__
