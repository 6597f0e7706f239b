"""Training that starts from another job's adapter: exactly its weights, a fresh optimizer and step count."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from orchestrator.domain.protocol import ParentSource, Stopped, Succeeded
from tests.support.training import (
    ObservedContext,
    describe,
    make_attempt,
    make_plan,
    make_rows,
    read_losses,
    resume_source,
    train,
)
from workers.failures import StorageError, UserError

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning:peft.*"),
    pytest.mark.usefixtures("one_thread"),
]

NAME = "ft:tiny:vision:v1:0a1b2c3d"
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "nf4, dora": {"quantization": "nf4", "use_dora": True},
    "biases": {"lora_bias": "all"},
}


def weights_of(context: ObservedContext, outcome: Succeeded) -> Path:
    return context.folder / "objects" / outcome.key_prefix / "adapter_model.safetensors"


def source(weights: Path) -> ParentSource:
    return ParentSource(name=NAME, weights=describe(weights))


@pytest.mark.parametrize("form", FORMS)
def test_the_first_loss_is_the_parents_last(tmp_path: Path, tiny_model: Path, form: str) -> None:
    shared = {
        "plan": make_plan(**FORMS[form], eval_steps=8, learning_rate=2e-2),
        "validation_rows": make_rows(4, start=20),
    }
    first = ObservedContext(tmp_path / "parent" / "local")
    parent = train(make_attempt(tmp_path / "parent", tiny_model, **shared), first)
    assert isinstance(parent, Succeeded)
    assert parent.metrics["eval_loss"] < 0.9 * parent.metrics["eval_loss_before"]

    second = ObservedContext(tmp_path / "child" / "local")
    spec = make_attempt(tmp_path / "child", tiny_model, **shared, parent=source(weights_of(first, parent)))
    child = train(spec, second)
    assert isinstance(child, Succeeded)
    assert child.metrics["eval_loss_before"] == pytest.approx(parent.metrics["eval_loss"], rel=1e-6)
    assert sorted(read_losses(second.folder)) == list(range(1, 9))
    rates = read_losses(first.folder, "learning_rate"), read_losses(second.folder, "learning_rate")
    assert rates[0] == rates[1]
    assert spec.parent is not None
    assert child.lineage["parent"] == {"name": NAME, "weights_sha256": spec.parent.weights.sha256}


def test_a_checkpoint_of_its_own_wins_over_the_parent(tmp_path: Path, tiny_model: Path) -> None:
    shared = {"plan": make_plan(eval_steps=2), "validation_rows": make_rows(4, start=20)}
    made = ObservedContext(tmp_path / "parent" / "local")
    parent = train(make_attempt(tmp_path / "parent", tiny_model, **shared), made)
    assert isinstance(parent, Succeeded)
    shared["parent"] = source(weights_of(made, parent))
    whole = ObservedContext(tmp_path / "whole" / "local")
    train(make_attempt(tmp_path / "whole", tiny_model, **shared), whole)
    first = ObservedContext(tmp_path / "first" / "local", stop_at_step=3)
    assert train(make_attempt(tmp_path / "first", tiny_model, **shared), first) == Stopped(reason="paused", step=3)
    weights_of(made, parent).unlink()
    second = ObservedContext(tmp_path / "second" / "local")
    spec = make_attempt(tmp_path / "second", tiny_model, **shared, resume_from=resume_source(first.folder, 3))
    train(spec, second)
    for figure in ("train_loss", "eval_loss", "learning_rate"):
        joined = read_losses(first.folder, figure) | read_losses(second.folder, figure)
        assert joined == read_losses(whole.folder, figure), figure


@pytest.mark.parametrize("spoilt", ["shape", "missing", "surplus", "bytes", "no safetensors"])
def test_weights_that_do_not_fit_are_a_clear_failure(tmp_path: Path, tiny_model: Path, spoilt: str) -> None:
    made = ObservedContext(tmp_path / "parent" / "local")
    parent = train(make_attempt(tmp_path / "parent", tiny_model, plan=make_plan(max_steps=1)), made)
    assert isinstance(parent, Succeeded)
    path = weights_of(made, parent)
    arrays = load_file(path)
    key = sorted(arrays)[0]
    if spoilt == "shape":
        arrays[key] = np.concatenate([arrays[key], arrays[key]])
    elif spoilt == "missing":
        del arrays[key]
    elif spoilt == "surplus":
        arrays["base_model.model.model.layers.0.self_attn.other.lora_A.weight"] = np.ones((4, 4), dtype="float32")
    said = source(path)
    if spoilt == "no safetensors":
        path.write_bytes(b"PK")
    else:
        save_file(arrays, path)
    if spoilt == "bytes":
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    else:
        said = source(path)
    expected, words = (StorageError, "adapter_model") if spoilt == "bytes" else (UserError, NAME)
    with pytest.raises(expected, match=words):
        train(make_attempt(tmp_path / "child", tiny_model, parent=said), ObservedContext(tmp_path / "child" / "local"))
