"""A run that was stopped and resumed is the run that was never stopped: same losses, same weights, to the last bit."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.domain.protocol import Phase, Stopped, Succeeded
from tests.support.training import (
    PAUSE,
    ObservedContext,
    make_attempt,
    make_plan,
    make_rows,
    read_adapter,
    read_losses,
    read_reports,
    resume_source,
    train,
)
from workers.failures import StorageError

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.usefixtures("one_thread"),
]

PLANS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "dropout, accumulation": ({"lora_dropout": 0.2, "accumulation_steps": 2}, (1, 2)),
    "packed rows": ({"lora_dropout": 0.2, "packing": True, "max_seq_tokens": 64, "micro_batch_rows": 1}, (3,)),
    "recomputed, adafactor": ({"lora_dropout": 0.2, "gradient_checkpointing": True, "optimizer": "adafactor"}, (3,)),
}
"""Name to plan, and the steps after which to stop: within the first epoch, and between two where it fits."""
FIGURES = ("train_loss", "grad_norm", "learning_rate", "epoch", "eval_loss")


@pytest.mark.parametrize("name", PLANS)
def test_a_resumed_run_repeats_the_uninterrupted_one(tmp_path: Path, tiny_model: Path, name: str) -> None:
    changes, stops = PLANS[name]
    shared = {
        "plan": make_plan(**changes, eval_steps=2),
        "rows": make_rows(8),
        "validation_rows": make_rows(4, start=20),
    }
    whole = ObservedContext(tmp_path / "whole" / "local")
    expected = train(make_attempt(tmp_path / "whole", tiny_model, **shared), whole)
    assert isinstance(expected, Succeeded)
    for stop_at in stops:
        first = ObservedContext(tmp_path / f"first-{stop_at}" / "local", stop_at_step=stop_at)
        assert train(make_attempt(tmp_path / f"first-{stop_at}", tiny_model, **shared), first) == Stopped(
            reason="paused", step=stop_at
        )
        second = ObservedContext(tmp_path / f"second-{stop_at}" / "local")
        source = resume_source(first.folder, stop_at)
        outcome = train(make_attempt(tmp_path / f"second-{stop_at}", tiny_model, **shared, resume_from=source), second)

        for figure in FIGURES:
            joined = read_losses(first.folder, figure) | read_losses(second.folder, figure)
            assert joined == read_losses(whole.folder, figure), figure
        assert not set(read_losses(first.folder)) & set(read_losses(second.folder))
        assert isinstance(outcome, Succeeded)
        assert_same_weights(second, outcome, whole, expected)
        assert outcome.trained_tokens == expected.trained_tokens
        assert outcome.lineage["resumed_from_step"] == stop_at


def assert_same_weights(one: ObservedContext, outcome: Succeeded, other: ObservedContext, expected: Succeeded) -> None:
    adapter, wanted = read_adapter(one, outcome), read_adapter(other, expected)
    assert adapter.keys() == wanted.keys()
    assert all((adapter[key] == wanted[key]).all() for key in wanted)


def test_an_evaluation_that_was_cut_short_is_made_up_for(tmp_path: Path, tiny_model: Path) -> None:
    shared = {"plan": make_plan(lora_dropout=0.2, eval_steps=2), "validation_rows": make_rows(4, start=20)}
    whole = ObservedContext(tmp_path / "whole" / "local")
    train(make_attempt(tmp_path / "whole", tiny_model, **shared), whole)
    first = ObservedContext(tmp_path / "first" / "local", stop_at_phase=(Phase(phase="evaluating"), 2))
    assert train(make_attempt(tmp_path / "first", tiny_model, **shared), first) == Stopped(reason="paused", step=2)
    assert set(read_losses(first.folder, "eval_loss")) == {0}
    second = ObservedContext(tmp_path / "second" / "local")
    train(make_attempt(tmp_path / "second", tiny_model, **shared, resume_from=resume_source(first.folder, 2)), second)
    for figure in FIGURES:
        joined = read_losses(first.folder, figure) | read_losses(second.folder, figure)
        assert joined == read_losses(whole.folder, figure), figure


def test_checkpoints_are_whole_and_hold_no_pickle(tmp_path: Path, tiny_model: Path) -> None:
    context = ObservedContext(tmp_path / "local")
    plan = make_plan(checkpoint_steps=4, eval_steps=4, lora_dropout=0.1)
    train(make_attempt(tmp_path, tiny_model, plan=plan, validation_rows=make_rows(3)), context)
    stored = read_reports(context.folder, "checkpoint")
    assert [report["step"] for report in stored] == [4]  # none of the last step, 8: the adapter follows
    names = {file["name"] for file in stored[0]["files"]}
    assert names == {
        "adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors", "rng.safetensors", "state.json",
    }  # fmt: skip
    folder = context.folder / "objects" / stored[0]["key_prefix"]
    assert {path.name for path in folder.iterdir()} == names | {"manifest.json"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"] == stored[0]["files"]
    assert (manifest["version"], manifest["step"], manifest["attempt_id"]) == (1, 4, "attempt-test")
    assert "eval_loss" in manifest["metrics"]  # made after the step's evaluation
    assert not json.loads((folder / "state.json").read_text())["evaluation_due"]
    for path in folder.glob("*.safetensors"):
        assert b"torch._utils" not in path.read_bytes()


def test_seconds_make_checkpoints_too(tmp_path: Path, tiny_model: Path) -> None:
    def stop_when_stored(step: int) -> None:
        if read_reports(context.folder, "checkpoint"):
            context.stop(PAUSE)

    context = ObservedContext(tmp_path / "local", on_step=stop_when_stored)
    spec = make_attempt(tmp_path, tiny_model, plan=make_plan(checkpoint_seconds=1, epochs=50_000))
    assert isinstance(train(spec, context), Stopped)
    steps = [report["step"] for report in read_reports(context.folder, "checkpoint")]
    assert steps == sorted(set(steps))
    assert len(steps) == 2  # the one by the clock, and the one of the pause


@pytest.mark.parametrize("spoilt", ["state.json", "adapter_model.safetensors"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, tiny_model: Path, spoilt: str) -> None:
    first = ObservedContext(tmp_path / "first" / "local", stop_at_step=2)
    train(make_attempt(tmp_path / "first", tiny_model), first)
    source = resume_source(first.folder, 2)
    path = next((first.folder / "objects").rglob(spoilt))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    spec = make_attempt(tmp_path / "second", tiny_model, resume_from=source)
    with pytest.raises(StorageError, match=spoilt):
        train(spec, ObservedContext(tmp_path / "second" / "local"))


def test_a_checkpoint_of_another_adapter_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    first = ObservedContext(tmp_path / "first" / "local", stop_at_step=2)
    train(make_attempt(tmp_path / "first", tiny_model, plan=make_plan(lora_target_modules=("q_proj",))), first)
    spec = make_attempt(
        tmp_path / "second",
        tiny_model,
        plan=make_plan(lora_target_modules=("v_proj",)),
        resume_from=resume_source(first.folder, 2),
    )
    with pytest.raises(StorageError, match="another adapter"):
        train(spec, ObservedContext(tmp_path / "second" / "local"))


@pytest.mark.parametrize(
    "remedy",
    [
        {"micro_batch_rows": 3, "accumulation_steps": 2},
        {"micro_batch_rows": 1, "accumulation_steps": 6, "gradient_checkpointing": True},
    ],
)
@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_a_run_goes_on_with_a_smaller_micro_batch_where_it_was(
    tmp_path: Path, tiny_model: Path, remedy: dict[str, Any], stop_at: int
) -> None:
    """What follows an attempt that ran out of memory: the same rows in the same steps, within and between epochs,
    though eight rows are no multiple of six. Sums are rounded in another order, so four digits agree and not every bit.
    """
    first_plan = make_plan(micro_batch_rows=6, accumulation_steps=1)
    whole = ObservedContext(tmp_path / "whole" / "local")
    expected = train(make_attempt(tmp_path / "whole", tiny_model, plan=first_plan), whole)
    first = ObservedContext(tmp_path / "first" / "local", stop_at_step=stop_at)
    train(make_attempt(tmp_path / "first", tiny_model, plan=first_plan), first)
    second = ObservedContext(tmp_path / "second" / "local")
    plan = first_plan.model_copy(update=remedy)
    source = resume_source(first.folder, stop_at)
    outcome = train(make_attempt(tmp_path / "second", tiny_model, plan=plan, resume_from=source), second)
    assert isinstance(outcome, Succeeded)
    assert isinstance(expected, Succeeded)
    assert (outcome.step, outcome.trained_tokens) == (expected.step, expected.trained_tokens)
    for figure in ("train_loss", "learning_rate", "grad_norm"):
        joined = read_losses(first.folder, figure) | read_losses(second.folder, figure)
        assert joined == pytest.approx(read_losses(whole.folder, figure), rel=1e-4), figure
