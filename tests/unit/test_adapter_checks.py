"""What PEFT writes passes; what says anything else than the plan does not."""

import json
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from orchestrator.domain.adapter_checks import BadArtifactError, check_config, check_tensors
from orchestrator.domain.artifacts import build_model_name
from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.safetensors import SafetensorsHeader
from orchestrator.domain.safetensors_scan import SafetensorsScan
from tests.support.adapters import FACTS, PEFT_CONFIG, make_plan, make_weights

PLAN = make_plan()


def _header(arrays: dict[str, np.ndarray]) -> SafetensorsHeader:
    data = save(arrays)
    scan = SafetensorsScan(len(data))
    scan.feed(data)
    return scan.finish()


def _check_config(plan: TrainingPlan = PLAN, **changes: Any) -> None:
    check_config({**PEFT_CONFIG, **changes}, plan, base_models={"smol"})


def test_what_peft_writes_passes() -> None:
    _check_config()
    check_tensors(_header(make_weights()), PLAN, FACTS)
    check_tensors(_header(make_weights()), PLAN, None)
    _check_config(a_feature_of_a_later_peft=None, another=False, third=[], fourth={})


@pytest.mark.parametrize(
    "changes",
    [
        {"r": 8},
        {"r": 4.5},
        {"r": True},
        {"r": "4"},
        {"lora_alpha": 9},
        {"lora_alpha": None},
        {"lora_alpha": "8"},
        {"lora_dropout": 0.1},
        {"bias": "all"},
        {"use_dora": True},
        {"use_rslora": 1},
        {"base_model_name_or_path": "evil/model"},
        {"base_model_name_or_path": None},
        {"target_modules": ["q_proj"]},
        {"target_modules": ["q_proj", "down_proj", "lm_head"]},
        {"target_modules": "q_proj|down_proj"},
        {"target_modules": [["q_proj"], "down_proj"]},
        {"peft_type": "IA3"},
        {"task_type": None},
        {"task_type": "SEQ_CLS"},
        {"auto_mapping": {"base_model_class": "X", "parent_library": "os"}},
        {"megatron_core": "os"},
        {"megatron_config": {"a": 1}},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 64}},
        {"layers_to_transform": [0]},
        {"layer_replication": [[0, 1]]},
        {"init_lora_weights": "eva"},
        {"init_lora_weights": 1},
        {"inference_mode": 0},
        {"loftq_config": {"loftq_bits": 4}},
        {"exclude_modules": ".*"},
        {"peft_version": "x" * 101},
        {"peft_version": 7},
        {"a_feature_of_a_later_peft": "os.system"},
        {"a_feature_of_a_later_peft": 0},
    ],
)
def test_a_config_that_says_anything_else_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadArtifactError, match=r"adapter_config\.json"):
        _check_config(**changes)


def test_every_key_of_the_plan_must_be_there() -> None:
    needed = {"r", "lora_alpha", "lora_dropout", "bias", "use_rslora", "use_dora", "target_modules", "peft_type"}
    needed |= {"task_type", "base_model_name_or_path"}
    for key in needed:
        with pytest.raises(BadArtifactError):
            check_config({k: v for k, v in PEFT_CONFIG.items() if k != key}, PLAN, base_models={"smol"})
    check_config({key: PEFT_CONFIG[key] for key in needed}, PLAN, base_models={"smol", "hub/smol"})


def test_inits_that_double_the_rank_are_known() -> None:
    pissa = make_plan(lora_init="pissa")
    _check_config(pissa, r=8, lora_alpha=16)
    check_tensors(_header(make_weights(r=8)), pissa, FACTS)
    _check_config(make_plan(lora_init="olora", use_rslora=True), r=8, lora_alpha=8 * 2**0.5, use_rslora=True)
    for wrong in ({}, {"r": 8}, {"r": 8, "lora_alpha": 8}):
        with pytest.raises(BadArtifactError):
            _check_config(pissa, **wrong)
    with pytest.raises(BadArtifactError):
        check_tensors(_header(make_weights()), pissa, FACTS)


