"""Models and plans for tests of sizing: real shapes under short names, and a plan with every detail filled in."""

from datetime import UTC, datetime
from typing import Any

from orchestrator.domain.models import LinearGroup, ModelFacts, ModelSourceKind
from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.pool import BaseModel

LLAMA_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def llama_facts(
    *,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    key_heads: int,
    vocab: int,
    tied: bool = True,
    **more: Any,
) -> ModelFacts:
    """A model of Llama's architecture; parameters are counted as its checkpoint holds them."""
    head = more.pop("head_dim", hidden // heads)
    shapes = {
        "q_proj": (heads * head, hidden),
        "k_proj": (key_heads * head, hidden),
        "v_proj": (key_heads * head, hidden),
        "o_proj": (hidden, heads * head),
        "gate_proj": (intermediate, hidden),
        "up_proj": (intermediate, hidden),
        "down_proj": (hidden, intermediate),
    }
    groups = tuple(
        LinearGroup(name=name, out_features=out, in_features=into, count=layers) for name, (out, into) in shapes.items()
    )
    norms = (2 * layers + 1) * hidden
    values: dict[str, Any] = {
        "model_type": "llama",
        "architecture": "LlamaForCausalLM",
        "max_context_tokens": 8192,
        "has_chat_template": True,
        "total_parameters": sum(group.parameters for group in groups) + vocab * hidden * (1 if tied else 2) + norms,
        **more,
    }
    return ModelFacts(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        head_dim=head,
        vocab_size=vocab,
        tied_embeddings=tied,
        linear_groups=groups,
        **values,
    )


SMOLLM2_135M = llama_facts(hidden=576, intermediate=1536, layers=30, heads=9, key_heads=3, vocab=49_152)
LLAMA2_7B = llama_facts(
    hidden=4096,
    intermediate=11_008,
    layers=32,
    heads=32,
    key_heads=32,
    vocab=32_000,
    tied=False,
    max_context_tokens=4096,
)


def make_base_model(name: str = "one", facts: ModelFacts = SMOLLM2_135M) -> BaseModel:
    """A registered model whose files nobody reads."""
    return BaseModel(
        name=name,
        source=ModelSourceKind.PATH,
        location="/models/one",
        revision="r1",
        facts=facts,
        files=(),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def make_plan(**changes: Any) -> TrainingPlan:
    """LoRA of rank 16 on every linear layer, 4 rows of 256 tokens, in bfloat16."""
    micro = changes.get("micro_batch_rows", 4)
    steps = changes.get("accumulation_steps", 1)
    values: dict[str, Any] = {
        "method": "supervised",
        "epochs": 1,
        "max_steps": None,
        "batch_rows": micro * steps,
        "micro_batch_rows": micro,
        "accumulation_steps": steps,
        "max_seq_tokens": 256,
        "packing": False,
        "gradient_checkpointing": False,
        "learning_rate": 2e-4,
        "optimizer": "adamw",
        "scheduler": "linear",
        "warmup_ratio": 0.0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "eval_steps": None,
        "checkpoint_steps": None,
        "checkpoint_seconds": None,
        "seed": 1,
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "lora_target_modules": LLAMA_LINEARS,
        "lora_bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "lora_init": "default",
        "quantization": "none",
        "double_quant": True,
        "compute_dtype": "bfloat16",
    }
    return TrainingPlan(**{**values, **changes})
