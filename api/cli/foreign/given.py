"""A file of another tool as fields with lines: YAML or JSON, or the command line of a script.

What is nested is flattened: `peft_config: {r: 8}` is the field 'peft_config.r'. Lists stay values.
"""

import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from api.cli.exits import CommandError
from api.cli.jobfile import read_yaml

STANDARD_INPUT = Path("-")
LARGEST_BYTES = 1024**2
LARGEST_SHARE = 10**9
PROGRAMS = ("trl", "llamafactory-cli", "llamafactory")
SCRIPTS = ("sft.py", "train_bash.py", "run_sft.py", "run_exp.py", "train.py")
ENDS = frozenset({"&&", "||", ";", "|", ">", ">>", "2>&1", "&"})


@dataclass(frozen=True)
class Given:
    """A field as it was written."""

    name: str
    value: Any
    line: int


@dataclass(frozen=True)
class ForeignFile:
    """`command` is what the command line trains with, such as 'sft'; '' for a file of fields."""

    path: Path
    fields: Mapping[str, Given]
    command: str = ""

    def get(self, name: str, default: Any = None) -> Any:
        """The field's value; the default when it is not there or null."""
        found = self.fields.get(name)
        return default if found is None or found.value is None else found.value

    def word(self, name: str, default: str = "") -> str:
        """The field's value as text. Raises CommandError for a list or a mapping."""
        value = self.get(name, default)
        if isinstance(value, list | dict):
            raise self.error(name, f"should be one word, but is {value!r}")
        return str(value)

    def share(self, name: str) -> float:
        """A number that is not below zero, 0 when it is not there. Raises CommandError."""
        value = self.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < LARGEST_SHARE:
            raise self.error(name, f"should be a share or a number of rows, but is {value!r}")
        return float(value)

    def has(self, *names: str) -> bool:
        return any(name in self.fields for name in names)

    def error(self, name: str, message: str) -> CommandError:
        field = self.fields.get(name)
        return CommandError(f"{self.path}:{field.line if field else 1}: {name}: {message}")


def read_foreign(path: Path) -> ForeignFile:
    """`-` is standard input. Raises CommandError naming file and line."""
    if path == STANDARD_INPUT:
        text = sys.stdin.read(LARGEST_BYTES)
        return _read_script(path, text) if _looks_like_script(text) else ForeignFile(path, _read_fields(path, text))
    if not path.is_file():
        raise CommandError(f"there is no file {path}")
    if path.stat().st_size > LARGEST_BYTES:
        raise CommandError(f"{path} is too large for a file of settings", hint="give the file that names the data")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} is not text in UTF-8: {error}") from error
    if path.suffix == ".jsonl":
        raise CommandError(f"{path} holds rows, not settings", hint="import the file that names it")
    if path.suffix in {".yaml", ".yml", ".json"} or not _looks_like_script(text):
        return ForeignFile(path, _read_fields(path, text))
    return _read_script(path, text)


def _read_fields(path: Path, text: str) -> dict[str, Given]:
    node, fields, lines = read_yaml(path, text)
    if node is None or not isinstance(fields, dict):
        raise CommandError(f"{path}:1: this holds no fields; give a YAML or JSON file of settings, or a script")
    found: dict[str, Given] = {}
    for place, value in _flatten((), fields):
        name = ".".join(place)
        found[name] = Given(name, value, lines.get(place, 1))
    return found


def _flatten(place: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flatten((*place, str(key)), inner)
    else:
        yield place, value


def _looks_like_script(text: str) -> bool:
    return any(_find_command(_words(line)) is not None for line in _joined(text))


def _joined(text: str) -> Iterator[str]:
    """Lines with those behind a backslash put together."""
    yield from text.replace("\\\n", " ").splitlines()


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return []


def _find_command(words: list[str]) -> int | None:
    """Where the trainer's own arguments begin."""
    for index, word in enumerate(words):
        name = word.rsplit("/", 1)[-1]
        if name in SCRIPTS:
            return index + 1
        if name in PROGRAMS and index + 1 < len(words) and not words[index + 1].startswith("-"):
            return index + 2
    return None


def _read_script(path: Path, text: str) -> ForeignFile:
    """The first training command of a script; a file that it names with --config is read, too."""
    words = list(_numbered_words(path, text))
    begin = _find_command([word for word, _ in words])
    if begin is None:
        raise CommandError(f"{path}:1: no training command is in this script")
    command = words[begin - 1][0].rsplit("/", 1)[-1].removesuffix(".py")
    found: dict[str, Given] = {}
    for given in _options(words[begin:]):
        if given.name in {"config", "config_file"}:
            found |= _read_config(path, given)
        found[given.name] = given
    found.pop("config", None)
    if not found:
        line = words[begin - 1][1]
        raise CommandError(f"{path}:{line}: the command has no --options", hint="import the file that it trains from")
    return ForeignFile(path, found, command)


def _read_config(script: Path, given: Given) -> dict[str, Given]:
    path = script.parent / str(given.value)
    if not path.is_file():
        raise CommandError(f"{script}:{given.line}: --config: there is no file {path}")
    return dict(_read_fields(path, path.read_text(encoding="utf-8")))


def _numbered_words(path: Path, text: str) -> Iterator[tuple[str, int]]:
    """Words with their lines, up to the end of the first training command."""
    kept: list[tuple[str, int]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        goes_on = line.rstrip().endswith("\\")
        try:
            words = shlex.split(line.rstrip().removesuffix("\\"), comments=True)
        except ValueError as error:
            raise CommandError(f"{path}:{number}: not a command line: {str(error).lower()}") from error
        kept += [(word, number) for word in words]
        if not goes_on:
            if _find_command([word for word, _ in kept]) is not None:
                break
            kept = []
    for word, number in kept:
        if word in ENDS:
            return
        yield word, number


def _options(words: list[tuple[str, int]]) -> Iterator[Given]:
    """--name value, --name=value, --flag, and --name a b c; values are read as YAML reads them."""
    index = 0
    while index < len(words):
        word, line = words[index]
        index += 1
        if not word.startswith("--"):
            continue
        name, equals, text = word[2:].partition("=")
        values = [text] if equals else []
        while not equals and index < len(words) and not words[index][0].startswith("--"):
            values.append(words[index][0])
            index += 1
        read = [_value(value) for value in values]
        yield Given(name.replace("-", "_"), True if not read else read[0] if len(read) == 1 else read, line)


def _value(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return text if isinstance(value, dict) else value