def _q(part: str, layer: int = 0) -> str:
    return f"base_model.model.model.layers.{layer}.self_attn.q_proj.{part}"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({_q("lora_A.weight"): None}, "does not have exactly its matrices"),
        ({_q("lora_B.weight"): None}, "does not have exactly its matrices"),
        ({_q("lora_magnitude_vector"): np.ones(16)}, "does not have exactly its matrices"),
        ({_q("lora_A.weight"): np.ones((8, 16)), _q("lora_B.weight"): np.ones((16, 8))}, "other shapes"),
        ({_q("lora_A.weight"): np.ones((4, 17))}, "other shapes"),
        ({_q("lora_B.weight"): np.ones((17, 4))}, "other shapes"),
        ({_q("lora_A.weight"): np.ones((4, 16, 1))}, "other shapes"),
        ({_q("lora_A.weight"): np.ones(64)}, "other shapes"),
        ({_q("bias"): np.ones(16)}, "no tensor of a LoRA adapter"),
        ({"lm_head.weight": np.ones(16)}, "no tensor of a LoRA adapter"),
        ({"base_model.model.q_proj/../x.lora_A.weight": np.ones(16)}, "no tensor of a LoRA adapter"),
        ({"base_model.model.lm_head.lora_A.weight": np.ones((4, 16))}, "is not a module of the job's plan"),
    ],
)
def test_tensors_that_are_not_the_plans_are_refused(changes: dict[str, Any], reason: str) -> None:
    arrays = {**make_weights(), **changes}
    with pytest.raises(BadArtifactError, match=reason):
        check_tensors(_header({name: array for name, array in arrays.items() if array is not None}), PLAN, FACTS)


def test_an_adapter_without_matrices_is_refused() -> None:
    with pytest.raises(BadArtifactError, match="no LoRA matrix"):
        check_tensors(_header({}), PLAN, FACTS)


def test_dora_and_biases_belong_to_plans_that_ask_for_them() -> None:
    weights = make_weights()
    names = {name.rsplit(".lora_", 1)[0]: array.shape[0] for name, array in weights.items() if "lora_B" in name}
    magnitudes = {f"{name}.lora_magnitude_vector": np.ones(size, np.float32) for name, size in names.items()}
    check_tensors(_header({**weights, **magnitudes}), make_plan(use_dora=True), FACTS)
    with pytest.raises(BadArtifactError):
        check_tensors(_header(weights), make_plan(use_dora=True), FACTS)
    biases = {_q("base_layer.bias"): np.ones(16, np.float32)}
    check_tensors(_header({**weights, **biases}), make_plan(lora_bias="lora_only"), FACTS)
    with pytest.raises(BadArtifactError):
        check_tensors(_header({**weights, _q("base_layer.bias"): np.ones((4, 4))}), make_plan(lora_bias="all"), FACTS)


def test_layers_that_store_their_weights_transposed_fit_too() -> None:
    turned = FACTS.model_copy(
        update={
            "linear_groups": tuple(
                group.model_copy(update={"out_features": group.in_features, "in_features": group.out_features})
                for group in FACTS.linear_groups
            )
        }
    )
    check_tensors(_header(make_weights()), PLAN, turned)


@pytest.mark.parametrize(
    ("base_model", "suffix", "name"),
    [
        ("smol", None, "ft:smol:team-a::89abcdef"),
        ("HuggingFaceTB/SmolLM2-135M", "tickets", "ft:HuggingFaceTB--SmolLM2-135M:team-a:tickets:89abcdef"),
        ("/models/my model:v1/", "a.b", "ft:models--my-model-v1:team-a:a.b:89abcdef"),
        ("ü/../..", None, "ft:---..--..:team-a::89abcdef"),
    ],
)
def test_the_models_name_has_no_slash_and_four_colons(base_model: str, suffix: str | None, name: str) -> None:
    made = build_model_name(base_model=base_model, team_name="team-a", suffix=suffix, job_id="ftjob-0123456789abcdef")
    assert made == name
    assert made.count(":") == 4
    assert "/" not in made


def test_the_captured_config_is_json() -> None:
    assert json.loads(json.dumps(PEFT_CONFIG)) == PEFT_CONFIG
