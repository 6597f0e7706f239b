"""Files of other tools as job files: `tunepool import`."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from api.cli.connection import JsonOption
from api.cli.exits import CommandError, ExitCode
from api.cli.foreign.data import PLACEHOLDER, Target
from api.cli.foreign.formats import FORMATS, Tool, detect_tool, translate
from api.cli.foreign.given import read_foreign
from api.cli.foreign.rules import Fate, Note, Translation
from api.cli.init import write_checked
from api.cli.jobfile import read_jobfile
from api.cli.jobtext import render_job
from api.cli.output import make_console, print_json, print_line
from api.cli.plain import cut, harmless, signs_of
from api.cli.waiting import waiting

HEADINGS = {
    Fate.LOST: "no counterpart",
    Fate.CHANGED: "taken over differently",
    Fate.NEEDLESS: "not needed, Tunepool does it by itself",
}
SHOWN_VALUE = 24
STYLES = {Fate.LOST: "red", Fate.CHANGED: "yellow", Fate.NEEDLESS: "dim"}


def import_file(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="YAML or JSON, or a script with a training command; - is standard input."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The job file.")] = Path("job.yaml"),
    tool: Annotated[Tool | None, typer.Option("--from", help="What FILE is for, where it does not show.")] = None,
    convert: Annotated[
        bool, typer.Option("--convert-data", help="Write data sets of this machine as JSON Lines of messages.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a job file of an Axolotl, LLaMA-Factory or TRL file, and list what has no counterpart.

    Of TRL: the script or the YAML of `trl sft`, SFTConfig with LoraConfig as JSON or YAML, an adapter_config.json.
    """
    if output.exists() and not force:
        raise CommandError(f"{output} is there already", ExitCode.CONFLICT, hint="--force overwrites it, -o renames it")
    source = read_foreign(file)
    chosen = tool or detect_tool(source)
    with waiting("converting data"):
        out = translate(source, chosen, Target(output, convert=convert, force=force))
    write_checked(output, render_job(list(out.fields.values()), head=_head(out, chosen, output), tail=_tail(out)))
    if as_json:
        print_json(_as_json(out, chosen, output))
    else:
        _draw(make_console(), out, chosen, output)


def _head(out: Translation, tool: Tool, output: Path) -> str:
    return (
        f"Made by `tunepool import {out.source.path.name}` ({FORMATS[tool].name}); comments name the fields of old.\n\n"
        f"  tunepool estimate {output.name}\n"
        f"  tunepool submit {output.name} --follow"
    )


def _tail(out: Translation) -> str:
    """What was lost, for whoever reads the job file later."""
    lost = list(out.notes_of(Fate.LOST))
    if not lost:
        return ""
    told = [f"  {note.name}: {_value(note)}  {note.text}" for note in lost]
    steps = ["", "To do:", *(f"    {step}" for step in out.todo)] if out.todo else []
    return "\n".join(["Without a counterpart:", *told, *steps])


def _draw(console: Console, out: Translation, tool: Tool, output: Path) -> None:
    print_line(console, f"{output}: a job from {out.source.path.name}, a file for {FORMATS[tool].name}")
    for fate, heading in HEADINGS.items():
        notes = sorted(out.notes_of(fate), key=lambda note: note.line)
        if notes:
            print_line(console, f"\n{heading}", style="bold")
            _draw_needless(console, notes) if fate is Fate.NEEDLESS else _draw_notes(console, notes, STYLES[fate])
    if out.todo:
        print_line(console, "\nto do", style="bold")
    for step in out.todo:
        console.print(harmless(f"  {step}"), markup=False, soft_wrap=True)
    waits = out.fields[("training_file",)].value == PLACEHOLDER
    print_line(
        console,
        f"\nnext: put your data into {PLACEHOLDER} beside {output}, or name another file"
        if waits
        else f"\nnext: tunepool estimate {output}, then tunepool submit {output} --follow",
        style="dim",
    )


def _draw_notes(console: Console, notes: Iterable[Note], style: str) -> None:
    """Line, field with value, and the reason; plain lines where there is no terminal."""
    if not console.is_terminal:
        for note in notes:
            print_line(console, f"{note.line or '-'}  {note.name}: {_value(note)}  {note.text}")
        return
    signs = signs_of(console)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim", justify="right", no_wrap=True)
    table.add_column(style=style, overflow="fold", max_width=max(20, console.width * 2 // 5))
    table.add_column(overflow="fold")
    for note in notes:
        field = f"{note.name}: {_value(note)}" if note.line else note.name
        table.add_row(str(note.line or ""), Text(cut(harmless(field), 72, signs)), Text(harmless(note.text)))
    console.print(table)


def _draw_needless(console: Console, notes: Iterable[Note]) -> None:
    """One line for each reason."""
    reasons: dict[str, list[str]] = {}
    for note in notes:
        reasons.setdefault(note.text, []).append(note.name)
    for text, names in reasons.items():
        line = Text(harmless(f"{', '.join(names)}: {text}"), style="dim")
        console.print(Padding(line, (0, 0, 0, 2)) if console.is_terminal else line)


def _value(note: Note) -> str:
    """In one short line."""
    text = json.dumps(note.value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_VALUE else text[: SHOWN_VALUE - 1] + "…"


def _as_json(out: Translation, tool: Tool, output: Path) -> dict[str, object]:
    notes = [
        {"field": note.name, "value": note.value, "line": note.line or None, "fate": note.fate, "why": note.text}
        for note in out.notes
    ]
    return {"file": str(output), "from": tool, "fields": read_jobfile(output).fields, "notes": notes}
