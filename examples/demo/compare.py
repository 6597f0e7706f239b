"""Load an adapter with stock transformers and PEFT, and compare the model with and without it.

    python examples/demo/compare.py BASE_MODEL_DIR ADAPTER_DIR HELDOUT.jsonl

Nothing of Tunepool is used here. Prints one JSON object: the mean loss per token of the assistant's words over the
held-out rows, before and after, and a sample answer each.
"""

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

ROWS_AT_ONCE = 4
ANSWER_TOKENS = 64
IGNORED = -100
"""The label that PyTorch's cross-entropy leaves out."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare a base model with and without an adapter.")
    for name in ("base_model", "adapter", "heldout"):
        parser.add_argument(name, type=Path)
    asked = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    rows = [json.loads(line)["messages"] for line in asked.heldout.read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(asked.base_model)
    base = AutoModelForCausalLM.from_pretrained(asked.base_model, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(asked.adapter)).eval()
    found: dict[str, Any] = {"question": rows[0][-2]["content"], "written": rows[0][-1]["content"]}
    with torch.no_grad():
        for name, switch in (("before", model.disable_adapter()), ("after", contextlib.nullcontext())):
            with switch:
                found[name] = {"loss": mean_loss(model, tokenizer, rows), "answer": answer(model, tokenizer, rows[0])}
    json.dump(found, sys.stdout)
    return 0


def mean_loss(model: Any, tokenizer: Any, rows: list[Any]) -> float:
    """Cross-entropy per token, over the tokens of the last message of each row."""
    total, count = 0.0, 0
    for start in range(0, len(rows), ROWS_AT_ONCE):
        batch = [split(tokenizer, row) for row in rows[start : start + ROWS_AT_ONCE]]
        width = max(len(prompt) + len(reply) for prompt, reply in batch)
        tokens = torch.zeros((len(batch), width), dtype=torch.long)
        labels = torch.full((len(batch), width), IGNORED)
        mask = torch.zeros((len(batch), width), dtype=torch.long)
        for index, (prompt, reply) in enumerate(batch):
            end = len(prompt) + len(reply)
            tokens[index, :end] = torch.tensor(prompt + reply)
            labels[index, len(prompt) : end] = torch.tensor(reply)
            mask[index, :end] = 1
        loss = model(input_ids=tokens, attention_mask=mask, labels=labels).loss
        trained = int((labels[:, 1:] != IGNORED).sum())
        total, count = total + float(loss) * trained, count + trained
    return total / count


def split(tokenizer: Any, messages: list[dict[str, str]]) -> tuple[list[int], list[int]]:
    """The tokens before the assistant's last message, and those of that message."""
    prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template(messages, return_dict=False)
    assert whole[: len(prompt)] == prompt, "the chat template must continue its own prompt"
    return prompt, whole[len(prompt) :]


def answer(model: Any, tokenizer: Any, messages: list[dict[str, str]]) -> str:
    """What the model says to the question, greedily."""
    prompt, _ = split(tokenizer, messages)
    tokens = torch.tensor([prompt])
    said = model.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=ANSWER_TOKENS,
        do_sample=False,
        pad_token_id=tokenizer.eos_token_id,
    )
    return str(tokenizer.decode(said[0, len(prompt) :], skip_special_tokens=True)).strip()


if __name__ == "__main__":
    sys.exit(main())
