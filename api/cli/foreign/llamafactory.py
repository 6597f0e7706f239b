"""LLaMA-Factory's YAML as a job, of its stable arguments and of its new 'v1' ones.

Names and defaults: its hparams and v1/config of 18 August 2026 (commit ff6d4d1).
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from api.cli.exits import CommandError
from api.cli.foreign.conversion import ROLES, Kind, Shape
from api.cli.foreign.data import Source, Target, place_data
from api.cli.foreign.rules import (
    LATER,
    SKIP,
    Fate,
    Rule,
    Translation,
    UnfitError,
    each,
    limit,
    lost,
    modules,
    needless,
    number,
    steps,
    switch,
    whole,
)
from api.cli.foreign.trainer import (
    ADAPTERS,
    DEVICE,
    FROM_MODEL,
    KERNELS,
    LOADING,
    ONE_RATE,
    TRAINER,
    WHOLE_MODEL,
    finish_strategies,
    finish_warmup,
    join_revision,
    set_defaults,
    set_quantization,
)

MARKS = frozenset(
    {
        *("stage", "finetuning_type", "cutoff_len", "template", "lora_rank", "lora_target", "quantization_bit"),
        *("dataset", "dataset_dir", "flash_attn", "model_name_or_path", "double_quantization", "val_size"),
        *("model_class", "train_dataset", "peft_config.name", "kernel_config.name", "dist_config.name"),
    }
)
TEMPLATE = "rows are rendered with the model's own chat template"
MASKS = "the loss counts on the assistant's words; weight: 0 takes a message out"
ONLY_SFT = "jobs are supervised: of the stages there is sft alone"
OTHER_METHODS = "LoRA is the method; GaLore, APOLLO, BAdam, Muon, OFT and the like have no counterpart"
INFO_FILE = "dataset_info.json"


def _pissa(value: Any) -> Any:
    return "pissa" if switch(value) else SKIP


def _no_checkpointing(value: Any) -> Any:
    return False if switch(value) else SKIP


def _quantizer(value: Any) -> Any:
    if str(value).lower() not in {"bnb", "bitsandbytes", "auto"}:
        raise UnfitError("weights are quantized by bitsandbytes; nf4, fp4 and int8 are its formats")
    return SKIP


FIELDS: dict[str, Rule] = {
    **TRAINER,
    "model_name_or_path": Rule("model", str),
    "model": Rule("model", str),
    "model_revision": LATER,
    **each("stage finetuning_type peft_config.name dataset eval_dataset dataset_dir val_size", LATER),
    **each("quantization_bit quantization_type double_quantization quant_config.quantization_bit", LATER),
    **each("train_dataset global_batch_size", LATER),
    "quantization_method": Rule("quantization.type", _quantizer),
    "quant_config.name": Rule("quantization.type", _quantizer),
    "lora_rank": Rule("lora.r", whole),
    "peft_config.r": Rule("lora.r", whole),
    "lora_alpha": Rule("lora.alpha", whole),
    "peft_config.lora_alpha": Rule("lora.alpha", whole),
    "lora_dropout": Rule("lora.dropout", number),
    "peft_config.lora_dropout": Rule("lora.dropout", number),
    "lora_target": Rule("lora.target_modules", modules),
    "peft_config.target_modules": Rule("lora.target_modules", modules),
    "use_rslora": Rule("lora.use_rslora", switch),
    "use_dora": Rule("lora.use_dora", switch),
    "pissa_init": Rule("lora.init", _pissa),
    "cutoff_len": Rule("training.max_seq_length", whole),
    "packing": Rule("training.packing", switch),
    "neat_packing": Rule("training.packing", switch),
    "micro_batch_size": Rule("training.micro_batch_size", whole),
    "max_steps": Rule("training.max_steps", limit),
    "save_steps": Rule("training.checkpoint_steps", steps),
    "disable_gradient_checkpointing": Rule("training.gradient_checkpointing", _no_checkpointing),
    "enable_activation_checkpointing": Rule("training.gradient_checkpointing", switch),
    "template": lost(TEMPLATE, "default", "empty"),
    **each("default_system enable_thinking preserve_thinking tool_format custom_chat_template", lost(TEMPLATE, True)),
    **each("train_on_prompt mask_history", lost(MASKS)),
    "max_samples": lost("the whole file is trained on; shorten it, or stop with training.max_steps"),
    "adapter_name_or_path": lost("to continue from an adapter, name a fine-tuned model of the pool as `model`"),
    "additional_target": lost(ADAPTERS),
    "loraplus_lr_ratio": lost(ONE_RATE),
    **each(
        "mix_strategy interleave_probs streaming",
        lost("a job has one file, read as a whole; mix the rows in it", "concat"),
    ),
    **each("use_galore use_apollo use_badam use_adam_mini use_muon use_dft_loss use_llama_pro", lost(OTHER_METHODS)),
    **each("rope_scaling shift_attn resize_vocab add_tokens add_special_tokens", lost("the model is used as it is")),
    "early_stopping_steps": lost("a job ends with its steps; take an earlier checkpoint by its name"),
    "trust_remote_code": lost("code that comes with a model is not run; Transformers' own classes are used"),
    **each("use_fast_tokenizer cache_dir low_cpu_mem_usage split_special_tokens model_class", needless(FROM_MODEL)),
    **each("flash_attn use_unsloth use_unsloth_gc enable_liger_kernel use_reentrant_gc", needless(KERNELS)),
    **each("kernel_config.name kernel_config.include_kernels", needless(KERNELS)),
    **each("upcast_layernorm compute_dtype infer_dtype quantization_device_map", needless(DEVICE)),
    **each("preprocessing_num_workers preprocessing_batch_size overwrite_cache tokenized_path", needless(LOADING)),
    **each("data_shared_file_system buffer_size batching_strategy batching_workers", needless(LOADING)),
    **each("dist_config.name dist_config.dcp_path dp_size cp_size ray_run_name ray_num_workers", needless(WHOLE_MODEL)),
    **each(
        "sample_backend max_new_tokens predict_with_generate compute_accuracy",
        needless("jobs train and evaluate; use the adapter to generate"),
    ),
}
DEFAULTS = {
    "lora.r": 8,
    "hyperparameters.n_epochs": 3,
    "training.max_seq_length": 2048,
    "training.micro_batch_size": 8,
    "training.gradient_accumulation": 1,
    "training.learning_rate": 5e-5,
    "training.warmup_ratio": 0.0,
}
V1_DEFAULTS = {**DEFAULTS, "training.micro_batch_size": 1, "training.learning_rate": 1e-4}


def translate(out: Translation, target: Target) -> None:
    source = out.source
    is_v1 = source.has("model_class", "train_dataset", "peft_config.name")
    stage = source.word("stage", "sft")
    if stage != "sft":
        raise source.error("stage", f"{stage} has no counterpart; {ONLY_SFT}")
    out.apply(FIELDS)
    _set_method(out)
    join_revision(out, "model_revision")
    finish_warmup(out)
    finish_strategies(out)
    set_defaults(out, tool="LLaMA-Factory", defaults=V1_DEFAULTS if is_v1 else DEFAULTS)
    place_data(out, list(_sources(out)), held_out="val_size", target=target)


def _set_method(out: Translation) -> None:
    source = out.source
    method = source.word("finetuning_type", source.word("peft_config.name", "lora"))
    if method in {"full", "freeze"}:
        out.note(
            "finetuning_type", Fate.CHANGED, "weights of the model are trained there; a job trains an adapter (LoRA)"
        )
    elif method != "lora":
        raise source.error("finetuning_type", f"{method} has no counterpart; {OTHER_METHODS}")
    bits = source.get("quantization_bit", source.get("quant_config.quantization_bit"))
    name = "quantization_bit" if source.has("quantization_bit") else "quant_config.quantization_bit"
    if bits == 4:
        set_quantization(out, name, "quantization_type", "double_quantization", double=True)
    elif bits == 8:
        out.set("quantization.type", "int8", source.fields[name])
    elif bits is not None:
        out.note(name, Fate.LOST, "weights are stored in 4 bits, 8 bits or 16; set quantization.type to nf4 or int8")


def _sources(out: Translation) -> Iterator[Source]:
    info, folder = _read_info(out), Path(str(out.source.get("dataset_dir", "data")))
    for field, validates in (("dataset", False), ("train_dataset", False), ("eval_dataset", True)):
        value = out.source.get(field)
        if value is None:
            continue
        names = value if isinstance(value, list) else [name.strip() for name in str(value).split(",")]
        for name in filter(None, map(str, names)):
            yield _describe(folder, name, info, Source(field, name, None, validates))


def _read_info(out: Translation) -> dict[str, Any]:
    """The descriptions of data sets beside them; {} when the file is not on this machine. Raises CommandError."""
    path = out.source.path.parent / str(out.source.get("dataset_dir", "data")) / INFO_FILE
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CommandError(f"{path}:{getattr(error, 'lineno', 1)}: not valid JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def _describe(folder: Path, name: str, info: dict[str, Any], source: Source) -> Source:
    """Where a data set is, and how its rows are written, as dataset_info.json says; a file may be named directly."""
    entry = info.get(name)
    if not isinstance(entry, dict):
        known = Path(name).suffix or "/" in name
        return source if known else replace(source, missing=f"described in {folder / INFO_FILE}, which is not here")
    if not entry.get("file_name"):
        return replace(source, location=str(entry.get("hf_hub_url", name)), shape=_shape(entry))
    return replace(source, location=str(folder / entry["file_name"]), shape=_shape(entry))


def _shape(entry: dict[str, Any]) -> Shape:
    columns, tags = entry.get("columns") or {}, entry.get("tags") or {}
    if entry.get("formatting", "alpaca") == "alpaca":
        return Shape(
            Kind.INSTRUCTION,
            instruction=columns.get("prompt", "instruction"),
            input=columns.get("query", "input"),
            output=columns.get("response", "output"),
            system=columns.get("system", "system"),
            history=columns.get("history", "history"),
        )
    named = {tags.get(f"{role}_tag"): role for role in ("user", "assistant", "system")}
    return Shape(
        Kind.TURNS,
        columns.get("messages", "conversations"),
        tags.get("role_tag", "from"),
        tags.get("content_tag", "value"),
        {**ROLES, **{name: role for name, role in named.items() if name}},
        system=columns.get("system", "system"),
    )
