"""The Python client's reference, from its classes: methods with their signatures, and the objects they return."""

import inspect
import re
import typing
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from api.client import accounts, devices, errors, jobs, results, simulation, teams, tunepool, waits
from api.client.results import Result
from api.reference.tables import WRITTEN, page, table

RESULT_MODULES = (results, accounts, devices, waits, simulation)
FIELD_DICTS: tuple[Any, ...] = (
    jobs.JobFields,
    jobs.ChangeFields,
    jobs.EstimateFields,
    teams.TermFields,
    teams.AuditFilter,
)
MODULE_PATH = re.compile(r"\b(?:[a-z_]+\.)+(?=[A-Za-z])")


def render_client() -> str:
    lines = ["# Python reference", "", WRITTEN, ""]
    lines += ["[The Python client](../python-client.md) is the introduction; this page has every method.", ""]
    lines += ["## Tunepool", "", "```text", f"Tunepool{_signature(tunepool.Tunepool.__init__)}", "```", ""]
    lines += [inspect.getdoc(tunepool.Tunepool) or "", ""]
    for name, namespace in _namespaces():
        lines += [f"## client.{name}", "", inspect.getdoc(namespace) or "", ""]
        for method, function in inspect.getmembers(namespace, inspect.isfunction):
            if not method.startswith("_"):
                lines += _method(f"client.{name}.{method}", function)
    lines += [
        "## Fields",
        "",
        "What `**fields`, `**changes`, `**terms` and `**which` may be; all of them may be left out.",
        "",
    ]
    for fields in FIELD_DICTS:
        rows = [(f"`{name}`", f"`{_type(kind)}`") for name, kind in typing.get_type_hints(fields).items()]
        lines += [f"### {fields.__name__}", "", _own_docstring(fields), "", *table(("Field", "Type"), rows)]
    return page([*lines, *_objects(), *_errors()])


def _namespaces() -> Iterator[tuple[str, type]]:
    with tunepool.Tunepool("http://127.0.0.1:1", "tp_none") as client:
        yield from ((n, type(v)) for n, v in vars(client).items() if n != "transport")


def _method(name: str, function: Any) -> list[str]:
    return [
        f"### {name}",
        "",
        "```text",
        f"{name}{_signature(function)}",
        "```",
        "",
        inspect.getdoc(function) or "",
        "",
    ]


def _signature(function: Any) -> str:
    """Without self, and without the modules' names."""
    signature = inspect.signature(function)
    kept = [parameter for name, parameter in signature.parameters.items() if name != "self"]
    return MODULE_PATH.sub("", str(signature.replace(parameters=kept)).replace(" -> None", ""))


def _type(kind: Any) -> str:
    if isinstance(kind, type) and not typing.get_args(kind):
        return kind.__name__
    return MODULE_PATH.sub("", str(kind)).replace("NoneType", "None")


def _objects() -> Iterator[str]:
    yield from ("## Objects", "", "Frozen, with the names and units of the wire.", "")
    for kind in _classes(RESULT_MODULES, Result):
        yield from (f"### {kind.__name__}", "", _own_docstring(kind), "")
        rows = [(f"`{n}`", f"`{_type(f.annotation)}`", f.description or "") for n, f in kind.model_fields.items()]
        yield from table(("Field", "Type", "Meaning"), rows)


def _errors() -> Iterator[str]:
    yield from ("## Errors", "", "In `api.client.errors`.", "")
    rows = [(f"`{e.__name__}`", f"`{e.__base__.__name__}`", _own_docstring(e)) for e in _classes((errors,), Exception)]
    yield from table(("Error", "Is a", "When"), rows)


def _classes(modules: Iterable[ModuleType], parent: type) -> list[Any]:
    """Of each module its own classes, in the order in which they are written."""
    return [
        item
        for module in modules
        for item in vars(module).values()
        if inspect.isclass(item)
        and issubclass(item, parent)
        and item.__module__ == module.__name__
        and item is not Result
    ]


def _own_docstring(kind: type) -> str:
    return inspect.cleandoc(kind.__dict__.get("__doc__") or "")
