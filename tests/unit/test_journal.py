"""The journal: one sequence without holes, whatever is pulled when, and whatever the disk or a crash does to it."""

import resource
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.failures import FailureKind
from orchestrator.domain.protocol import Entry, Failed, LogLine, Progress, Stopped
from orchestrator.runtime.journal import MAX_ENTRIES, Journal


def line(text: str) -> LogLine:
    return LogLine(stream="stdout", text=text)


def write(path: Path, *texts: str) -> None:
    journal = Journal(path)
    for text in texts:
        journal.append(line(text))
    journal.close()


def read_all(journal: Journal, **limits: int) -> list[Entry]:
    entries: list[Entry] = []
    while True:
        page = journal.read(entries[-1].seq if entries else 0, **limits)
        entries += page.entries
        if not page.more:
            return entries


def read_closed(path: Path) -> list[str]:
    """What somebody finds who opens it again."""
    journal = Journal(path)
    found = texts(read_all(journal))
    journal.close()
    return found


def texts(entries: list[Entry]) -> list[str]:
    return [entry.report.text for entry in entries if isinstance(entry.report, LogLine)]


def test_entries_are_numbered_from_one_without_holes(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    for number in range(1200):
        journal.append(Progress(step=number, total_steps=1200, trained_tokens=0))
    page = journal.read(0)
    assert len(page.entries) == MAX_ENTRIES
    assert page.more
    assert [entry.seq for entry in read_all(journal)] == list(range(1, 1201))


def test_an_answer_is_bounded_in_bytes_but_never_empty(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    for size in (10, 5000, 10, 10):
        journal.append(line("x" * size))
    assert [len(text) for text in texts(list(journal.read(0, max_bytes=1000).entries))] == [10]
    page = journal.read(1, max_bytes=1000)
    assert [len(text) for text in texts(list(page.entries))] == [5000]
    assert page.more
    assert not journal.read(2, max_bytes=1000).more


def test_a_cursor_beyond_the_end_reads_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.append(line("one"))
    assert journal.read(1).entries == ()
    assert journal.read(7).entries == ()


@settings(max_examples=60, deadline=None)
@given(
    written=st.lists(st.text(max_size=40), max_size=30),
    pulls=st.lists(st.tuples(st.integers(1, 8), st.integers(1, 4000)), max_size=40),
    appended_between=st.lists(st.integers(0, 4), max_size=40),
)
def test_any_cut_of_pulls_gives_the_same_sequence(
    tmp_path_factory: pytest.TempPathFactory,
    written: list[str],
    pulls: list[tuple[int, int]],
    appended_between: list[int],
) -> None:
    """Pulls of any size, between appends, forgetting the cursor's page now and then as a crashed reader does."""
    journal = Journal(tmp_path_factory.mktemp("journal") / "j")
    waiting = list(written)
    taken: list[Entry] = []
    for (entries, size), count in zip(pulls, appended_between, strict=False):
        for text in waiting[:count]:
            journal.append(line(text))
        del waiting[:count]
        cursor = taken[-1].seq if taken else 0
        page = journal.read(cursor, max_entries=entries, max_bytes=size)
        assert page == journal.read(cursor, max_entries=entries, max_bytes=size)
        taken += page.entries
    for text in waiting:
        journal.append(line(text))
    taken += read_all_after(journal, taken)
    assert texts(taken) == written
    assert [entry.seq for entry in taken] == list(range(1, len(written) + 1))
    journal.close()


def read_all_after(journal: Journal, taken: list[Entry]) -> list[Entry]:
    cursor = taken[-1].seq if taken else 0
    return [entry for entry in read_all(journal) if entry.seq > cursor]


def test_a_crash_at_any_byte_loses_at_most_the_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "j"
    write(path, "first", "größer", "third")
    whole = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == 3
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        journal = Journal(path)
        kept = sum(end <= size for end in ends)
        assert journal.last_seq == kept
        assert journal.append(line("next")).seq == kept + 1
        journal.close()
        assert read_closed(path) == [*["first", "größer", "third"][:kept], "next"]


def test_what_follows_a_damaged_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "j"
    write(path, "first", "second", "third")
    lines = path.read_bytes().splitlines(keepends=True)
    for damage in (b"\0\0\0\n", lines[2], b"{}\n"):
        path.write_bytes(lines[0] + damage + lines[2])
        assert read_closed(path) == ["first"]


def test_an_outcome_is_known_after_the_journal_is_opened_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    assert journal.outcome is None
    journal.append(Stopped(reason="paused", step=3))
    assert journal.outcome == "stopped"
    journal.close()
    assert Journal(tmp_path / "j").outcome == "stopped"


def test_only_one_holder_may_have_it_open(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    with pytest.raises(BlockingIOError):
        Journal(tmp_path / "j")
    journal.close()
    Journal(tmp_path / "j").close()


def test_text_of_every_kind_comes_back_as_it_was(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    odd = 'line\u2028separator \\ " \t\r ü 🚀'
    journal.append(Failed(failure=FailureKind.USER, message=odd, detail=odd + "\n" + odd))
    (entry,) = journal.read(0).entries
    assert isinstance(entry.report, Failed)
    assert entry.report.message == odd
    assert entry.report.detail == odd + "\n" + odd


def test_a_disk_that_refuses_leaves_neither_a_hole_nor_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(path)
    journal.append(line("first"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, before[1]))
    try:
        with pytest.raises(OSError):
            journal.append(line("x" * 100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.stat().st_size > journal.read(0).entries[0].seq, "the torn bytes are there"
    journal.append(line("second"))
    assert texts(read_all(journal)) == ["first", "second"]
    journal.close()
    assert read_closed(path) == ["first", "second"]


def test_a_closed_journal_takes_and_gives_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.append(line("first"))
    journal.close()
    journal.close()
    assert journal.read(0).entries == ()
    with pytest.raises(OSError):
        journal.append(line("second"))
