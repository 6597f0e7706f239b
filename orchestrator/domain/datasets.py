"""Is a file a data set in the supervised chat format? Checked while it streams past, in bounded memory and one pass.

Every problem has a line, a byte offset, a JSON path, a code and a hint; the first ones are listed, all are counted.
No bytes make it raise, and nothing of what the examples say is in its report. Tokens are counted elsewhere: that needs
the model.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from orchestrator.domain.datasets_lines import Line, LineSplitter
from orchestrator.domain.datasets_rows import Finding, check_row
from orchestrator.domain.strict_json import StrictJsonError, parse_json

MAX_LINE_BYTES = 4 * 1024**2
"""About a million tokens: more than the context of any model that is fine-tuned."""
MAX_PROBLEMS = 50
MAX_PROBLEMS_PER_CODE = 20
"""So that one mistake in every row does not hide another."""
MAX_PROBLEMS_PER_ROW = 10
MAX_REMEMBERED_ROWS = 250_000
"""Rows of which a fingerprint is kept to find duplicates: about 40 MB."""

HINTS: Mapping[str, str] = {
    "empty_file": "Put one JSON object on each line.",
    "not_utf8": "Save the file as UTF-8 without a byte order mark.",
    "not_text": "Upload the JSON Lines text itself, not an archive or a table format.",
    "blank_line": "Delete the line.",
    "line_too_long": f"Shorten the example; a line may have {MAX_LINE_BYTES} bytes.",
    "not_json": "Put exactly one JSON object on each line; json.dumps writes one.",
    "duplicate_key": "Keep one of the two.",
    "too_deep": "Flatten the object.",
    "bad_number": "Use finite numbers of ordinary size.",
    "lone_surrogate": "Write the character itself, or both halves of its pair.",
    "not_object": 'Wrap the example: {"messages": [...]}.',
    "missing_messages": 'Each row needs "messages": a list of objects with "role" and "content".',
    "unknown_format": 'Convert each row to {"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}.',
    "mixed_formats": "Keep all rows of a file in the messages format.",
    "unrecognized_key": "Remove the key, or correct its spelling.",
    "messages_wrong_type": "Make it a list of message objects.",
    "messages_empty": "Add the messages, or delete the row.",
    "message_not_object": 'Write each message as {"role": ..., "content": ...}.',
    "missing_role": "Add the role: system, user, assistant or tool.",
    "unrecognized_role": "Use system, developer, user, assistant, tool or function.",
    "missing_content": "Add the content, as a string.",
    "content_wrong_type": "Write the content as one string.",
    "empty_assistant": "Give the assistant's message a text or a tool call, or delete it.",
    "no_assistant": "End the row with the answer that the model should learn.",
    "bad_turn_order": "End the row with an assistant's message; what comes after it is never learned.",
    "weight_wrong_type": "Use 0 (not learned) or 1 (learned), without quotes.",
    "weight_out_of_range": "Use 0 (not learned) or 1 (learned).",
    "weight_all_zero": "Leave at least one assistant's message with weight 1.",
    "bad_tool_call": "Give each call an id, a declared name and its arguments as a JSON string, and answer it.",
    "bad_tool_schema": 'Declare each tool as {"type": "function", "function": {"name": ..., "parameters": {...}}}.',
    "too_few_examples": "Add examples.",
    "duplicate_examples": "Repeated rows count more than once in training; remove them unless that is intended.",
}
"""What to do about each code. Every code that is ever reported is a key here, by test."""

_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\xfe", "not_utf8", "the file begins with the byte order mark of UTF-16 or UTF-32"),
    (b"\xfe\xff", "not_utf8", "the file begins with the byte order mark of UTF-16"),
    (b"\x1f\x8b", "not_text", "the file is a gzip archive"),
    (b"PK\x03\x04", "not_text", "the file is a ZIP archive"),
    (b"\x28\xb5\x2f\xfd", "not_text", "the file is a Zstandard archive"),
    (b"PAR1", "not_text", "the file is in Parquet format"),
)
_UTF8_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """`line` counts from 1 and is 0 when the whole file is meant; `byte_offset` is where to look in the file."""

    line: int
    byte_offset: int
    path: str
    code: str
    message: str

    @property
    def hint(self) -> str:
        return HINTS[self.code]

    def as_sentence(self) -> str:
        place = "" if not self.line else f"line {self.line}: "
        return f"{place}{self.path + ': ' if self.path else ''}{self.message} ({self.code}). {self.hint}"


@dataclass(frozen=True, kw_only=True)
class DatasetReport:
    """`rows` counts the lines that hold something, `roles` the messages of each role in rows without a problem."""

    size_bytes: int
    rows: int
    rows_with_tools: int
    roles: dict[str, int]
    problems: tuple[Problem, ...]
    problem_counts: dict[str, int]
    """By code, over the whole file, also of problems that are not listed."""
    warnings: tuple[Problem, ...]

    @property
    def is_valid(self) -> bool:
        return not self.problem_counts

    def as_json(self) -> dict[str, Any]:
        """The report as it is stored and shown."""
        shown = asdict(self)
        for key in ("problems", "warnings"):
            shown[key] = [{**asdict(problem), "hint": problem.hint} for problem in getattr(self, key)]
        return {"format": "chat", "valid": self.is_valid, **shown}


@dataclass
class DatasetValidator:
    """Feed it the file's bytes in order, then `finish`."""

    min_rows: int = 1
    max_line_bytes: int = MAX_LINE_BYTES
    _size_bytes: int = 0
    _rows: int = 0
    _rows_with_tools: int = 0
    _chat_rows: int = 0
    _roles: Counter[str] = field(default_factory=Counter)
    _problems: list[Problem] = field(default_factory=list)
    _counts: Counter[str] = field(default_factory=Counter)
    _lines_by_mark: dict[bytes, int] = field(default_factory=dict)
    _repeats: int = 0
    _first_repeat: tuple[int, int, int] = (0, 0, 0)
    """Line, byte offset, and the line that it repeats."""
    _hopeless: bool = False

    def __post_init__(self) -> None:
        self._splitter = LineSplitter(self.max_line_bytes)

    def feed(self, chunk: bytes) -> None:
        self._size_bytes += len(chunk)
        if not self._hopeless:
            self._take(self._splitter.feed(chunk))

    def finish(self) -> DatasetReport:
        if not self._hopeless:
            self._take(self._splitter.finish())
            self._check_count()
        return DatasetReport(
            size_bytes=self._size_bytes,
            rows=self._rows,
            rows_with_tools=self._rows_with_tools,
            roles=dict(self._roles),
            problems=tuple(self._problems),
            problem_counts=dict(self._counts),
            warnings=self._warnings(),
        )

    def _take(self, lines: Iterable[Line]) -> None:
        for line in lines:
            self._check_line(line)
            if self._hopeless:
                return

    def _check_line(self, line: Line) -> None:
        data = line.data
        if line.number == 1 and data is not None:
            self._check_start(line, data)
            if self._hopeless:
                return
            if data.startswith(_UTF8_MARK):
                data = data.removeprefix(_UTF8_MARK)
                line = Line(1, len(_UTF8_MARK), data)
        if data is None:
            self._rows += 1
            self._note(line, Finding("line_too_long", "", f"the line has more than {self.max_line_bytes} bytes"))
        elif not data.strip(b" \t\r"):
            self._note(line, Finding("blank_line", "", "the line is blank"))
        else:
            self._rows += 1
            self._check_text(line, data)

    def _check_start(self, line: Line, data: bytes) -> None:
        """Recognize what is no JSON Lines at all from its first bytes; then no other line is looked at."""
        found = next(((code, message) for magic, code, message in _MAGIC if data.startswith(magic)), None)
        if found is None and b"\0" in data[:4]:
            found = ("not_utf8", "the file looks like UTF-16 or UTF-32: there are zero bytes between the characters")
        if found is not None:
            self._hopeless = True
            self._note(line, Finding(found[0], "", found[1]))
        if data.startswith(_UTF8_MARK):
            self._note(line, Finding("not_utf8", "", "the file begins with a byte order mark"))

    def _check_text(self, line: Line, data: bytes) -> None:
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            self._note(line, Finding("not_utf8", "", "a byte here is not UTF-8"), error.start)
            return
        try:
            row = parse_json(text)
        except StrictJsonError as error:
            self._note(line, Finding(error.code, "", error.message), len(text[: error.position].encode()))
            return
        findings = [self._in_context(found) for found in islice(check_row(row), MAX_PROBLEMS_PER_ROW)]
        for found in findings:
            self._note(line, found)
        if not findings:
            self._count(row)
            self._remember(line, data)

    def _in_context(self, found: Finding) -> Finding:
        """A foreign row among chat rows is another mistake than a foreign file."""
        if found.code == "unknown_format" and self._chat_rows:
            return Finding("mixed_formats", found.path, found.message)
        return found

    def _count(self, row: dict[str, Any]) -> None:
        self._chat_rows += 1
        self._rows_with_tools += bool(row.get("tools") or row.get("functions"))
        self._roles.update(message["role"] for message in row["messages"])

    def _remember(self, line: Line, data: bytes) -> None:
        mark = hashlib.blake2b(data, digest_size=8).digest()
        earlier = self._lines_by_mark.get(mark)
        if earlier is None:
            if len(self._lines_by_mark) < MAX_REMEMBERED_ROWS:
                self._lines_by_mark[mark] = line.number
            return
        self._repeats += 1
        if self._repeats == 1:
            self._first_repeat = (line.number, line.offset, earlier)

    def _note(self, line: Line, found: Finding, at: int = 0) -> None:
        self._counts[found.code] += 1
        if len(self._problems) < MAX_PROBLEMS and self._counts[found.code] <= MAX_PROBLEMS_PER_CODE:
            self._problems.append(
                Problem(
                    line=line.number,
                    byte_offset=line.offset + at,
                    path=found.path,
                    code=found.code,
                    message=found.message,
                )
            )

    def _check_count(self) -> None:
        whole = Line(0, 0, None)
        if not self._rows:
            self._note(whole, Finding("empty_file", "", "the file has no example"))
        elif self._rows < self.min_rows:
            few = f"the file has {self._rows} examples, fewer than {self.min_rows}"
            self._note(whole, Finding("too_few_examples", "", few))

    def _warnings(self) -> tuple[Problem, ...]:
        if not self._repeats:
            return ()
        line, offset, earlier = self._first_repeat
        message = f"{self._repeats} rows repeat an earlier one; here line {earlier}"
        return (Problem(line=line, byte_offset=offset, path="", code="duplicate_examples", message=message),)


def validate_dataset(chunks: Iterable[bytes], *, min_rows: int = 1) -> DatasetReport:
    """Check a whole file at once."""
    validator = DatasetValidator(min_rows=min_rows)
    for chunk in chunks:
        validator.feed(chunk)
    return validator.finish()
