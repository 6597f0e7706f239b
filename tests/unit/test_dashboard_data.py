"""What the page of a file shows: rows of every format, and how long they are."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.dashboard.views.lengths import LIMITS, MOST_COLUMNS, draw_histogram
from api.dashboard.views.samples import read_samples
from orchestrator.domain.batches import count_lengths

ROWS = st.lists(st.integers(1, 40_000), min_size=1, max_size=300)


@given(ROWS)
def test_columns_hold_every_row_once_and_stay_within_their_place(lengths: list[int]) -> None:
    found = draw_histogram(count_lengths(lengths))
    assert found is not None
    assert sum(column.rows for column in found.columns) == found.rows == len(lengths)
    assert len(found.columns) <= MOST_COLUMNS
    assert found.columns[0].first <= found.least <= found.columns[0].last
    assert found.columns[-1].first <= found.most <= found.columns[-1].last
    assert max(column.height for column in found.columns) == 1000
    assert all(0 <= column.x <= column.x + column.width <= 1000.01 for column in found.columns)


@given(ROWS)
def test_figures_are_those_of_the_rows(lengths: list[int]) -> None:
    """With few enough lengths to keep them apart."""
    lengths = [100 * (length // 400) + 1 for length in lengths]
    found = draw_histogram(count_lengths(lengths))
    assert found is not None
    assert found.is_exact
    ranked = sorted(lengths)
    assert (found.least, found.most) == (ranked[0], ranked[-1])
    assert found.median == ranked[(len(ranked) - 1) // 2]
    assert found.p95 == ranked[-(-95 * len(ranked) // 100) - 1]
    for limit in found.limits:
        longer = [length for length in lengths if length > limit.tokens]
        assert (limit.rows, limit.beyond) == (len(longer), sum(longer) - limit.tokens * len(longer))


def test_limits_end_where_the_longest_row_does() -> None:
    found = draw_histogram(((100.0, 3), (3000.0, 1)))
    assert found is not None
    assert [limit.tokens for limit in found.limits] == [512, 1024, 2048]
    short = draw_histogram(((9.0, 2),))
    assert short is not None
    assert short.limits == []
    assert draw_histogram(()) is None
    assert list(LIMITS) == sorted(LIMITS)


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ({"prompt": "p", "completion": "c"}, [("prompt", "p"), ("completion", "c")]),
        (
            {"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": [{"content": "b"}]},
            [("prompt, user", "q"), ("chosen", "a"), ("rejected", "b")],
        ),
        (
            {
                "input": {"messages": [{"role": "user", "content": "q"}]},
                "preferred_output": [{"role": "assistant", "content": "a"}],
                "non_preferred_output": [{"role": "assistant", "content": "b"}],
            },
            [("input, user", "q"), ("preferred_output, assistant", "a"), ("non_preferred_output, assistant", "b")],
        ),
        ({"instruction": "i", "input": "", "output": 3}, [("input", ""), ("instruction", "i"), ("output", "")]),
    ],
    ids=["prompt and completion", "preference", "OpenAI's preference", "Alpaca"],
)
def test_rows_that_are_not_trained_on_are_shown_as_they_are(row: object, shown: list[tuple[str, str]]) -> None:
    (sample,) = read_samples(json.dumps(row).encode())
    assert [(message.role, message.text) for message in sample.messages] == shown
    assert not any(message.trained for message in sample.messages)


def test_content_in_parts_is_shown_whole() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}, 7]
    (sample,) = read_samples(json.dumps({"messages": [{"role": "user", "content": parts}]}).encode())
    assert sample.messages[0].text == "one two"
