"""Small configurations of the families that people fine-tune, deep enough that their layers repeat."""

from typing import Any

_PLAIN: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_ALL_HEADS = {**_PLAIN, "num_key_value_heads": 4}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LATENT = {
    **_ALL_HEADS,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": _PLAIN,
    "mistral": _PLAIN,
    "mixtral": {**_PLAIN, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2": _PLAIN,
    "qwen3": {**_PLAIN, "head_dim": 16},
    "qwen2_moe": {**_PLAIN, **_EXPERTS, "shared_expert_intermediate_size": 64},
    "qwen3_moe": {**_PLAIN, **_EXPERTS, "head_dim": 16},
    "gemma": {**_PLAIN, "head_dim": 16},
    "gemma2": {**_PLAIN, "head_dim": 16, "num_hidden_layers": 10},
    "gemma3_text": {**_PLAIN, "head_dim": 16, "num_hidden_layers": 26},
    "phi": _PLAIN,
    "phi3": _PLAIN,
    "granite": _PLAIN,
    "olmo2": _PLAIN,
    "falcon": {key: value for key, value in _PLAIN.items() if key not in {"intermediate_size", "num_key_value_heads"}},
    "stablelm": _PLAIN,
    "gpt_neox": {key: value for key, value in _PLAIN.items() if key != "num_key_value_heads"},
    "gpt_bigcode": {"n_embd": 64, "n_layer": 6, "n_head": 4, "n_inner": 128, "vocab_size": 512, "n_positions": 4096}
    | {"bos_token_id": 1, "eos_token_id": 2},
    "opt": {"hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "vocab_size": 512}
    | {"word_embed_proj_dim": 64},
    "bloom": {"hidden_size": 64, "n_layer": 6, "n_head": 4, "vocab_size": 512},
    "deepseek_v2": {**_LATENT, "first_k_dense_replace": 1},
    "deepseek_v3": {**_LATENT, "first_k_dense_replace": 3, "num_hidden_layers": 9},
    "smollm3": {**_PLAIN, "num_hidden_layers": 18},
    "gpt_oss": {**_PLAIN, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 10},
}
"""By model_type. Qwen 1.5 and 2.5 are qwen2, Phi-4 is phi3, Llama 2 to 3.3 are llama."""


def make_request(family: str, **fields: Any) -> dict[str, Any]:
    """A request for one of the families; a `depth` among the fields changes its layers' number."""
    config = {"model_type": family, **ARCHITECTURES[family]}
    depth = fields.pop("depth", None)
    if depth is not None:
        config["n_layer" if "n_layer" in config else "num_hidden_layers"] = depth
    return {"id": family, "model_config": config, **fields}
