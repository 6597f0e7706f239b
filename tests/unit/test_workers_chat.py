"""Exactly which characters are learned, on templates of the kinds that models have, against hand-made answers."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests.support.models import CHATML, build_tokenizer
from workers.builders.chat import load_tokenizer, render_conversation
from workers.builders.rows import IGNORED_LABEL, encode_line, truncate
from workers.failures import BadDataError, ModelError

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou "
    "are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + "
    "message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|im_start|>assistant\n' }}{% endif %}"
)
TAGGED = (
    "{% for message in messages %}{% if message.role == 'assistant' %}<|im_start|>assistant\n{% generation %}"
    "{{ message.content }}<|im_end|>{% endgeneration %}\n{% else %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMMING = (  # Llama 3's shape: a start token, headers, trimmed content
    "{{ bos_token }}{% for message in messages %}{{ '<h>' + message['role'] + '</h>\n\n' + (message['content'] | trim) "
    "+ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<h>assistant</h>\n\n' }}{% endif %}"
)
BRACKETS = (  # Mistral's shape: no generation prompt, the end token only after answers, turns must alternate
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
FORGETTING = (  # Qwen 3's shape: the last answer shows an empty thought, earlier ones lose it
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% if message.role == 'assistant' and loop.last %}"
    "<think>\n\n</think>\n\n{% endif %}{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = (  # DeepSeek R1's shape: the generation prompt opens a thought that stored answers do not have
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}"
    "{% if message.role == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant><think>\n{% endif %}"
)
UNMARKED = (  # no token ends a turn
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TOOLS = (  # Hermes's shape: calls as JSON in tags, tools in front
    "{% if tools %}{{ '<tools>' + (tools | tojson) + '</tools>\n' }}{% endif %}{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}{% for call in message.tool_calls or [] %}"
    "<call>{{ call.function | tojson }}</call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHAT = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello you"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you"},
]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PreTrainedTokenizerBase]:
    """One tokenizer, without a template; tests set the one that they are about."""
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(folder, chat_template=None)
    return {"plain": AutoTokenizer.from_pretrained(folder)}


def with_template(tokenizers: dict[str, PreTrainedTokenizerBase], template: str) -> PreTrainedTokenizerBase:
    tokenizer = tokenizers["plain"]
    tokenizer.chat_template = template
    return tokenizer


def learned(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], **changes: Any) -> list[str]:
    arguments = {"tools": None, "weights": [1] * len(messages), "line": 1} | changes
    rendered = render_conversation(tokenizer, messages, **arguments)
    return [rendered.text[start:end] for start, end in rendered.learned]


TEMPLATES = {
    "ChatML": (CHATML, ["Hello you<|im_end|>", "See you<|im_end|>"]),
    "SmolLM2": (SMOLLM2, ["Hello you<|im_end|>", "See you<|im_end|>"]),
    "generation tags": (TAGGED, ["Hello you<|im_end|>", "See you<|im_end|>"]),
    "trimmed content": (TRIMMING, ["Hello you<|im_end|>", "See you<|im_end|>"]),
    "brackets": (BRACKETS, [" Hello you<|im_end|>", " See you<|im_end|>"]),
    "forgotten thoughts": (FORGETTING, ["Hello you<|im_end|>", "<think>\n\n</think>\n\nSee you<|im_end|>"]),
    "opened thoughts": (THINKING, ["Hello you<|im_end|>", "See you<|im_end|>"]),
    "no end token": (UNMARKED, ["Hello you\n", "See you\n"]),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_answer_is_learned_with_its_end_and_nothing_else(
    tokenizers: dict[str, PreTrainedTokenizerBase], name: str
) -> None:
    template, expected = TEMPLATES[name]
    assert learned(with_template(tokenizers, template), CHAT) == expected


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_answer_of_weight_zero_is_not_learned(tokenizers: dict[str, PreTrainedTokenizerBase], name: str) -> None:
    template, expected = TEMPLATES[name]
    tokenizer = with_template(tokenizers, template)
    assert learned(tokenizer, CHAT, weights=[1, 0, 1, 1]) == expected[1:]
    assert learned(tokenizer, CHAT, weights=[1, 1, 1, 0]) == expected[:1]


def test_labels_of_a_tagged_template_equal_the_mask_of_transformers(
    tokenizers: dict[str, PreTrainedTokenizerBase],
) -> None:
    tokenizer = with_template(tokenizers, TAGGED)
    theirs = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    ours = encode_line(tokenizer, 1, json.dumps({"messages": CHAT}).encode())
    assert ours.input_ids == theirs["input_ids"]
    assert [int(label != IGNORED_LABEL) for label in ours.labels] == theirs["assistant_masks"]


def test_token_ids_are_those_that_inference_would_see(tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    for template, _ in TEMPLATES.values():
        tokenizer = with_template(tokenizers, template)
        row = encode_line(tokenizer, 1, json.dumps({"messages": CHAT}).encode())
        assert row.input_ids == tokenizer.apply_chat_template(CHAT, return_dict=True)["input_ids"]
        assert all(label in {IGNORED_LABEL, token} for label, token in zip(row.labels, row.input_ids, strict=True))


def test_a_conversation_may_begin_with_an_answer(tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    for template in (CHATML, SMOLLM2, TAGGED, TRIMMING):
        assert learned(with_template(tokenizers, template), CHAT[1:]) == ["Hello you<|im_end|>", "See you<|im_end|>"]


def test_labels_by_hand(tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    tokenizer = with_template(tokenizers, CHATML)
    row = encode_line(tokenizer, 1, json.dumps({"messages": CHAT}).encode())
    head = tokenizer.encode("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    answer = tokenizer.encode("Hello you<|im_end|>")
    middle = tokenizer.encode("\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n")
    second = tokenizer.encode("See you<|im_end|>")
    end = tokenizer.encode("\n")
    assert row.input_ids == head + answer + middle + second + end
    ignored = [IGNORED_LABEL]
    assert row.labels == ignored * len(head) + answer + ignored * len(middle) + second + ignored * len(end)
    assert row.trained_tokens == len(answer) + len(second)


def test_tool_calls_are_learned_and_tool_answers_are_not(tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    tokenizer = with_template(tokenizers, TOOLS)
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    row = {
        "tools": [tool],
        "messages": [
            {"role": "user", "content": "Rain?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "dry"},
            {"role": "assistant", "content": "It is dry."},
        ],
    }
    encoded = encode_line(tokenizer, 1, json.dumps(row).encode())
    assert tokenizer.decode(encoded.input_ids).startswith("<tools>[{")
    shown = tokenizer.decode([label for label in encoded.labels if label != IGNORED_LABEL])
    arguments = '{"name": "weather", "arguments": {"city": "Paris"}}'
    assert shown == f"<call>{arguments}</call><|im_end|>It is dry.<|im_end|>"


def test_older_and_newer_names_are_understood(tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    tokenizer = with_template(tokenizers, TOOLS)
    row = {
        "functions": [{"name": "now"}],
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief"}]},
            {"role": "user", "content": "Time?"},
            {"role": "assistant", "content": "", "function_call": {"name": "now", "arguments": "{}"}},
            {"role": "function", "name": "now", "content": "noon"},
            {"role": "assistant", "content": "Noon."},
        ],
    }
    text = tokenizer.decode(encode_line(tokenizer, 1, json.dumps(row).encode()).input_ids)
    assert "<|im_start|>system\nBe brief<|im_end|>" in text
    assert "<|im_start|>tool\nnoon<|im_end|>" in text
    assert '<call>{"name": "now", "arguments": {}}</call>' in text


@pytest.mark.parametrize(
    ("template", "messages", "words"),
    [
        (BRACKETS, [CHAT[0], CHAT[0], CHAT[1]], "roles must alternate"),
        ("{{ messages[0].content + 1 }}", CHAT, "TypeError"),
        ("{{ messages[-1].content }}<|im_end|>", CHAT, "another way"),
        (UNMARKED.replace("assistant: {% endif", "{% endif"), CHAT[1:], "begins with an answer"),
        (CHATML + "{# {% generation %} #}", CHAT, "marks 0 turns, but 2"),
    ],
)
def test_a_template_that_hides_the_turns_is_an_error_of_the_row(
    tokenizers: dict[str, PreTrainedTokenizerBase], template: str, messages: list[dict[str, Any]], words: str
) -> None:
    with pytest.raises(BadDataError, match=words) as caught:
        learned(with_template(tokenizers, template), messages, line=17)
    assert (caught.value.code, caught.value.line) == ("template_error", 17)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'{"messages": ', "not_json"),
        (b'{"messages": "\xff"}', "not_utf8"),
        (b'{"messages": []}', "messages_empty"),
        (b'{"prompt": "a", "completion": "b"}', "unknown_format"),
    ],
)
def test_a_bad_line_names_itself(tokenizers: dict[str, PreTrainedTokenizerBase], line: bytes, code: str) -> None:
    with pytest.raises(BadDataError) as caught:
        encode_line(with_template(tokenizers, CHATML), 3, line)
    assert (caught.value.code, caught.value.line) == (code, 3)


def test_truncation_keeps_the_beginning_and_refuses_rows_that_lose_their_answer(
    tokenizers: dict[str, PreTrainedTokenizerBase],
) -> None:
    row = encode_line(with_template(tokenizers, CHATML), 5, json.dumps({"messages": CHAT}).encode())
    first = next(number for number, label in enumerate(row.labels) if label != IGNORED_LABEL)
    assert truncate(row, len(row.input_ids)) is row
    cut = truncate(row, first + 1)
    assert (cut.input_ids, cut.labels) == (row.input_ids[: first + 1], row.labels[: first + 1])
    assert cut.trained_tokens == 1
    with pytest.raises(BadDataError) as caught:
        truncate(row, first)
    assert (caught.value.code, caught.value.line) == ("no_trained_tokens", 5)


def test_a_model_without_a_template_is_refused(tmp_path: Path) -> None:
    build_tokenizer(tmp_path, chat_template=None)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="no chat template"):
        load_tokenizer(tmp_path)
