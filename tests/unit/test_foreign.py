"""Files of Axolotl, LLaMA-Factory, TRL and PEFT as jobs: what is taken over, what is told, what is refused."""

import json
from pathlib import Path

import pytest

from api.cli.exits import CommandError
from api.cli.foreign import axolotl, llamafactory, trl
from api.cli.foreign.data import PLACEHOLDER
from api.cli.foreign.formats import FORMATS, Tool
from api.cli.foreign.rules import Fate
from api.cli.jobfile import read_jobfile
from api.cli.jobtext import render_job
from orchestrator.domain.spec import JobSpec
from tests.support.imported import EXAMPLES, example, imported, told, values, write


def test_an_axolotl_file(tmp_path: Path) -> None:
    out = imported(example("axolotl_qlora.yml", tmp_path))
    assert values(out) == {
        "model": "meta-llama/Llama-3.1-8B-Instruct@0e9e39f",
        "training_file": PLACEHOLDER,
        "quantization.type": "nf4",
        "quantization.double_quant": True,
        "lora.r": 32,
        "lora.alpha": 16,
        "lora.dropout": 0.05,
        "lora.target_modules": "all-linear",
        "lora.use_rslora": True,
        "hyperparameters.n_epochs": 2,
        "training.max_seq_length": 4096,
        "training.packing": True,
        "training.gradient_accumulation": 4,
        "training.micro_batch_size": 2,
        "training.optimizer": "adamw",
        "training.scheduler": "cosine",
        "training.learning_rate": 0.0002,
        "training.warmup_ratio": 0.02,
        "training.max_steps": 500,
        "training.weight_decay": 0.01,
        "training.gradient_checkpointing": True,
        "training.checkpoint_steps": 100,
    }
    assert told(out, Fate.CHANGED) == {"num_epochs", "optimizer"}
    assert told(out, Fate.LOST) == {"datasets", "val_set_size", "neftune_noise_alpha", "special_tokens.pad_token"}
    assert told(out, Fate.NEEDLESS) >= {"wandb_project", "bf16", "flash_attention", "evals_per_epoch", "output_dir"}
    lines = {note.name: note.line for note in out.notes}
    assert (lines["num_epochs"], lines["neftune_noise_alpha"], lines["special_tokens.pad_token"]) == (34, 46, 48)


def test_a_llamafactory_file(tmp_path: Path) -> None:
    out = imported(example("llamafactory_lora.yaml", tmp_path))
    found = values(out)
    assert found["quantization.type"] == "nf4"
    assert found["quantization.double_quant"] is False
    assert (found["lora.r"], found["lora.target_modules"]) == (8, ["q_proj", "v_proj"])
    assert (found["training.max_seq_length"], found["training.eval_steps"]) == (1024, 50)
    assert found["training.scheduler"] == "cosine"
    assert "lora.alpha" not in found
    assert told(out, Fate.CHANGED) == {"lr_scheduler_type"}
    lost = {"trust_remote_code", "additional_target", "dataset", "template", "max_samples", "val_size"}
    assert told(out, Fate.LOST) == lost
    text = next(note.text for note in out.notes if note.name == "dataset")
    assert text == "faq: described in data/dataset_info.json, which is not here; put it beside this file, import again"


def test_the_new_arguments_of_llamafactory(tmp_path: Path) -> None:
    text = "model: q/w\nmodel_class: llm\npeft_config: {name: lora, r: 4, target_modules: all}\nquant_config:\n"
    text += "  name: bnb\n  quantization_bit: 8\ntrain_dataset: rows.jsonl\nmicro_batch_size: 2\ncutoff_len: 99\n"
    found = values(imported(write(tmp_path, text)))
    assert (found["lora.r"], found["quantization.type"], found["training.learning_rate"]) == (4, "int8", 1e-4)
    assert (found["training.micro_batch_size"], found["training.max_seq_length"]) == (2, 99)


def test_a_command_line_of_trl(tmp_path: Path) -> None:
    out = imported(example("trl_sft.sh", tmp_path))
    assert values(out) == {
        "model": "Qwen/Qwen2.5-0.5B-Instruct",
        "training_file": PLACEHOLDER,
        "lora.r": 8,
        "lora.alpha": 32,
        "lora.dropout": 0.05,
        "lora.target_modules": ["q_proj", "v_proj"],
        "quantization.type": "nf4",
        "quantization.double_quant": False,
        "hyperparameters.n_epochs": 2,
        "training.learning_rate": 0.0002,
        "training.packing": True,
        "training.micro_batch_size": 2,
        "training.warmup_ratio": 0.05,
        "training.max_seq_length": 1024,
        "training.gradient_accumulation": 1,
        "training.gradient_checkpointing": True,
    }
    assert told(out, Fate.LOST) == {"dataset_name", "neftune_noise_alpha"}
    assert {note.name: note.line for note in out.notes}["neftune_noise_alpha"] == 14
    assert out.todo[0] == (
        "python -c 'from datasets import load_dataset as load; "
        'load("trl-lib/Capybara", split="train").to_json("Capybara.jsonl")\''
    )


def test_sft_config_with_lora_config(tmp_path: Path) -> None:
    out = imported(example("sft_and_lora.json", tmp_path))
    found = values(out)
    assert (found["lora.r"], found["lora.alpha"], found["lora.bias"], found["lora.init"]) == (
        64,
        128,
        "lora_only",
        "pissa",
    )
    assert (found["training.max_seq_length"], found["training.warmup_ratio"], found["seed"]) == (512, 0.1, 11)
    assert told(out, Fate.LOST) == {"modules_to_save"}
    assert told(out, Fate.CHANGED) == {"init_lora_weights"}


