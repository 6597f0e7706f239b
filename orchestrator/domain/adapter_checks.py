"""Is an uploaded adapter the one that the plan describes, and safe to load? Pure rules over its config and header.

`adapter_config.json` is read by PEFT, which has imported modules that it names; so its schema is closed: a key that we
do not know must be empty, and one that we know must say what the plan says.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from orchestrator.domain.errors import TunepoolError
from orchestrator.domain.models import ModelFacts
from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.safetensors import SafetensorsHeader, Tensor
from orchestrator.domain.strict_json import show_name

MIB = 1024**2
MAX_FILE_BYTES: Mapping[str, int] = {
    "adapter_model.safetensors": 64 * 1024 * MIB,
    "adapter_config.json": MIB,
    "tokenizer.json": 128 * MIB,
    "tokenizer_config.json": 16 * MIB,
    "special_tokens_map.json": MIB,
    "chat_template.jinja": MIB,
    "added_tokens.json": 16 * MIB,
    "vocab.json": 64 * MIB,
    "merges.txt": 64 * MIB,
    "tokenizer.model": 64 * MIB,
    "README.md": MIB,
    "trainer_state.json": 64 * MIB,
}
"""The only names that are published, and how large each may be."""
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
PARSED_FILES = frozenset({CONFIG, "tokenizer_config.json"})
"""Files that loaders take settings from."""

DOUBLING_INITS = frozenset({"pissa", "olora"})
"""Their adapters are saved with twice the rank, so that they fit the untouched base weights (PEFT, save_pretrained)."""

_EMPTY: tuple[Any, ...] = (None, False, {}, [])
_DEFAULTS: Mapping[str, tuple[Any, ...]] = {
    "megatron_core": ("megatron.core",),
    "qalora_group_size": (16,),
    "fan_in_fan_out": (False, True),
    "inference_mode": (False, True),
    "init_lora_weights": (False, True, "gaussian", "pissa", "olora"),
}
"""What else than nothing a key may say (PEFT 0.21, LoraConfig's defaults)."""
_TENSOR = re.compile(
    r"base_model\.model\.(?P<module>[A-Za-z0-9_.]+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_magnitude_vector)"
)
_BIAS = re.compile(r"base_model\.model\.[A-Za-z0-9_.]+\.bias")


class BadArtifactError(TunepoolError):
    """The adapter must not be published."""

    code = "bad_artifact"


def check_config(config: Mapping[str, Any], plan: TrainingPlan, *, base_models: Collection[str]) -> None:
    """Raise BadArtifactError unless `adapter_config.json` describes the plan's adapter and nothing else.

    `base_models` are the names under which the base model is known.
    """
    factor = 2 if plan.lora_init in DOUBLING_INITS else 1
    alpha = plan.lora_alpha * (factor**0.5 if plan.use_rslora else factor)
    said: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": factor * plan.lora_r,
        "lora_dropout": plan.lora_dropout,
        "bias": plan.lora_bias,
        "use_rslora": plan.use_rslora,
        "use_dora": plan.use_dora,
    }
    for key, expected in said.items():
        if config.get(key) != expected or isinstance(config.get(key), bool) != isinstance(expected, bool):
            raise BadArtifactError(f"{CONFIG}: {key} is not {expected!r}, as the job's plan says")
    if config.get("base_model_name_or_path") not in base_models:
        raise BadArtifactError(f"{CONFIG}: base_model_name_or_path is not the job's base model")
    found_alpha, targets = config.get("lora_alpha"), config.get("target_modules")
    if not isinstance(found_alpha, int | float) or abs(found_alpha - alpha) > 1e-6 * alpha:
        raise BadArtifactError(f"{CONFIG}: lora_alpha is not {alpha:g}, as the job's plan says")
    if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
        raise BadArtifactError(f"{CONFIG}: target_modules is not a list of names")
    if sorted(targets) != sorted(plan.lora_target_modules):
        raise BadArtifactError(f"{CONFIG}: target_modules are not those of the job's plan")
    _check_others(config, known={*said, "lora_alpha", "target_modules", "base_model_name_or_path"})


def _check_others(config: Mapping[str, Any], *, known: set[str]) -> None:
    for key in sorted(config.keys() - known):
        value = config[key]
        if key in {"peft_version", "revision"}:
            allowed = value is None or (isinstance(value, str) and len(value) <= 100)
        else:
            allowed = _is_one_of(value, _EMPTY) or _is_one_of(value, _DEFAULTS.get(key, ()))
        if not allowed:
            raise BadArtifactError(f"{CONFIG}: {show_name(key)} has a value that is never used here")


def _is_one_of(value: Any, allowed: tuple[Any, ...]) -> bool:
    """Equal and of the same type: 0 and 1 are not False and True."""
    return any(type(value) is type(one) and value == one for one in allowed)


def check_tensors(header: SafetensorsHeader, plan: TrainingPlan, facts: ModelFacts | None) -> None:
    """Raise BadArtifactError unless the tensors are LoRA matrices of the plan's rank on the plan's modules.

    With the base model's facts, also unless each matrix fits a layer of that name.
    """
    rank = plan.lora_r * (2 if plan.lora_init in DOUBLING_INITS else 1)
    parts_by_module: dict[str, dict[str, Tensor]] = {}
    for tensor in header.tensors:
        found = _TENSOR.fullmatch(tensor.name)
        if found is not None:
            parts_by_module.setdefault(found["module"], {})[found["part"]] = tensor
        elif plan.lora_bias == "none" or not _BIAS.fullmatch(tensor.name) or len(tensor.shape) != 1:
            raise BadArtifactError(f"{WEIGHTS}: {show_name(tensor.name)} is no tensor of a LoRA adapter")
    if not parts_by_module:
        raise BadArtifactError(f"{WEIGHTS} holds no LoRA matrix")
    expected = {"lora_A.weight", "lora_B.weight"} | ({"lora_magnitude_vector"} if plan.use_dora else set())
    for module, parts in parts_by_module.items():
        name = module.rsplit(".", 1)[-1]
        if name not in plan.lora_target_modules:
            raise BadArtifactError(f"{WEIGHTS}: {show_name(module)} is not a module of the job's plan")
        if parts.keys() != expected:
            raise BadArtifactError(f"{WEIGHTS}: {show_name(module)} does not have exactly its matrices")
        _check_shapes(module, parts, rank=rank, sizes=_layer_sizes(facts, name))


def _check_shapes(module: str, parts: Mapping[str, Tensor], *, rank: int, sizes: set[tuple[int, int]] | None) -> None:
    """A is [r, in], B is [out, r], and DoRA's magnitudes are [out]."""
    a, b = parts["lora_A.weight"].shape, parts["lora_B.weight"].shape
    fits = len(a) == len(b) == 2 and a[0] == b[1] == rank and (sizes is None or (b[0], a[1]) in sizes)
    magnitudes = parts.get("lora_magnitude_vector")
    if fits and magnitudes is not None:
        fits = magnitudes.shape == (b[0],)
    if not fits:
        raise BadArtifactError(f"{WEIGHTS}: the matrices of {show_name(module)} have other shapes than planned")


def _layer_sizes(facts: ModelFacts | None, name: str) -> set[tuple[int, int]] | None:
    """(out, in) of the layers of that name, both ways round, because GPT-2's layers store their weights transposed."""
    if facts is None:
        return None
    groups = [group for group in facts.linear_groups if group.name == name]
    return {size for g in groups for size in ((g.out_features, g.in_features), (g.in_features, g.out_features))}
