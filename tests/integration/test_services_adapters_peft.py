"""What the installed PEFT really writes passes the checks, for every kind of adapter that a job may ask for."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM

from orchestrator.domain.adapter_checks import BadArtifactError, check_config, check_tensors
from orchestrator.domain.models import TensorHeader, read_model_facts
from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.safetensors import SafetensorsHeader
from orchestrator.domain.safetensors_scan import SafetensorsScan
from tests.support.adapters import make_plan

BASE = Qwen2Config(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=64,
    architectures=["Qwen2ForCausalLM"],
)
"""Qwen2 has biases on some of its layers."""
KINDS: list[dict[str, Any]] = [
    {},
    {"lora_bias": "all"},
    {"lora_bias": "lora_only"},
    {"use_dora": True},
    {"use_rslora": True},
    {"lora_init": "gaussian"},
    {"lora_init": "pissa"},
    {"lora_init": "olora", "use_rslora": True},
]


def _save(plan: TrainingPlan, folder: Path) -> None:
    init = {"default": True}.get(plan.lora_init, plan.lora_init)
    model = Qwen2ForCausalLM(BASE)
    model.name_or_path = "smol"
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=plan.lora_r,
        lora_alpha=plan.lora_alpha,
        lora_dropout=plan.lora_dropout,
        target_modules=list(plan.lora_target_modules),
        bias=plan.lora_bias,
        use_rslora=plan.use_rslora,
        use_dora=plan.use_dora,
        init_lora_weights=init,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, config)
        initial = None
        if plan.lora_init in {"pissa", "olora"}:
            initial = folder / "initial"
            adapted.save_pretrained(str(initial), save_embedding_layers=False)
        adapted.save_pretrained(
            str(folder),
            save_embedding_layers=False,
            path_initial_model_for_weight_conversion=str(initial) if initial else None,
        )


def _read_header(folder: Path) -> SafetensorsHeader:
    data = (folder / "adapter_model.safetensors").read_bytes()
    scan = SafetensorsScan(len(data))
    scan.feed(data)
    return scan.finish()


@pytest.mark.parametrize("kind", KINDS)
def test_what_peft_writes_passes(kind: dict[str, Any], tmp_path: Path) -> None:
    plan = make_plan(**kind)
    _save(plan, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    header = _read_header(tmp_path)
    weights = [TensorHeader(name=name, shape=tuple(w.shape)) for name, w in Qwen2ForCausalLM(BASE).state_dict().items()]
    facts = read_model_facts(BASE.to_dict(), weights, chat_template=True)
    check_config(config, plan, base_models={"smol"})
    check_tensors(header, plan, facts)
    with pytest.raises(BadArtifactError):
        check_config({**config, "r": 2 * config["r"]}, plan, base_models={"smol"})
    with pytest.raises(BadArtifactError):
        check_tensors(header, plan.model_copy(update={"lora_r": 2 * plan.lora_r}), facts)
