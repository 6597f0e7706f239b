"""Where the training rows of another tool's file come from, and what has to happen so that a job can name them.

A job names one JSON Lines file of messages. A file of this machine that is one is named as it is; others are converted
when that is asked for; what lies on a hub has to be fetched first, which is explained.
"""

import json
import random
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from api.cli.exits import CommandError, ExitCode
from api.cli.foreign.conversion import Kind, RowError, Shape, convert_row, detect_shape, read_rows
from api.cli.foreign.rules import Fate, Translation

PLACEHOLDER = "train.jsonl"
"""Stands in a job file until there is a file of that name beside it."""
SPLIT_SEED = 42
SUFFIXES = frozenset({".json", ".jsonl"})


@dataclass(frozen=True)
class Source:
    """`field` of the foreign file names `location`; `shape` is what it says about the rows, if it does."""

    field: str
    location: str
    shape: Shape | None = None
    validates: bool = False
    """Whether its rows are for validation."""
    missing: str = ""
    """Why it is not on this machine, where that is known to be something else than a hub's."""

    def find(self, folder: Path) -> Path | None:
        """The file of this machine that is meant, looked for beside the foreign file and where we are."""
        for path in (folder / self.location, Path(self.location)):
            if path.suffix in SUFFIXES and "\0" not in self.location and path.is_file():
                return path.resolve()
        return None


@dataclass(frozen=True)
class Target:
    """The job file that is made. With `convert`, rows are written beside it; `force` overwrites what is there."""

    job_file: Path
    convert: bool = False
    force: bool = False

    @property
    def folder(self) -> Path:
        return self.job_file.resolve().parent

    def path(self, purpose: str) -> Path:
        return self.folder / f"{self.job_file.stem}.{purpose}.jsonl"

    def name_of(self, path: Path) -> str:
        """As the job file names it: from its own folder where that is above."""
        return str(path.relative_to(self.folder) if path.is_relative_to(self.folder) else path)


def place_data(out: Translation, sources: Sequence[Source], *, held_out: str, target: Target) -> None:
    """Set training_file and validation_file. `held_out` is the field that says how many rows are kept apart, or which
    share of them."""
    kept = out.source.share(held_out)
    training = [source for source in sources if not source.validates]
    validating = [source for source in sources if source.validates]
    if not training:
        out.set("training_file", PLACEHOLDER, None, "the file names no data: put yours here, as JSON Lines of messages")
    elif not _place(out, "training_file", training, target, "train"):
        out.set("training_file", PLACEHOLDER, out.source.fields.get(training[0].field), "put your data here: see below")
    if validating:
        _place(out, "validation_file", validating, target, "heldout")
    if kept > 0 and not out.has("validation_file"):
        _hold_out(out, kept, held_out, target)


def _place(out: Translation, place: str, sources: Sequence[Source], target: Target, purpose: str) -> bool:
    """Name the sources' rows in the job; False, with notes, when that cannot be done yet."""
    folder = out.source.path.parent
    found = [(source, source.find(folder)) for source in sources]
    local = [(source, path) for source, path in found if path is not None]
    for source, path in found:
        if path is None:
            _tell_missing(out, source)
    if len(local) < len(found):
        return False
    shapes = [(source, path, _shape_of(source, path)) for source, path in local]
    given = out.source.fields.get(sources[0].field)
    if len(shapes) == 1 and shapes[0][2].kind is Kind.MESSAGES and shapes[0][1].suffix == ".jsonl":
        out.set(place, target.name_of(shapes[0][1]), given)
        return True
    if not target.convert:
        for source, path, shape in shapes:
            out.note(source.field, Fate.LOST, _how_to_convert(path, shape, together=len(shapes) > 1))
        return False
    file = target.path(purpose)
    rows = [row for _, path, shape in shapes for row in _converted(path, shape)]
    _write_rows(file, rows, force=target.force)
    out.set(place, file.name, given)
    out.note(sources[0].field, Fate.CHANGED, f"{len(rows):,} rows as messages in {file.name}")
    return True


def _shape_of(source: Source, path: Path) -> Shape:
    """As its rows are; what the file says holds where they could be read in several ways. Raises CommandError."""
    first = next((row for _, row in read_rows(path)), None)
    if first is None:
        raise CommandError(f"{path} has no rows")
    detected = detect_shape(first)
    if source.shape is not None and (detected is None or detected.kind is not Kind.MESSAGES):
        return source.shape
    if detected is None:
        names = ", ".join(sorted(map(str, first))[:8])
        raise CommandError(
            f"{path}:1: rows with {names} are in no format that can be converted",
            hint='write rows as {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}',
        )
    return detected


def _converted(path: Path, shape: Shape) -> Iterator[dict[str, object]]:
    if shape.kind is Kind.MESSAGES:
        yield from (row for _, row in read_rows(path))
        return
    for number, row in read_rows(path):
        try:
            yield convert_row(row, shape)
        except RowError as error:
            raise CommandError(f"{path}:{number}: this row cannot be written as messages: {error}") from error


def _hold_out(out: Translation, share: float, name: str, target: Target) -> None:
    """Keep some rows apart for validation, always the same ones."""
    text = "no rows are kept apart by themselves; --convert-data writes a file for validation_file"
    trained = out.fields.get(("training_file",))
    if not target.convert or trained is None or trained.value == PLACEHOLDER:
        out.note(name, Fate.LOST, text)
        return
    rows = [row for _, row in read_rows(target.folder / trained.value)]
    count = min(len(rows) - 1, round(share * len(rows)) if share < 1 else round(share))
    if count < 1:
        out.note(name, Fate.LOST, f"of {len(rows)} rows none can be kept apart")
        return
    chosen = set(random.Random(SPLIT_SEED).sample(range(len(rows)), count))  # noqa: S311 - a split, not a secret
    train, heldout = target.path("train"), target.path("heldout")
    written_now = trained.value == train.name
    _write_rows(heldout, [rows[at] for at in sorted(chosen)], force=target.force)
    kept = [row for at, row in enumerate(rows) if at not in chosen]
    _write_rows(train, kept, force=target.force or written_now)
    out.fields[("training_file",)] = replace(trained, value=train.name)
    out.set("validation_file", heldout.name, out.source.fields.get(name))


def _write_rows(path: Path, rows: Sequence[dict[str, object]], *, force: bool) -> None:
    if path.exists() and not force:
        raise CommandError(f"{path} is there already", ExitCode.CONFLICT, hint="--force overwrites it")
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    except UnicodeEncodeError as error:
        part.unlink()
        raise CommandError(f"a row for {path.name} holds half a character (a lone surrogate)") from error
    part.replace(path)


def _how_to_convert(path: Path, shape: Shape, *, together: bool) -> str:
    many = "several files become one" if together else f"its rows are in the {shape.kind} format"
    return f"{path.name}: {many}; --convert-data writes JSON Lines of messages"


def _tell_missing(out: Translation, source: Source) -> None:
    if source.missing or Path(source.location).suffix in SUFFIXES:
        text = f"{source.location}: {source.missing or 'there is no such file'}; put it beside this file, import again"
        out.note(source.field, Fate.LOST, text)
        return
    file = f"{source.location.rsplit('/', 1)[-1]}.jsonl"
    location, name = json.dumps(source.location), json.dumps(file)
    fetch = f'from datasets import load_dataset as load; load({location}, split="train").to_json({name})'
    out.note(source.field, Fate.LOST, f"{source.location} is a data set of a hub, and a job names a file")
    out.todo.append(f"python -c {shlex.quote(fetch)}")
    out.todo.append(f"name {file} in {out.source.path.name}, and import again with --convert-data")
