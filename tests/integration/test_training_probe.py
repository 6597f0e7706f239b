"""The longest rows are tried before the first step, and the run is the one that it would have been without."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from orchestrator.domain.protocol import Succeeded
from tests.support.training import (
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

probe = importlib.import_module("workers.recipes.probe")

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.usefixtures("one_thread"),
]
FIGURES = ("train_loss", "grad_norm", "learning_rate", "train_mean_token_accuracy")
PLANS: dict[str, dict[str, Any]] = {
    "dropout, accumulation": {"lora_dropout": 0.2, "accumulation_steps": 2},
    "packed rows, adafactor": {"packing": True, "max_seq_tokens": 64, "micro_batch_rows": 1, "optimizer": "adafactor"},
    "recomputed, sgd": {"lora_dropout": 0.2, "gradient_checkpointing": True, "optimizer": "sgd"},
}


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the batches that were tried, [B, T]."""
    shapes: list[tuple[int, ...]] = []
    real = probe.try_batch

    def note(trainer: Any, model: Any, batch: dict[str, Any], **options: Any) -> None:
        shapes.append(tuple(batch["input_ids"].shape))
        real(trainer, model, batch, **options)

    monkeypatch.setattr(probe, "try_batch", note)
    return shapes


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("name", PLANS)
def test_the_run_is_the_same_with_the_probe_and_without(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, name: str, *, direct: bool
) -> None:
    monkeypatch.setattr("workers.recipes.sft.can_compute_directly", lambda model: direct)
    # An evaluation before the first step puts the random states back too, so one plan goes without.
    evaluates = name != "dropout, accumulation"
    shared: dict[str, Any] = {"plan": make_plan(**PLANS[name], eval_steps=2 if evaluates else None)}
    if evaluates:
        shared["validation_rows"] = make_rows(3, start=20)
    contexts, outcomes = [], []
    for case in ("with", "without"):
        if case == "without":
            monkeypatch.setattr(probe, "try_batch", lambda *args, **options: None)
        contexts.append(ObservedContext(tmp_path / case / "local"))
        outcomes.append(train(make_attempt(tmp_path / case, tiny_model, **shared), contexts[-1]))
    for figure in (*FIGURES, *(["eval_loss"] if evaluates else [])):
        first, second = (read_losses(context.folder, figure) for context in contexts)
        assert first, figure
        assert first == second, figure
    assert isinstance(outcomes[0], Succeeded)
    assert isinstance(outcomes[1], Succeeded)
    assert outcomes[0].trained_tokens == outcomes[1].trained_tokens
    adapter, wanted = (read_adapter(c, o) for c, o in zip(contexts, outcomes, strict=True))
    assert all((adapter[key] == wanted[key]).all() for key in wanted)


def test_the_longest_rows_are_tried_once_and_their_peak_is_reported_at_once(
    tmp_path: Path, tiny_model: Path, probed: list[tuple[int, ...]]
) -> None:
    rows = make_rows(8)
    rows[4]["messages"][0]["content"] *= 3
    plan = make_plan(micro_batch_rows=4)
    context = ObservedContext(tmp_path / "first" / "local", stop_at_step=1)
    train(make_attempt(tmp_path / "first", tiny_model, plan=plan, rows=rows), context)
    assert len(probed) == 1
    assert probed[0][0] == 4
    kinds = [report["kind"] for report in read_reports(context.folder)]
    assert kinds.index("peak") < kinds.index("metric")
    lengths = longest_lengths(tiny_model, tmp_path / "first" / "train.jsonl")
    assert probed[0][1] == max(lengths)

    again = ObservedContext(tmp_path / "second" / "local")
    spec = make_attempt(
        tmp_path / "second", tiny_model, plan=plan, rows=rows, resume_from=resume_source(context.folder, 1)
    )
    train(spec, again)
    assert len(probed) == 1, "a resumed run has passed the probe before"


def longest_lengths(model: Path, path: Path) -> list[int]:
    data, chat = importlib.import_module("workers.builders.data"), importlib.import_module("workers.builders.chat")
    return [len(row.input_ids) for row in data.load_rows(path, chat.load_tokenizer(model), max_tokens=128)]


@pytest.mark.parametrize("count", [1, 3, 99])
def test_the_longest_examples_come_first(count: int) -> None:
    datasets = importlib.import_module("datasets")
    examples = datasets.Dataset.from_dict({"input_ids": [[1], [1, 2, 3], [1, 2], [4, 5, 6]], "labels": [[0]] * 4})
    assert probe.choose_longest(examples, count) == [1, 3, 2, 0][:count]
