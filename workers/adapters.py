"""What is in the folder that a user downloads? PEFT's adapter, the tokenizer, a page about them, and no more."""

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from orchestrator.domain.protocol import AttemptSpec

ALLOWED_FILES = frozenset(
    {
        "adapter_model.safetensors",
        "adapter_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
        "README.md",
        "trainer_state.json",
    }
)
"""Names that the control plane publishes; anything else in an adapter's prefix is refused."""
_LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "safetensors", "tunepool")

_CARD = """\
---
base_model: {base}
library_name: peft
pipeline_tag: text-generation
tags: [lora, sft]
---

# LoRA adapter for {base}

Trained by Tunepool, job `{job}`. Load it on top of its base model:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```

| | |
| --- | --- |
| base model revision | `{revision}` |
| rank, alpha, dropout | {rank}, {alpha}, {dropout} |
| modules | {modules} |
| base weights in training | {quantization} |
| optimizer steps | {steps} |
| learning rate, schedule | {learning_rate:g}, {scheduler} |
| loss | {loss} |
"""


def add_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the tokenizer's files next to the adapter; those with a name that is not published are left out."""
    tokenizer.save_pretrained(str(folder))
    for path in folder.iterdir():
        if path.name not in ALLOWED_FILES:
            path.unlink()


def write_card(folder: Path, spec: AttemptSpec, *, steps: int, metrics: dict[str, float]) -> None:
    """The README.md of the adapter: how to load it and how it was made."""
    plan = spec.plan
    quantization = f"{plan.quantization}, {plan.compute_dtype}" if plan.quantization != "none" else plan.compute_dtype
    losses = [
        f"{name.replace('_', ' ')} {metrics[name]:.4f}" for name in ("train_loss", "eval_loss") if name in metrics
    ]
    text = _CARD.format(
        base=spec.model.name,
        job=spec.job_id,
        revision=spec.model.revision or "not recorded",
        rank=plan.lora_r,
        alpha=plan.lora_alpha,
        dropout=plan.lora_dropout,
        modules=", ".join(plan.lora_target_modules),
        quantization=quantization,
        steps=steps,
        learning_rate=plan.learning_rate,
        scheduler=plan.scheduler,
        loss=", ".join(losses) or "not recorded",
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def describe_lineage(
    spec: AttemptSpec, tokenizer: PreTrainedTokenizerBase, *, dataset_hashes: dict[str, str]
) -> dict[str, Any]:
    """All that would be needed to make this adapter again; it goes into the manifest."""
    return {
        "base_model": {"name": spec.model.name, "kind": spec.model.kind, "revision": spec.model.revision},
        "tokenizer_sha256": _hash_tokenizer(tokenizer),
        "chat_template_sha256": _hash_json(tokenizer.chat_template),
        "dataset_sha256": dataset_hashes,
        "plan": spec.plan.model_dump(),
        "parent": {"name": spec.parent.name, "weights_sha256": spec.parent.weights.sha256} if spec.parent else None,
        "seed": spec.plan.seed,
        "resumed_from_step": spec.resume_from.step if spec.resume_from else None,
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
    }


def _hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of what the tokenizer does, whatever files it came from: the tokenizers library's own serialization."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def _hash_json(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
