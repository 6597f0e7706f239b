"""Padding on average: against every draw of small files, and the bins that large files are kept in."""

from collections.abc import Sequence
from itertools import combinations
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.batches import MOST_BINS, average_batch, count_lengths, even_batch, guess_lengths

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=9)


@given(lengths=LENGTHS, rows=st.integers(1, 4))
def test_the_average_is_that_of_all_draws(lengths: list[int], rows: int) -> None:
    drawn: Sequence[Sequence[int]] = list(combinations(lengths, min(rows, len(lengths))))
    found = average_batch(count_lengths(lengths), rows)
    assert found.rows == min(rows, len(lengths))
    assert found.tokens == pytest.approx(mean(max(one) for one in drawn))
    assert found.squares == pytest.approx(mean(max(one) ** 2 for one in drawn))
    assert found.shortest == pytest.approx(mean(min(one) for one in drawn))


def test_rows_of_one_length_are_not_padded() -> None:
    assert average_batch(count_lengths([70] * 9), 4) == even_batch(4, 70.0)


@given(lengths=st.lists(st.integers(1, 100_000), min_size=1, max_size=2000))
def test_bins_keep_rows_and_tokens(lengths: list[int]) -> None:
    found = count_lengths(lengths)
    assert len(found) <= MOST_BINS
    assert sum(count for _, count in found) == len(lengths)
    assert sum(tokens * count for tokens, count in found) == pytest.approx(sum(lengths))
    assert [tokens for tokens, _ in found] == sorted(tokens for tokens, _ in found)


def test_bins_pad_as_the_lengths_themselves() -> None:
    lengths = [20 + (n * n) % 1777 for n in range(3000)]
    exact = mean(max(lengths[n : n + 4]) for n in range(0, 3000, 4))
    assert average_batch(count_lengths(lengths), 4).tokens == pytest.approx(exact, rel=0.03)


def test_a_guess_has_the_mean_and_stays_below_the_longest() -> None:
    found = guess_lengths(rows=100, total_tokens=10_000, longest_tokens=120)
    assert sum(count for _, count in found) == 100
    assert sum(tokens * count for tokens, count in found) == pytest.approx(10_000, rel=0.01)
    assert max(tokens for tokens, _ in found) <= 120
    assert average_batch(found, 4).tokens > 100
    assert guess_lengths(rows=3, total_tokens=30, longest_tokens=20) == ((10.0, 3),)
