"""Rows to batches: packing wastes little and mixes nothing, padding is never learned, settings meet their device."""

import math
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from orchestrator.domain.protocol import DeviceGrant
from tests.support.training import make_plan, make_rows, write_rows
from workers.builders.data import Collator, build_dataset, build_packed_dataset, choose_bins, load_rows
from workers.builders.loss import can_compute_directly, compute_labelled_loss
from workers.builders.model import check_plan
from workers.builders.optimizer import FEWEST_PAGED_VALUES, optimizer_arguments, state_bytes
from workers.builders.rows import IGNORED_LABEL
from workers.failures import BadDataError, UserError

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = DeviceGrant(device_id="n/cpu:0", kind="cpu", index=0, device_bytes=8, reserved_bytes=8)
CUDA = CPU.model_copy(update={"kind": "cuda"})


def test_bins_hold_every_row_once_and_never_too_much() -> None:
    lengths = [7, 3, 9, 10, 1, 1, 4, 6, 2, 5, 5]
    bins = choose_bins(lengths, 10)
    assert sorted(number for bin_ in bins for number in bin_) == list(range(len(lengths)))
    assert all(sum(lengths[number] for number in bin_) <= 10 for bin_ in bins)
    assert len(bins) == 6  # 53 tokens cannot fit in five
    assert choose_bins(lengths, 10) == bins


def test_a_row_goes_into_the_fullest_bin_that_has_room() -> None:
    assert choose_bins([6, 5, 4, 3], 10) == [[0, 2], [1, 3]]
    assert choose_bins([10, 10], 10) == [[0], [1]]
    assert choose_bins([], 10) == []


def test_padding_is_ignored_and_rounded_up() -> None:
    examples = [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [8], "labels": [8]}]
    batch = Collator(pad_token_id=0, multiple=4)(examples)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 0], [8, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7, -100], [8, -100, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]


def test_positions_begin_anew_at_each_packed_row_and_at_the_padding() -> None:
    examples = [
        {"input_ids": [1, 2, 3, 4, 5], "labels": [-100, 2, -100, 4, 5], "seq_lengths": [2, 3]},
        {"input_ids": [6, 7, 8], "labels": [-100, 7, 8], "seq_lengths": [3]},
    ]
    batch = Collator(pad_token_id=0)(examples)
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2], [0, 1, 2, 0, 1]]
    assert "attention_mask" not in batch


