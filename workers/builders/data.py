"""From encoded rows to what the trainer eats: a data set of token ids and labels, and batches of tensors.

Nothing is shuffled here: order comes from the trainer's seeded sampler alone, so a resumed run meets the same batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from workers.builders.packing import choose_bins
from workers.builders.rows import IGNORED_LABEL, EncodedRow, encode_line, read_lines, truncate
from workers.failures import BadDataError


def load_rows(path: Path, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int) -> list[EncodedRow]:
    """Every row of a JSONL file, encoded and cut to `max_tokens`. Raises BadDataError naming the line."""
    rows = [truncate(encode_line(tokenizer, line, content), max_tokens) for line, content in read_lines(path)]
    if not rows:
        raise BadDataError(0, "empty_file", "the file has no rows")
    return rows


def build_dataset(rows: Sequence[EncodedRow]) -> Dataset:
    """One example per row, in the file's order."""
    return Dataset.from_dict({"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]})


def build_packed_dataset(rows: Sequence[EncodedRow], *, max_tokens: int) -> Dataset:
    """Several rows per example, at most `max_tokens` together; `seq_lengths` says where each row ends.

    The first token of a row gets no loss: it would be predicted from another row's last one.
    """
    columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "seq_lengths": []}
    for bin_ in choose_bins([len(row.input_ids) for row in rows], max_tokens):
        members = [rows[number] for number in bin_]
        columns["input_ids"].append([token for row in members for token in row.input_ids])
        columns["labels"].append([label for row in members for label in (IGNORED_LABEL, *row.labels[1:])])
        columns["seq_lengths"].append([len(row.input_ids) for row in members])
    return Dataset.from_dict(columns)


@dataclass(frozen=True)
class Collator:
    """Pads a micro-batch to its longest example, [B, T], rounded up to `multiple` tokens.

    Packed examples get position ids that start anew at each row, and no attention mask: transformers then builds a
    mask in which no row sees another. Padding there is a row of its own.
    """

    pad_token_id: int
    multiple: int = 1

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(example["input_ids"]) for example in examples)
        length = -(-longest // self.multiple) * self.multiple
        batch = {
            "input_ids": self._pad([example["input_ids"] for example in examples], length, self.pad_token_id),
            "labels": self._pad([example["labels"] for example in examples], length, IGNORED_LABEL),
        }
        if "seq_lengths" in examples[0]:
            positions = [[p for n in example["seq_lengths"] for p in range(n)] for example in examples]
            padding = [list(range(length - len(row))) for row in positions]
            batch["position_ids"] = torch.tensor([row + pad for row, pad in zip(positions, padding, strict=True)])
        else:
            batch["attention_mask"] = self._pad([[1] * len(example["input_ids"]) for example in examples], length, 0)
        return batch

    @staticmethod
    def _pad(rows: list[list[int]], length: int, value: int) -> torch.Tensor:
        return torch.tensor([row + [value] * (length - len(row)) for row in rows])
