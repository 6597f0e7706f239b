"""Does every row fit the model? Rows are rendered and tokenized as training would, and counted. Needs no torch.

Nothing but counts, line numbers and reasons comes out: no training data.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from transformers import PreTrainedTokenizerBase

from orchestrator.domain.batches import count_lengths
from orchestrator.domain.plan import round_length
from orchestrator.domain.protocol import FileProblem, RemoteFile, TokenCounts, ValidationResult, ValidationSpec
from workers.builders.chat import load_tokenizer
from workers.builders.packing import choose_bins
from workers.builders.rows import encode_line, read_lines
from workers.failures import BadDataError, ModelError
from workers.models import Fetch, resolve_model

Param = Literal["training_file", "validation_file"]

MAX_PROBLEMS = 50
"""Listed per file; reading stops there, because a file with so many is looked at anew anyway."""


def run(spec: ValidationSpec, fetch: Fetch) -> ValidationResult:
    """Tokenize both files. A model that cannot be used is a problem of line 0; storage and hub errors are raised."""
    try:
        folder = resolve_model(spec.model, Path(spec.cache_dir), fetch=fetch, weights=False)
        tokenizer = load_tokenizer(folder)
    except ModelError as error:
        problem = FileProblem(param="training_file", line=0, code="model_load_failed", message=str(error))
        return ValidationResult(training=None, validation=None, problems=(problem,))
    limit = min(spec.max_seq_tokens or spec.context_tokens, spec.context_tokens)
    problems: list[FileProblem] = []
    counts: dict[Param, TokenCounts] = {}
    lengths: dict[Param, list[int]] = {}
    files: tuple[tuple[Param, RemoteFile | None], ...] = (
        ("training_file", spec.training_file),
        ("validation_file", spec.validation_file),
    )
    with tempfile.TemporaryDirectory(prefix="tunepool-validation-") as folder_name:
        for param, remote in files:
            if remote is not None:
                path = Path(folder_name) / param
                fetch(remote, path)
                counts[param], lengths[param], found = count_file(path, tokenizer, limit_tokens=limit, param=param)
                problems += found
    if spec.packing and not problems:
        longest = max(found.longest_row_tokens for found in counts.values())
        capacity = spec.max_seq_tokens or round_length(longest, context_tokens=spec.context_tokens)
        lengths["training_file"] = pack_lengths(lengths["training_file"], capacity)
    for param, found in counts.items():
        counts[param] = found.model_copy(update={"lengths": count_lengths(lengths[param])})
    return ValidationResult(
        training=counts.get("training_file"), validation=counts.get("validation_file"), problems=tuple(problems)
    )


def pack_lengths(lengths: Sequence[int], capacity: int) -> list[int]:
    """Tokens of each example that rows of these lengths are packed into."""
    return [sum(lengths[number] for number in members) for members in choose_bins(lengths, capacity)]


def count_file(
    path: Path, tokenizer: PreTrainedTokenizerBase, *, limit_tokens: int, param: Param
) -> tuple[TokenCounts, list[int], list[FileProblem]]:
    """Count the rows that can be trained on, with the length of each, and list the others. Rows over the limit count as
    they are."""
    problems: list[FileProblem] = []
    lengths: list[int] = []
    trained = longest = longest_line = 0
    for line, content in read_lines(path):
        if len(problems) >= MAX_PROBLEMS:
            break
        try:
            row = encode_line(tokenizer, line, content)
        except BadDataError as error:
            problems.append(FileProblem(param=param, line=line, code=error.code, message=error.message))
            continue
        tokens = len(row.input_ids)
        lengths.append(tokens)
        trained += row.trained_tokens
        if tokens > longest:
            longest, longest_line = tokens, line
        if tokens > limit_tokens:
            message = f"the row has {tokens} tokens, {limit_tokens} are the limit"
            problems.append(FileProblem(param=param, line=line, code="example_too_long", message=message))
    if not lengths and not problems:
        problems.append(FileProblem(param=param, line=0, code="empty_file", message="the file has no rows"))
    counts = TokenCounts(
        rows=len(lengths),
        total_tokens=sum(lengths),
        trained_tokens=trained,
        longest_row_tokens=longest,
        longest_row_line=longest_line,
    )
    return counts, lengths, problems
