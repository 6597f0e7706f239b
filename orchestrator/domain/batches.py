"""What micro-batches of rows look like: how long the longest row of each is, on average over all draws. Pure.

A micro-batch is padded to its longest row, so the device computes with that length for every row of it. Rows are
shuffled, so the average over all draws without replacement is what a run of some steps sees.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MOST_BINS = 128
"""Lengths that are kept of a file; more are merged, neighbours with neighbours, at their mean."""
GUESSED_SPREAD = 0.5
GUESSED_BINS = 8
"""Lengths of which only the mean is known are taken to be even from half of it to one and a half."""

Lengths = tuple[tuple[float, int], ...]
"""(tokens, how many rows have so many), rising."""


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """`rows` of them, padded to `tokens` on average. `squares` is the mean of tokens squared, which attention follows;
    `shortest` the mean length of the shortest row."""

    rows: int
    tokens: float
    squares: float
    shortest: float

    @property
    def padded_tokens(self) -> float:
        return self.rows * self.tokens


def count_lengths(lengths: Iterable[int]) -> Lengths:
    """At most `MOST_BINS` pairs whose sum of tokens is exact."""
    counts: dict[int, int] = {}
    for length in lengths:
        counts[length] = counts.get(length, 0) + 1
    pairs = sorted(counts.items())
    if len(pairs) <= MOST_BINS:
        return tuple((float(tokens), count) for tokens, count in pairs)
    size = -(-sum(counts.values()) // MOST_BINS)
    bins: list[list[float]] = [[0.0, 0]]
    for tokens, count in pairs:
        if bins[-1][1] >= size and len(bins) < MOST_BINS:
            bins.append([0.0, 0])
        bins[-1][0] += tokens * count
        bins[-1][1] += count
    return tuple((total / count, int(count)) for total, count in bins)


def guess_lengths(*, rows: int, total_tokens: int, longest_tokens: int) -> Lengths:
    """Of a file of which no more is known."""
    mean = total_tokens / max(1, rows)
    spread = min(max(0.0, longest_tokens - mean), GUESSED_SPREAD * mean)
    if spread == 0.0 or rows < GUESSED_BINS:
        return ((mean, max(1, rows)),)
    first, more = divmod(rows, GUESSED_BINS)
    steps = [(2 * number + 1) / GUESSED_BINS - 1 for number in range(GUESSED_BINS)]
    return tuple((mean + spread * step, first + (number < more)) for number, step in enumerate(steps))


def average_batch(lengths: Sequence[tuple[float, int]], rows: int) -> MicroBatch:
    """Over all micro-batches of so many rows; of all rows when there are fewer."""
    total = sum(count for _, count in lengths)
    drawn = min(rows, total)
    longest = _weigh_maxima([count for _, count in lengths], drawn)
    shortest = _weigh_maxima([count for _, count in reversed(lengths)], drawn)
    tokens = [length for length, _ in lengths]
    return MicroBatch(
        rows=drawn,
        tokens=sum(weight * length for weight, length in zip(longest, tokens, strict=True)),
        squares=sum(weight * length**2 for weight, length in zip(longest, tokens, strict=True)),
        shortest=sum(weight * length for weight, length in zip(shortest, reversed(tokens), strict=True)),
    )


def even_batch(rows: int, tokens: float) -> MicroBatch:
    """Of rows that are all as long."""
    return MicroBatch(rows=rows, tokens=tokens, squares=tokens**2, shortest=tokens)


def _weigh_maxima(counts: Sequence[int], drawn: int) -> list[float]:
    """The chance of each bin to hold the last in order of `drawn` rows, drawn without replacement."""
    total, below, before = sum(counts), 0, 0.0
    weights = []
    for count in counts:
        below += count
        share = 1.0
        for number in range(drawn):
            share *= max(0, below - number) / (total - number)
        weights.append(share - before)
        before = share
    return weights
