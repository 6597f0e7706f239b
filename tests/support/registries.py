"""A registry of one model, known without a file: a 7B Llama with a chat template."""

from dataclasses import dataclass
from datetime import UTC, datetime

from orchestrator.domain.models import LinearGroup, ModelFacts, ModelSourceKind
from orchestrator.domain.pool import BaseModel

FACTS = ModelFacts(
    model_type="llama",
    architecture="LlamaForCausalLM",
    hidden_size=4096,
    intermediate_size=11008,
    num_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    head_dim=128,
    vocab_size=32000,
    max_context_tokens=4096,
    total_parameters=6_738_415_616,
    tied_embeddings=False,
    linear_groups=(
        LinearGroup(name="q_proj", out_features=4096, in_features=4096, count=32),
        LinearGroup(name="down_proj", out_features=4096, in_features=11008, count=32),
    ),
    has_chat_template=True,
)


@dataclass(frozen=True)
class OneModel:
    facts: ModelFacts = FACTS

    def resolve(self, name: str) -> BaseModel:
        return BaseModel(
            name=name,
            source=ModelSourceKind.PATH,
            location="/models/llama",
            revision="r1",
            facts=self.facts,
            files=(),
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
        )
