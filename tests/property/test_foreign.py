"""Whatever values another tool's file holds, importing it makes a valid job or an error with its line, nothing else."""

import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from api.cli.exits import CommandError
from api.cli.foreign import axolotl, llamafactory, trl
from api.cli.foreign.data import Target
from api.cli.foreign.formats import Tool, translate
from api.cli.foreign.given import read_foreign
from api.cli.jobfile import read_jobfile
from api.cli.jobtext import render_job

TABLES: list[tuple[Tool, ModuleType, dict[str, Any]]] = [
    (Tool.AXOLOTL, axolotl, {"base_model": "a/b"}),
    (Tool.LLAMA_FACTORY, llamafactory, {"model_name_or_path": "a/b"}),
    (Tool.TRL, trl, {"model_name_or_path": "a/b"}),
]
WORDS = st.sampled_from(
    ["auto", "lora", "qlora", "no", "steps", "epoch", "cosine", "sgd", "q_proj,v_proj", "all", "2e-4", "rows.jsonl"]
)
TOLD_WITHOUT_A_FIELD = {"adapter", "use_peft", "finetuning_type", "lora_target_modules", "target_modules"}
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5000),
    st.floats(-1, 10),
    st.just(float("inf")),
    WORDS,
    st.text(max_size=8),
    st.lists(WORDS, max_size=3),
    st.dictionaries(st.sampled_from(["path", "type", "x"]), WORDS, max_size=2),
)


@pytest.mark.parametrize(("tool", "table", "start"), TABLES, ids=[tool for tool, _, _ in TABLES])
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_any_values_make_a_job_or_an_error(
    tool: Tool, table: ModuleType, start: dict[str, Any], data: st.DataObject
) -> None:
    names = st.sampled_from(sorted({name.split(".")[0] for name in table.FIELDS}))
    fields = {**start, **data.draw(st.dictionaries(names, VALUES, max_size=12))}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "other.yaml"
        path.write_text(yaml.safe_dump(fields, allow_unicode=False), encoding="utf-8")
        try:
            out = translate(read_foreign(path), tool, Target(Path(folder) / "job.yaml"))
        except CommandError as error:
            assert str(error).startswith(f"{path}:")  # noqa: PT017 - an error is one of two right ends
            return
        made = Path(folder) / "job.yaml"
        made.write_text(render_job(list(out.fields.values()), tail="x"), encoding="utf-8")
        assert read_jobfile(made).fields["model"]
        assert {note.name for note in out.notes} <= {*fields, *out.source.fields} | TOLD_WITHOUT_A_FIELD
