"""TRL's and PEFT's arguments as a job: the command line `trl sft`, its YAML, SFTConfig with LoraConfig, or an
adapter_config.json.

Names and defaults: trl 1.16, peft 0.21 and transformers 5.23 as installed, 25 November 2026. Sections such as
`peft_config:` or `SFTConfig:` may stand around the fields.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from api.cli.foreign.data import Source, Target, place_data
from api.cli.foreign.given import ForeignFile, Given
from api.cli.foreign.rules import (
    LATER,
    Fate,
    Rule,
    Translation,
    each,
    lora_init,
    lost,
    modules,
    needless,
    number,
    switch,
    whole,
)
from api.cli.foreign.trainer import (
    ADAPTERS,
    DEVICE,
    FROM_MODEL,
    KERNELS,
    LOADING,
    ONE_RANK,
    TRAINER,
    finish_strategies,
    finish_warmup,
    join_revision,
    note_targets,
    set_defaults,
    set_quantization,
)

SECTIONS = frozenset(
    {
        *("sft_config", "sftconfig", "training_args", "training_arguments", "trainingarguments", "args"),
        *("peft_config", "lora_config", "loraconfig", "lora", "quantization_config", "bnb_config"),
        *("bitsandbytesconfig", "model_config", "modelconfig", "script_args", "scriptarguments"),
    }
)
MARKS = frozenset(
    {
        *("dataset_name", "use_peft", "max_length", "lora_target_modules", "peft_type", "task_type", "lora_r"),
        *("use_bnb_nested_quant", "bnb_4bit_quant_type", "dataset_train_split", "max_seq_length", "target_modules"),
        *("assistant_only_loss", "completion_only_loss", "dataset_text_field", "init_lora_weights", "r"),
        *("model_name_or_path", "base_model_name_or_path", "load_in_4bit", "packing", "num_train_epochs"),
    }
)
OTHER_COMMANDS = frozenset({"dpo", "grpo", "kto", "reward", "rloo", "gkd", "orpo", "cpo", "ppo", "bco"})
LOSS = "the loss counts on the assistant's words only"
TEMPLATE = "rows are rendered with the model's own chat template"

FIELDS: dict[str, Rule] = {
    **TRAINER,
    "model_name_or_path": Rule("model", str),
    "base_model_name_or_path": Rule("model", str),
    "model": Rule("model", str),
    "model_id": Rule("model", str),
    **each("model_revision revision use_peft load_in_4bit load_in_8bit peft_type bias", LATER),
    **each("dataset_name datasets dataset_test_split test_split_size data_files train_file", LATER),
    **each("bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_use_double_quant", LATER),
    "lora_r": Rule("lora.r", whole),
    "r": Rule("lora.r", whole),
    "lora_alpha": Rule("lora.alpha", whole),
    "lora_dropout": Rule("lora.dropout", number),
    "lora_target_modules": Rule("lora.target_modules", modules),
    "target_modules": Rule("lora.target_modules", modules),
    "use_rslora": Rule("lora.use_rslora", switch),
    "use_dora": Rule("lora.use_dora", switch),
    "init_lora_weights": Rule("lora.init", lora_init),
    "max_length": Rule("training.max_seq_length", whole),
    "max_seq_length": Rule("training.max_seq_length", whole),
    "packing": Rule("training.packing", switch),
    "assistant_only_loss": needless(LOSS),
    "completion_only_loss": needless(LOSS),
    "dataset_text_field": lost("rows are messages; raw text has no counterpart", "text", "messages"),
    "loss_type": lost("the loss is the negative log-likelihood", "nll", "chunked_nll"),
    **each("chat_template_path eos_token pad_token dataset_kwargs", lost(TEMPLATE)),
    **each("lora_modules_to_save modules_to_save lora_target_parameters target_parameters", lost(ADAPTERS)),
    **each("trainable_token_indices lora_bias", lost(ADAPTERS)),
    **each("rank_pattern alpha_pattern layers_to_transform layers_pattern exclude_modules", lost(ONE_RANK)),
    **each("layer_replication megatron_config", lost("the model is used as it is")),
    "trust_remote_code": lost("code that comes with a model is not run; Transformers' own classes are used"),
    **each("dataset_config dataset_streaming streaming", lost("a job has one file, read as a whole")),
    "router_aux_loss_coef": lost("the loss is the negative log-likelihood", 0.001),
    **each("dataset_train_split truncation_mode shuffle_dataset packing_strategy eval_packing", needless(LOADING)),
    **each("pad_to_multiple_of padding_free", needless(LOADING)),
    **each("dtype torch_dtype bnb_4bit_compute_dtype bnb_4bit_quant_storage model_init_kwargs.dtype", needless(DEVICE)),
    **each("attn_implementation model_init_kwargs.attn_implementation", needless(KERNELS)),
    **each("lora_task_type task_type inference_mode auto_mapping peft_version fan_in_fan_out", needless(FROM_MODEL)),
    "megatron_core": needless(FROM_MODEL),
}
DEFAULTS = {
    "hyperparameters.n_epochs": 3,
    "training.max_seq_length": 1024,
    "training.micro_batch_size": 8,
    "training.gradient_accumulation": 1,
    "training.learning_rate": 2e-5,
    "training.gradient_checkpointing": True,
    "training.warmup_ratio": 0.0,
}
TRL_LORA = {"lora.r": 16, "lora.alpha": 32, "lora.dropout": 0.05}
PEFT_LORA = {"lora.r": 8, "lora.alpha": 8}


def flatten_sections(source: ForeignFile) -> ForeignFile:
    """The fields without the sections around them. Raises CommandError for a field that stands in two of them."""
    found: dict[str, Given] = {}
    for given in source.fields.values():
        section, dot, name = given.name.partition(".")
        plain = name if dot and section.lower() in SECTIONS else given.name
        if plain in found and found[plain].value != given.value:
            raise source.error(given.name, f"{plain} is given before, in line {found[plain].line}")
        found[plain] = replace(given, name=plain)
    return ForeignFile(source.path, found, source.command)


def translate(out: Translation, target: Target) -> None:
    source = out.source
    if source.command in OTHER_COMMANDS:
        first = next(iter(source.fields.values()))
        raise source.error(first.name, f"`trl {source.command}` has no counterpart; jobs are supervised (sft)")
    out.apply(FIELDS)
    _set_method(out)
    join_revision(out, "model_revision" if source.has("model_revision") else "revision")
    finish_warmup(out)
    finish_strategies(out)
    note_targets(out, "target_modules" if source.has("r", "peft_type") else "lora_target_modules")
    _set_defaults(out)
    place_data(out, list(_sources(source)), held_out="test_split_size", target=target)


def _set_method(out: Translation) -> None:
    source = out.source
    kind = source.word("peft_type", "LORA").upper()
    if not kind.endswith("LORA"):
        raise source.error("peft_type", f"{kind} has no counterpart; jobs train LoRA adapters")
    names_lora = source.has("lora_r", "r", "peft_type", "target_modules", "lora_alpha")
    if not switch(source.get("use_peft", names_lora)):
        out.note("use_peft", Fate.CHANGED, "all weights are trained there; a job trains an adapter (LoRA of rank 16)")
    bias = source.get("bias", "none")
    if bias != "none":
        out.set("lora.bias", bias, source.fields["bias"])
    if switch(source.get("load_in_4bit", False)):
        nested = "use_bnb_nested_quant" if source.has("use_bnb_nested_quant") else "bnb_4bit_use_double_quant"
        set_quantization(out, "load_in_4bit", "bnb_4bit_quant_type", nested, double=False)
        if not source.has("bnb_4bit_quant_type") and source.has("bnb_4bit_use_double_quant"):
            out.set("quantization.type", "fp4", source.fields["load_in_4bit"])
    elif switch(source.get("load_in_8bit", False)):
        out.set("quantization.type", "int8", source.fields["load_in_8bit"])


def _set_defaults(out: Translation) -> None:
    """Those of PEFT where its own names are used; an adapter's file alone says nothing of training."""
    source = out.source
    if source.has("r", "peft_type", "target_modules"):
        set_defaults(out, tool="PEFT", defaults=PEFT_LORA)
    elif switch(source.get("use_peft", source.has("lora_r"))):
        set_defaults(out, tool="TRL", defaults=TRL_LORA)
    if not source.has("peft_type"):
        set_defaults(out, tool="TRL", defaults=DEFAULTS)


def _sources(source: ForeignFile) -> Iterator[Source]:
    for name in ("dataset_name", "train_file", "data_files"):
        if source.get(name):
            yield Source(name, str(source.get(name)))
    listed: Any = source.get("datasets", [])
    for entry in listed if isinstance(listed, list) else []:
        if not isinstance(entry, dict) or not entry.get("path"):
            raise source.error("datasets", "each data set needs a path")
        files = entry.get("data_files")
        yield Source("datasets", str(files[0] if isinstance(files, list) and files else files or entry["path"]))
