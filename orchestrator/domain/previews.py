"""How a model sees a file: what goes to the process that renders and counts rows, and what comes back.

It holds training data: it goes to the process as a private file that is removed with it, and what comes back is kept in
memory only.
"""

from pydantic import Field

from orchestrator.domain.batches import Lengths
from orchestrator.domain.protocol import Message, ModelSource


class PreviewSpec(Message):
    """`content` is the file's beginning, whole lines of JSON; the first `most_rows` rows are shown, all are counted."""

    model: ModelSource
    content: str = Field(repr=False)
    most_rows: int
    most_characters: int
    """Of a row that is shown; the rest is said to be cut."""
    cache_dir: str


class Piece(Message):
    """Text of tokens that are next to one another and alike: the loss counts on all of them, or on none."""

    text: str = Field(repr=False)
    trained: bool


class ShownRow(Message):
    """A row as the model's template writes it, special tokens included. `line` counts from 1."""

    line: int
    pieces: tuple[Piece, ...]
    tokens: int
    trained_tokens: int
    cut_characters: int


class RowTrouble(Message):
    """Why a row cannot be trained on with this model."""

    line: int
    code: str
    message: str


class PreviewResult(Message):
    """Of the rows that were looked at. `lengths` are rising; `troubles` are the first ones, `troubled` counts all."""

    shown: tuple[ShownRow, ...] = ()
    lengths: Lengths = ()
    total_tokens: int = 0
    trained_tokens: int = 0
    longest_row_tokens: int = 0
    troubles: tuple[RowTrouble, ...] = ()
    troubled: int = 0