def test_packing_changes_no_loss(tiny_model: Path, tmp_path: Path) -> None:
    """The summed loss of packed rows is that of the rows alone, so no row saw another."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    rows = load_rows(write_rows(tmp_path / "rows.jsonl", make_rows(7)), tokenizer, max_tokens=100)
    packed = build_packed_dataset(rows, max_tokens=100)
    assert 1 < len(packed) < len(rows)
    collator = Collator(pad_token_id=0)

    def summed(examples: list[dict[str, object]]) -> float:
        batch = collator(examples)
        with torch.no_grad():
            logits = model(**{k: v for k, v in batch.items() if k != "labels"}, use_cache=False).logits
        labels = batch["labels"][:, 1:].reshape(-1)
        return float(
            torch.nn.functional.cross_entropy(
                logits[:, :-1].reshape(-1, logits.shape[-1]), labels, ignore_index=IGNORED_LABEL, reduction="sum"
            )
        )

    alone = sum(summed([example]) for example in build_dataset(rows))
    assert summed(list(packed)) == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_the_loss_of_the_labelled_positions_is_the_models_own(tiny_model: Path, tmp_path: Path, packed: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    rows = load_rows(write_rows(tmp_path / "rows.jsonl", make_rows(5)), tokenizer, max_tokens=100)
    dataset = build_packed_dataset(rows, max_tokens=100) if packed else build_dataset(rows)
    batch = Collator(pad_token_id=0, multiple=8)(list(dataset))
    assert can_compute_directly(model)
    with torch.no_grad():
        theirs = model(**batch, use_cache=False)
    ours = compute_labelled_loss(model, {**batch, "use_cache": False}, vocabulary=512)
    assert ours is not None
    count = sum(row.trained_tokens for row in rows)
    right = (theirs.logits[:, :-1].argmax(-1) == batch["labels"][:, 1:]).sum()
    assert (ours.count, ours.correct) == (count, int(right))
    assert float(ours.summed.detach()) / count == pytest.approx(float(theirs.loss), rel=1e-5)


def test_the_loss_is_left_to_the_fused_head_when_it_would_take_more_memory(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    batch = {"input_ids": torch.ones(2, 8, dtype=torch.long), "labels": torch.ones(2, 8, dtype=torch.long)}
    assert compute_labelled_loss(model, batch, vocabulary=512) is not None
    assert compute_labelled_loss(model, batch, vocabulary=200_000) is None
    unlabelled = {**batch, "labels": torch.full((2, 8), IGNORED_LABEL)}
    assert compute_labelled_loss(model, unlabelled, vocabulary=512) is None


def test_packing_counts_the_same_tokens(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = load_rows(write_rows(tmp_path / "rows.jsonl", make_rows(7)), tokenizer, max_tokens=100)
    packed = build_packed_dataset(rows, max_tokens=100)
    learned = sum(label != IGNORED_LABEL for example in packed for label in example["labels"])
    assert learned == sum(row.trained_tokens for row in rows)
    assert all(sum(example["seq_lengths"]) == len(example["input_ids"]) for example in packed)


def test_a_bad_row_in_the_middle_of_a_file_is_named(tiny_model: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", make_rows(3))
    path.write_text(path.read_text() + '\n{"messages": [{"role": "user", "content": "x"}]}\n')
    with pytest.raises(BadDataError) as caught:
        load_rows(path, AutoTokenizer.from_pretrained(tiny_model), max_tokens=100)
    assert (caught.value.line, caught.value.code) == (5, "no_assistant")
    empty = write_rows(tmp_path / "empty.jsonl", [])
    with pytest.raises(BadDataError, match="no rows"):
        load_rows(empty, AutoTokenizer.from_pretrained(tiny_model), max_tokens=100)


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "paged_adamw_8bit"])
def test_8_bit_optimizers_are_refused_on_a_cpu(optimizer: str) -> None:
    with pytest.raises(UserError, match=f"{optimizer}.*needs a CUDA device"):
        optimizer_arguments(make_plan(optimizer=optimizer), "cpu")
    assert optimizer_arguments(make_plan(optimizer=optimizer), "cuda")["optim"]


def test_unknown_words_are_refused() -> None:
    with pytest.raises(UserError, match="lion"):
        optimizer_arguments(make_plan(optimizer="lion"), "cuda")
    with pytest.raises(UserError, match="staircase"):
        optimizer_arguments(make_plan(scheduler="staircase"), "cuda")


@pytest.mark.parametrize(
    ("changes", "device", "words"),
    [
        ({"compute_dtype": "float16"}, CPU, "needs a CUDA device"),
        ({"lora_init": "loftq"}, CPU, "needs quantization.type 'nf4'"),
        ({"lora_init": "pissa", "quantization": "nf4"}, CUDA, "needs quantization.type 'none'"),
    ],
)
def test_combinations_that_cannot_work_are_refused(changes: dict[str, str], device: DeviceGrant, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_plan(make_plan(**changes), device)
    check_plan(make_plan(), device)


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "paged_adamw_8bit"])
@pytest.mark.parametrize("values", [1, 4095, 4096, 4097, 99_999, 100_000, 300_001])
def test_the_probe_makes_room_for_the_states_that_bitsandbytes_keeps(optimizer: str, values: int) -> None:
    """Its own `init_state` on the meta device. What it pages is asked for by another function, which needs a GPU."""
    plan = make_plan(optimizer=optimizer)
    weight = torch.nn.Parameter(torch.empty(values, device="meta"))
    steps = bnb.optim.AdamW8bit([weight], is_paged=optimizer.startswith("paged_"))
    paged: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bnb.functional, "get_paged", lambda *shape, **options: paged.append(math.prod(shape)))
        patch.setattr(bnb.functional, "fill", lambda *args: None)
        steps.init_state(steps.param_groups[0], weight, 0, 0)
    kept = {name: state for name, state in steps.state[weight].items() if isinstance(state, torch.Tensor)}
    on_device = sum(state.nbytes for name, state in kept.items() if not name.startswith("qmap"))
    assert state_bytes(plan, weight) == on_device
    assert paged == ([values] * 2 if optimizer.startswith("paged_") and values >= FEWEST_PAGED_VALUES else [])
