"""A job file as text: fields in their usual order, each with a comment that says why it is as it is."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import yaml
from pydantic import BaseModel

from api.cli.plain import harmless
from orchestrator.domain.spec import Hyperparameters, LoraSpec, QuantizationSpec, ResourcesSpec, TrainingSpec

WIDTH = 100
COMMENT_COLUMN = 34
UNWRAPPED = "    "
"""A line of a comment that begins so is a command, to be copied."""
SECTIONS: dict[str, type[BaseModel]] = {
    "hyperparameters": Hyperparameters,
    "lora": LoraSpec,
    "quantization": QuantizationSpec,
    "training": TrainingSpec,
    "resources": ResourcesSpec,
}
TOP_FIELDS = ("model", "training_file", "validation_file", "suffix", "seed", "priority", "max_cost_usd")


@dataclass(frozen=True)
class JobField:
    """`place` is the field's path, such as ('lora', 'r')."""

    place: tuple[str, ...]
    value: Any
    comment: str = ""


def render_job(fields: Sequence[JobField], *, head: str = "", tail: str = "") -> str:
    """The file; `head` and `tail` become comments around the fields. What is rendered reads back as the same values."""
    blocks = [_comment(head)] if head else []
    top = [field for field in fields if len(field.place) == 1]
    top.sort(key=lambda field: TOP_FIELDS.index(field.place[0]))
    blocks.append("\n".join(line for field in top for line in _render(field, "")))
    for section in SECTIONS:
        inside = [field for field in fields if len(field.place) == 2 and field.place[0] == section]
        inside.sort(key=lambda field: _order(section).index(field.place[1]))
        if inside:
            blocks.append("\n".join([f"{section}:", *(line for field in inside for line in _render(field, "  "))]))
    if tail:
        blocks.append(_comment(tail))
    return "\n\n".join(blocks) + "\n"


def _order(section: str) -> list[str]:
    return list(SECTIONS[section].model_fields)


def _render(field: JobField, indent: str) -> Iterator[str]:
    """The field's line, with its comment behind it, or above it when that is long."""
    line = f"{indent}{field.place[-1]}: {_scalar(field.value)}"
    comment = harmless(field.comment)
    beside = f"{line:{COMMENT_COLUMN}}  # {comment}"
    if comment and len(beside) > WIDTH:
        yield from _comment(comment, indent).splitlines()
        yield line
    else:
        yield beside if comment else line


def _comment(text: str, indent: str = "") -> str:
    """Lines of comment; an empty line stays one, an indented one keeps its shape."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        if paragraph.startswith(UNWRAPPED):
            lines.append(f"{indent}# {harmless(paragraph)}")
            continue
        hanging = " " * (len(paragraph) - len(paragraph.lstrip()))
        wrapped = textwrap.wrap(
            harmless(paragraph),
            WIDTH - len(indent) - 2,
            subsequent_indent=hanging,
            break_on_hyphens=False,
            break_long_words=False,
        )
        lines += [f"{indent}# {line}" for line in wrapped] or [f"{indent}#"]
    return "\n".join(lines)


def _scalar(value: Any) -> str:
    """The value in one line of YAML; text that would break or colour a line is escaped."""
    if isinstance(value, Decimal):
        return str(value)
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=10**6, allow_unicode=True)
    if harmless(text, keep="\n") != text or "\n" in text.removesuffix("\n").removesuffix("\n..."):
        text = yaml.safe_dump(plain, default_flow_style=True, width=10**6, default_style='"')
    return text.removesuffix("\n").removesuffix("\n...").strip()
