"""What a job may go on from: a published adapter, or a checkpoint of a job. Pure rules.

Only weights are taken over: optimizer, schedule and step count begin anew. What gives the weights their shape must
therefore be the parent's; everything else is the parent's unless the user says otherwise.
"""

import re
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from orchestrator.domain.adapter_checks import DOUBLING_INITS
from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.models import ModelFacts
from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.protocol import StoredFile
from orchestrator.domain.spec import AUTO, JobShape, LoraSpec, QuantizationSpec

FINE_TUNED = "ft:"
SHAPING = ("r", "target_modules", "use_dora", "bias")
"""Fields of LoraSpec that decide which tensors an adapter has, and how large they are."""
LARGEST_RANK = 1024
"""LoraSpec's own limit."""
_CHECKPOINT = re.compile(r"(?P<model>ft:.+):ckpt-step-(?P<step>[0-9]{1,15})")

Shape = TypeVar("Shape", bound=JobShape)


class Parent(BaseModel):
    """The weights that a job starts from, as they are stored with it. Exactly one of the two ids is set.

    `name` is what the user wrote; `step` is of the job that made the weights; `key_prefix` is where `weights` lies.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    job_id: str
    adapter_id: str | None
    checkpoint_id: str | None
    step: int
    key_prefix: str
    weights: StoredFile

    @property
    def parent_id(self) -> str:
        found = self.adapter_id or self.checkpoint_id
        assert found is not None
        return found

    @property
    def lineage(self) -> dict[str, Any]:
        """What is shown to users, and goes into the manifest of what is made from it."""
        kept = self.model_dump(include={"name", "job_id", "adapter_id", "checkpoint_id", "step"})
        return kept | {"weights_sha256": self.weights.sha256}


def split_model_name(name: str) -> tuple[str, int | None]:
    """The fine-tuned model's name, and the step when `name` is a checkpoint's: ft:…:ckpt-step-<n>."""
    found = _CHECKPOINT.fullmatch(name)
    return (found["model"], int(found["step"])) if found else (name, None)


def inherit(spec: Shape, plan: TrainingPlan, facts: ModelFacts, *, is_checkpoint: bool = False) -> Shape:
    """The spec with the parent's settings where the user gave none. `plan` is that of the parent's job.

    'auto' counts as not given. Raises InvalidRequestError, naming the field, when the weights could not be loaded.
    """
    lora = _stored_lora(plan, spec.model, is_checkpoint=is_checkpoint)
    given = {name: getattr(spec.lora, name) for name in spec.lora.model_fields_set}
    given = {name: value for name, value in given.items() if value != AUTO}
    if given.get("init", "default") != "default":
        raise InvalidRequestError(
            f"lora.init {given['init']!r} would replace the weights of {spec.model}; leave it out", param="lora.init"
        )
    for name in SHAPING:
        if name in given and _comparable(given[name], facts) != _comparable(getattr(lora, name), facts):
            raise InvalidRequestError(
                f"lora.{name} is {_show(given[name])}, but {spec.model} has {_show(getattr(lora, name))}, and weights "
                "of another shape cannot be loaded; leave it out",
                code="differs_from_parent",
                param=f"lora.{name}",
            )
    kept = {name: value for name, value in given.items() if name not in SHAPING}
    quantization = {
        name: getattr(spec.quantization, name)
        for name in spec.quantization.model_fields_set
        if getattr(spec.quantization, name) != AUTO
    }
    stored = QuantizationSpec(type=plan.quantization, double_quant=plan.double_quant, compute_dtype=plan.compute_dtype)
    return spec.model_copy(
        update={"lora": lora.model_copy(update=kept), "quantization": stored.model_copy(update=quantization)}
    )


def _stored_lora(plan: TrainingPlan, name: str, *, is_checkpoint: bool) -> LoraSpec:
    """How the stored weights are shaped and scaled, which with some inits is not as their job trained them.

    PiSSA and OLoRA are published with twice the rank, and alpha so that the scale is the same; their checkpoints fit
    only base weights that the start of the adapter was taken out of.
    """
    rank, alpha = plan.lora_r, float(plan.lora_alpha)
    if plan.lora_init in DOUBLING_INITS:
        alpha *= 2**0.5 if plan.use_rslora else 2
        rank *= 2
        if is_checkpoint or rank > LARGEST_RANK or not alpha.is_integer():
            raise InvalidRequestError(
                f"{name} cannot be continued from, because it began with lora.init {plan.lora_init!r}",
                code="parent_not_continuable",
                param="model",
            )
    return LoraSpec(
        r=rank,
        alpha=int(alpha),
        dropout=plan.lora_dropout,
        target_modules=plan.lora_target_modules,
        bias=plan.lora_bias,
        use_rslora=plan.use_rslora,
        use_dora=plan.use_dora,
    )


def _comparable(value: Any, facts: ModelFacts) -> Any:
    """Names of modules have no order, and 'all-linear' stands for some."""
    if value == "all-linear":
        return facts.linear_names
    return frozenset(value) if isinstance(value, tuple) else value


def _show(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
