"""A file as a model sees it: the first rows rendered, with what is learned told apart, and the length of every row.

Rows are encoded by the functions that validation and training use. Needs no torch.
"""

import io
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from orchestrator.domain.batches import count_lengths
from orchestrator.domain.previews import Piece, PreviewResult, PreviewSpec, RowTrouble, ShownRow
from workers.builders.chat import load_tokenizer
from workers.builders.rows import encode_line, number_lines, split_line
from workers.failures import BadDataError, ModelError
from workers.models import Fetch, resolve_model

MOST_TROUBLES = 20


def run(spec: PreviewSpec, fetch: Fetch) -> PreviewResult:
    """A model that cannot be used is a trouble of line 0."""
    try:
        folder = resolve_model(spec.model, Path(spec.cache_dir), fetch=fetch, weights=False)
        tokenizer = load_tokenizer(folder)
    except ModelError as error:
        trouble = RowTrouble(line=0, code="model_load_failed", message=str(error))
        return PreviewResult(troubles=(trouble,), troubled=1)
    return preview_rows(tokenizer, spec)


def preview_rows(tokenizer: PreTrainedTokenizerBase, spec: PreviewSpec) -> PreviewResult:
    shown: list[ShownRow] = []
    lengths: list[int] = []
    troubles: list[RowTrouble] = []
    trained = 0
    for line, content in number_lines(io.BytesIO(spec.content.encode())):
        try:
            if len(shown) < spec.most_rows:
                row, pieces = split_line(tokenizer, line, content)
                shown.append(_show(line, pieces, len(row.input_ids), row.trained_tokens, most=spec.most_characters))
            else:
                row = encode_line(tokenizer, line, content)
        except BadDataError as error:
            troubles.append(RowTrouble(line=line, code=error.code, message=error.message))
            continue
        lengths.append(len(row.input_ids))
        trained += row.trained_tokens
    return PreviewResult(
        shown=tuple(shown),
        lengths=count_lengths(lengths),
        total_tokens=sum(lengths),
        trained_tokens=trained,
        longest_row_tokens=max(lengths, default=0),
        troubles=tuple(troubles[:MOST_TROUBLES]),
        troubled=len(troubles),
    )


def _show(line: int, pieces: list[tuple[str, bool]], tokens: int, trained: int, *, most: int) -> ShownRow:
    kept: list[Piece] = []
    room = most
    for text, is_trained in pieces:
        if room > 0:
            kept.append(Piece(text=text[:room], trained=is_trained))
        room -= len(text)
    return ShownRow(line=line, pieces=tuple(kept), tokens=tokens, trained_tokens=trained, cut_characters=max(0, -room))
