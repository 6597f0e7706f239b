"""Base models on disk that are complete for sizing and checking, made without torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

CONFIG: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 16,
    "intermediate_size": 32,
    "max_position_embeddings": 128,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "vocab_size": 64,
}
PARAMETERS = 64 * 16 + 2 * (16 * 16 + 32 * 16 + 16)


def make_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (64, 16)}
    for layer in range(2):
        shapes[f"model.layers.{layer}.self_attn.q_proj.weight"] = (16, 16)
        shapes[f"model.layers.{layer}.mlp.down_proj.weight"] = (16, 32)
        shapes[f"model.layers.{layer}.input_layernorm.weight"] = (16,)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def make_model_files(**config: Any) -> dict[str, bytes]:
    """File name to content, in one shard."""
    return {
        "config.json": json.dumps({**CONFIG, **config}).encode(),
        "model.safetensors": save(make_tensors()),
        "tokenizer.json": b'{"version": "1.0"}',
        "tokenizer_config.json": b'{"chat_template": "{{ messages }}"}',
    }


def make_sharded_files() -> dict[str, bytes]:
    """The same model in two shards, beside files that nobody loads."""
    files = make_model_files()
    tensors = make_tensors()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[:3], "model-00002-of-00002.safetensors": names[3:]}
    for shard, chosen in shards.items():
        files[shard] = save({name: tensors[name] for name in chosen})
    weight_map = {name: shard for shard, chosen in shards.items() for name in chosen}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    del files["model.safetensors"]
    files["consolidated.safetensors"] = save(tensors)
    files["pytorch_model.bin"] = b"\x80\x04"
    return files


def write_model(folder: Path, files: Mapping[str, bytes] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in (files or make_model_files()).items():
        (folder / name).write_bytes(body)
    return folder
