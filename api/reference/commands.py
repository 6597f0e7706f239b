"""The command line's reference, from the commands themselves."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from api.reference.tables import WRITTEN, page, table


def render_commands(app: typer.Typer) -> str:
    top: Any = typer.main.get_command(app)
    lines = [
        "# Command line reference",
        "",
        WRITTEN,
        "",
        f"{top.help} {top.epilog or ''}",
        "",
        "[The command line](../cli.md) explains how the commands work together, and their exit codes.",
        "",
    ]
    for panel in dict.fromkeys(command.rich_help_panel for command in top.commands.values()):
        lines += [f"## {panel}", ""]
        for name, command in top.commands.items():
            if command.rich_help_panel == panel:
                lines += _command(f"tunepool {name}", command)
    return page(lines)


def _command(name: str, command: Any) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    wanted = " ".join(_usage(argument) for argument in arguments)
    yield from (f"### {name}", "", f"`{' '.join(filter(None, (name, wanted, '[OPTIONS]' if options else '')))}`", "")
    if command.help:
        yield from (command.help, "")
    rows = [(f"`{_usage(a)}`", _default(a), getattr(a, "help", None) or "") for a in arguments]
    rows += [(f"`{_names(option)}`", _default(option), option.help or "") for option in options]
    yield from table(("Argument or option", "Default", "Meaning"), rows)
    for sub, nested in getattr(command, "commands", {}).items():
        yield from _command(f"{name} {sub}", nested)


def _usage(argument: Any) -> str:
    shown = (argument.metavar or argument.name.upper()) + ("…" if argument.nargs == -1 else "")
    return shown if argument.required else f"[{shown}]"


def _names(option: Any) -> str:
    both = [*option.opts, *option.secondary_opts]
    value = "" if option.is_flag else f" {option.metavar or _kind(option)}"
    return ", ".join(both) + value


def _kind(option: Any) -> str:
    kind = getattr(option, "type_descriptor", None)
    return {int: "N", float: "NUMBER", Path: "PATH"}.get(getattr(kind, "annotation", str), "TEXT")


def _default(parameter: Any) -> str:
    """What holds when it is left out; nothing to say for flags that are off."""
    value = parameter.default
    if value is None or value is False or value == [] or callable(value) or parameter.required:
        return ""
    return f"`{value}`"