def test_an_adapters_own_file_says_nothing_of_training(tmp_path: Path) -> None:
    text = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "a/b", "r": 8, "target_modules": ["q_proj"]})
    found = values(imported(write(tmp_path, text, "adapter_config.json")))
    assert found == {
        "model": "a/b",
        "training_file": PLACEHOLDER,
        "lora.r": 8,
        "lora.alpha": 8,
        "lora.target_modules": ["q_proj"],
    }


def test_a_command_line_with_a_file_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, "model_name_or_path: a/b\nlora_r: 4\nuse_peft: true\nlearning_rate: 1e-5\n", "sft.yaml")
    out = imported(write(tmp_path, "uv run trl sft --config sft.yaml --lora_r 16 # more\n", "run.sh"))
    assert (values(out)["lora.r"], values(out)["training.learning_rate"]) == (16, 1e-5)


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.iterdir()))
def test_what_is_made_is_a_valid_job_file(tmp_path: Path, name: str) -> None:
    out = imported(example(name, tmp_path))
    path = write(tmp_path, render_job(list(out.fields.values()), head="h", tail="t"), "job.yaml")
    read = read_jobfile(path).fields
    flat = {
        f"{name}.{inner}" if isinstance(value, dict) else name: deep
        for name, value in read.items()
        for inner, deep in (value.items() if isinstance(value, dict) else [("", value)])
    }
    assert flat == values(out)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (
            "base_model: a\nadapter: lora\nlora_r: 2048\n",
            3,
            "lora_r: should be less than or equal to 1024, but is 2048",
        ),
        ("base_model: a\nadapter: ia3\n", 2, "adapter: ia3 is not an adapter"),
        (
            "base_model: a\nsequence_len: 4\n",
            2,
            "sequence_len: should be 'auto' or greater than or equal to 8, but is 4",
        ),
        ("model_name_or_path: a\nstage: dpo\nfinetuning_type: lora\n", 2, "stage: dpo has no counterpart"),
        ("model_name_or_path: a\nstage: sft\nfinetuning_type: oft\n", 3, "finetuning_type: oft has no counterpart"),
        ("base_model: a\nadapter: lora\nrl: dpo\n", 3, "rl: jobs are supervised"),
        ("base_model: a\nadapter: lora\nadapter: qlora\n", 3, "adapter: given before, in line 2"),
        ("base_model: [a\n", 2, "not valid YAML"),
        ("a: 1\nb: 2\n", 1, "looks like none of them; its fields are a, b"),
        ("adapter: lora\nsequence_len: 64\n", 1, "no base model is named"),
        ("x: &x\n  y: *x\n", 1, "nested too deeply"),
        ("- a\n", 1, "this holds no fields"),
    ],
)
def test_what_cannot_be_taken_over_is_refused_with_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(CommandError) as caught:
        imported(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trl dpo --model_name_or_path a --use_peft true\n", "`trl dpo` has no counterpart"),
        ("trl sft --config none.yaml\n", "run.sh:1: --config: there is no file"),
        ("llamafactory-cli train run.yaml\n", "the command has no --options"),
        ("echo 'x\ntrl sft --lora_r 8\n", "run.sh:1: not a command line"),
    ],
)
def test_scripts_that_say_too_little_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(CommandError, match=words):
        imported(write(tmp_path, text, "run.sh"))


def test_full_fine_tuning_is_told_and_not_silently_changed(tmp_path: Path) -> None:
    for text in ("base_model: a\nsequence_len: 64\n", "model_name_or_path: a\nstage: sft\nfinetuning_type: full\n"):
        texts = [note.text for note in imported(write(tmp_path, text)).notes_of(Fate.CHANGED)]
        assert any("a job trains an adapter" in text for text in texts)


def test_tools_disagree_about_what_is_left_out_and_so_do_the_jobs(tmp_path: Path) -> None:
    axolotl = values(imported(write(tmp_path, "base_model: a\nadapter: lora\nlora_r: 8\n")))
    factory = values(imported(write(tmp_path, "model_name_or_path: a\nstage: sft\nfinetuning_type: lora\n")))
    assert (axolotl["hyperparameters.n_epochs"], factory["hyperparameters.n_epochs"]) == (1, 3)
    assert (axolotl["training.scheduler"], axolotl["training.max_seq_length"]) == ("cosine", 512)
    assert (factory["training.learning_rate"], factory["lora.r"]) == (5e-5, 8)


def test_a_job_file_of_our_own_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="is a job file of Tunepool already"):
        imported(write(tmp_path, "model: a\ntraining_file: t.jsonl\n"))


def test_every_field_of_every_table_names_a_field_of_ours_or_a_reason() -> None:
    places = set(_places())
    for module in (axolotl, llamafactory, trl):
        for name, rule in module.FIELDS.items():
            assert bool(rule.to) + bool(rule.lost) + bool(rule.needless) + rule.later == 1, name
            assert not rule.to or rule.to in places, name
        assert set(module.DEFAULTS) <= places
    assert set(FORMATS) == set(Tool)


def _places() -> list[str]:
    found = list(JobSpec.model_fields)
    for section in ("lora", "quantization", "training"):
        annotation = JobSpec.model_fields[section].annotation
        assert annotation is not None
        found += [f"{section}.{name}" for name in annotation.model_fields]
    return [*found, "hyperparameters.n_epochs"]
