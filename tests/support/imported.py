"""Files of other tools, made and imported by tests; the examples in `foreign/` are such as people have."""

import json
import shutil
from pathlib import Path
from typing import Any

from api.cli.foreign.data import Target
from api.cli.foreign.formats import detect_tool, translate
from api.cli.foreign.given import read_foreign
from api.cli.foreign.rules import Fate, Translation

EXAMPLES = Path(__file__).parent / "foreign"


def imported(path: Path, *, convert: bool = False, force: bool = False) -> Translation:
    source = read_foreign(path)
    return translate(source, detect_tool(source), Target(path.parent / "job.yaml", convert=convert, force=force))


def values(out: Translation) -> dict[str, Any]:
    return {".".join(place): field.value for place, field in out.fields.items()}


def told(out: Translation, fate: Fate) -> set[str]:
    return {note.name for note in out.notes_of(fate)}


def example(name: str, folder: Path) -> Path:
    return Path(shutil.copy(EXAMPLES / name, folder))


def write(folder: Path, text: str, name: str = "other.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def write_rows(path: Path, *rows: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
