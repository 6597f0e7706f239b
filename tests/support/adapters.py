"""Adapters as workers upload them, without torch: PEFT's two files for a plan, and the objects under an attempt."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save

from orchestrator.domain.models import LinearGroup, ModelFacts
from orchestrator.domain.plan import TokenReport, TrainingPlan, resolve_plan
from orchestrator.domain.protocol import StoredFile
from orchestrator.domain.spec import JobSpec
from orchestrator.objects.client import Objects

FACTS = ModelFacts(
    model_type="llama",
    architecture="LlamaForCausalLM",
    hidden_size=16,
    intermediate_size=32,
    num_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    vocab_size=64,
    max_context_tokens=128,
    total_parameters=10_000,
    tied_embeddings=True,
    linear_groups=(
        LinearGroup(name="down_proj", out_features=16, in_features=32, count=2),
        LinearGroup(name="q_proj", out_features=16, in_features=16, count=2),
    ),
    has_chat_template=True,
)
TOKENS = TokenReport(rows=40, total_tokens=4000, trained_tokens=1500, longest_row_tokens=120, longest_row_line=3)

PEFT_CONFIG: Mapping[str, Any] = {
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "arrow_config": None,
    "auto_mapping": None,
    "base_model_name_or_path": "smol",
    "bias": "none",
    "corda_config": None,
    "ensure_weight_tying": False,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "kasa_config": None,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 8,
    "lora_bias": False,
    "lora_dropout": 0.0,
    "lora_ga_config": None,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "monteclora_config": None,
    "peft_type": "LORA",
    "peft_version": "0.21.2",
    "qalora_group_size": 16,
    "r": 4,
    "rank_pattern": {},
    "revision": None,
    "target_modules": ["q_proj", "down_proj"],
    "target_parameters": None,
    "task_type": "CAUSAL_LM",
    "trainable_token_indices": None,
    "use_bdlora": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
    "velora_config": None,
}
"""What PEFT 0.21.2 writes for `make_plan()` (captured 23 November 2026)."""


def make_plan(**changes: Any) -> TrainingPlan:
    """A plan for FACTS with rank 4 on every linear layer."""
    spec = JobSpec.model_validate({"model": "smol", "training_file": "file-1", "lora": {"r": 4, "alpha": 8}})
    return resolve_plan(spec, FACTS, seed=7, tokens=TOKENS).model_copy(update=changes)


def make_weights(*, r: int = 4, dtype: str = "float32") -> dict[str, np.ndarray]:
    """LoRA matrices for both kinds of layers of FACTS."""
    random = np.random.default_rng(7)
    arrays = {}
    for layer in range(2):
        for module, group in (("mlp.down_proj", FACTS.linear_groups[0]), ("self_attn.q_proj", FACTS.linear_groups[1])):
            name = f"base_model.model.model.layers.{layer}.{module}"
            arrays[f"{name}.lora_A.weight"] = random.normal(size=(r, group.in_features)).astype(dtype)
            arrays[f"{name}.lora_B.weight"] = random.normal(size=(group.out_features, r)).astype(dtype)
    return arrays


def make_adapter_files() -> dict[str, bytes]:
    return {
        "adapter_model.safetensors": save(make_weights(), metadata={"format": "pt"}),
        "adapter_config.json": json.dumps(PEFT_CONFIG).encode(),
        "tokenizer_config.json": b'{"model_max_length": 128}',
        "README.md": b"# An adapter\n",
    }


def describe(files: Mapping[str, bytes]) -> tuple[StoredFile, ...]:
    """What a worker reports of its files."""
    return tuple(
        StoredFile(name=name, size_bytes=len(body), sha256=hashlib.sha256(body).hexdigest())
        for name, body in files.items()
    )


def upload(objects: Objects, prefix: str, files: Mapping[str, bytes]) -> tuple[StoredFile, ...]:
    for name, body in files.items():
        objects.put(prefix + name, body)
    return describe(files)
