"""A checkpoint's round trip: random states, optimizer states of every kind, and what is refused."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, TrainerState

from orchestrator.domain.protocol import CheckpointSource, RemoteFile, StoredFile
from tests.support.training import describe
from workers.checkpoints import (
    CHECKPOINT_FILES,
    Progressed,
    RandomStates,
    Restored,
    fetch_checkpoint,
    flatten_optimizer,
    unflatten_optimizer,
    upload_checkpoint,
    write_checkpoint,
)
from workers.context import LocalContext
from workers.failures import StorageError

pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning"), pytest.mark.usefixtures("one_thread")]


def draw() -> list[float]:
    """One number of each generator, and of numpy's cached normal pair."""
    return [random.random(), float(np.random.rand()), float(np.random.randn()), float(torch.rand(()))]


def make_parts(tiny_model: Path, optimizer_class: type[torch.optim.Optimizer], **options: Any) -> dict[str, Any]:
    """A model that took two steps with an optimizer and a schedule."""
    torch.manual_seed(3)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(r=2, task_type="CAUSAL_LM"))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = optimizer_class(weights, lr=0.01, **options)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    for _ in range(2):
        step(parts)
    return parts


def step(parts: dict[str, Any]) -> None:
    ids = torch.arange(12).reshape(1, 12)
    parts["model"](input_ids=ids, labels=ids).loss.backward()
    parts["optimizer"].step()
    parts["scheduler"].step()
    parts["optimizer"].zero_grad()


def write(folder: Path, parts: dict[str, Any], *, step_number: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    progressed = Progressed(random=RandomStates.capture(), trained_tokens=17, evaluation_due=True)
    write_checkpoint(folder, **parts, state=TrainerState(global_step=step_number, epoch=0.5), progressed=progressed)


def fetch_from(folder: Path, target: Path, *, step_number: int = 2, **changes: Any) -> Restored:
    files = tuple(describe(path) for path in sorted(folder.iterdir()))
    source = CheckpointSource(**{"step": step_number, "files": files} | changes)
    return fetch_checkpoint(source, target, LocalContext(target.with_name("context")).fetch)


def test_random_states_go_on_where_they_were(tmp_path: Path, tiny_model: Path) -> None:
    parts = make_parts(tiny_model, torch.optim.AdamW)
    np.random.randn()
    write(tmp_path / "checkpoint", parts)
    expected = draw()
    draw()
    fetch_from(tmp_path / "checkpoint", tmp_path / "target").random_states().restore()
    assert draw() == expected


@pytest.mark.parametrize(
    ("optimizer_class", "options"),
    [
        (torch.optim.AdamW, {"fused": True}),
        (torch.optim.AdamW, {"amsgrad": True}),
        (torch.optim.SGD, {}),
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.Adafactor, {}),
    ],
)
def test_optimizer_and_schedule_go_on_where_they_were(
    tmp_path: Path, tiny_model: Path, optimizer_class: type[torch.optim.Optimizer], options: dict[str, Any]
) -> None:
    parts = make_parts(tiny_model, optimizer_class, **options)
    write(tmp_path / "checkpoint", parts)
    again = make_parts(tiny_model, optimizer_class, **options)
    step(again)
    restored = fetch_from(tmp_path / "checkpoint", tmp_path / "target")
    restored.load_into(**again)
    again["model"].load_state_dict(parts["model"].state_dict())
    for each in (parts, again):
        step(each)
    theirs = dict(parts["model"].named_parameters())
    assert all(torch.equal(weight, theirs[name]) for name, weight in again["model"].named_parameters())
    assert again["scheduler"].get_last_lr() == parts["scheduler"].get_last_lr()
    assert restored.step == 2
    assert not restored.between_epochs
    assert (restored.state["trained_tokens"], restored.state["evaluation_due"]) == (17, True)


def test_states_that_are_plain_numbers_and_tensors_that_share_memory_survive() -> None:
    shared = torch.arange(4.0)
    state = {
        "state": {0: {"step": 3, "qmap": shared, "rms": 0.5}, 2: {"qmap": shared}},
        "param_groups": [{"lr": torch.tensor(0.25), "betas": (0.9, 0.99), "params": [0, 1, 2]}],
    }
    tensors, settings = flatten_optimizer(state)
    assert tensors["0.qmap"].data_ptr() != tensors["2.qmap"].data_ptr()
    back = unflatten_optimizer(tensors, json.loads(json.dumps(settings)))
    assert back["state"][0]["step"] == 3
    assert back["state"][0]["rms"] == 0.5
    assert torch.equal(back["state"][2]["qmap"], shared)
    assert back["param_groups"] == [{"lr": 0.25, "betas": (0.9, 0.99), "params": [0, 1, 2]}]


def test_the_manifest_is_uploaded_last_and_lists_every_part(tmp_path: Path, tiny_model: Path) -> None:
    write(tmp_path / "checkpoint", make_parts(tiny_model, torch.optim.SGD))
    saved: list[str] = []

    def save(path: Path, key: str) -> StoredFile:
        saved.append(key)
        return StoredFile(name=path.name, size_bytes=path.stat().st_size, sha256="0" * 64)

    stored = upload_checkpoint(tmp_path / "checkpoint", "a/b/", save, {"step": 2})
    assert saved == [f"a/b/{name}" for name in (*CHECKPOINT_FILES, "manifest.json")]
    manifest = json.loads((tmp_path / "checkpoint" / "manifest.json").read_text())
    assert [file["name"] for file in manifest["files"]] == [file.name for file in stored] == list(CHECKPOINT_FILES)


def test_an_upload_that_breaks_off_leaves_no_manifest(tmp_path: Path, tiny_model: Path) -> None:
    write(tmp_path / "checkpoint", make_parts(tiny_model, torch.optim.SGD))
    context = LocalContext(tmp_path / "local", key_prefix="a/")
    saved = []

    def save(path: Path, key: str) -> StoredFile:
        if len(saved) == 3:
            raise StorageError("gone")
        saved.append(key)
        return context.save(path, key)

    with pytest.raises(StorageError):
        upload_checkpoint(tmp_path / "checkpoint", "a/", save, {"step": 2})
    assert len(list((tmp_path / "local" / "objects" / "a").iterdir())) == 3
    assert not (tmp_path / "local" / "objects" / "a" / "manifest.json").exists()


def test_what_is_not_a_whole_checkpoint_of_the_step_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "checkpoint"
    write(folder, make_parts(tiny_model, torch.optim.SGD))
    files = tuple(describe(path) for path in sorted(folder.iterdir()))
    unsigned = tuple(file.model_copy(update={"sha256": ""}) for file in files)
    for changes in ({"files": files[1:]}, {"files": unsigned}, {"step": 3}):
        with pytest.raises(StorageError):
            fetch_from(folder, tmp_path / "target", **changes)


def test_files_that_a_checkpoint_does_not_have_are_not_fetched(tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "checkpoint"
    write(folder, make_parts(tiny_model, torch.optim.SGD))
    (folder / "rng_state.pth").write_bytes(b"pickle")
    asked: list[str] = []

    def fetch(remote: RemoteFile, target: Path) -> None:
        asked.append(remote.name)
        LocalContext(tmp_path / "context").fetch(remote, target)

    files = tuple(describe(path) for path in folder.iterdir())
    fetch_checkpoint(CheckpointSource(step=2, files=files), tmp_path / "target", fetch)
    assert sorted(asked) == sorted(CHECKPOINT_FILES)
