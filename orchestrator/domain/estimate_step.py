"""How long one micro-batch takes: what it consists of, over how fast the device is at each. Pure.

Products of matrices. Per token and weight of a linear layer 2 FLOPs forward and 2 for the gradient of the activations;
the frozen weights need no gradient, the adapters' take 2 more. Attention adds 4 T Q per block and token for its two
products, twice that in backward. The head's product is of all positions, and the fused head repeats it; a worker on a
CPU computes labelled positions only (`workers.builders.loss`). Checkpointing repeats the blocks' forward.

Passes over memory. Norms, activations, residuals, casts, an adapter's sums and a dropout's mask move elements at a pace
of their own: on a CPU and a small model more than half of the time.

Calls. Each module costs time however few tokens there are, and more when its weights are quantized.

The constants are in the units of `domain.speed`, so that they carry over to other machines. Fitted on 25 November 2026
on two idle EPYC cores with AVX512-BF16 to 44 runs of `workers.recipes.sft`: SmolLM2-135M and two random Llamas of width
1024 and 2048, 106 to 1060 tokens, with and without NF4, checkpointing, dropout, DoRA, adapters on two or on all layers.
"""

from dataclasses import dataclass

from orchestrator.domain.batches import MicroBatch, even_batch
from orchestrator.domain.estimate_weights import measure_adapter
from orchestrator.domain.models import ModelFacts
from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.speed import DeviceSpeed

ATTENTION_SHARE = 0.42
"""Of the rate of plain products that attention's reach: softmax and masks are in it."""
BLOCK_PASSES = 3.0
"""Over what a linear layer reads and writes, forward and backward: norms, rotations, activations, residuals."""
ADAPTER_PASSES = 1.8
DROPOUT_PASSES = 11.5
"""Over what an adapter reads. Random numbers are slow on a CPU."""
LOGIT_PASSES = 9.0
FORWARD_LOGIT_PASSES = 2.0
BLOCK_CALLS, ADAPTER_CALLS = 28.0, 3.0
QUANTIZED_CALLS = 2.0
"""Per module and time that its weights are unpacked: forward, backward, and when they are computed again."""
UNPACKING_PASSES = {"nf4": 0.12, "fp4": 0.12, "int8": 0.6}
DORA_PASSES = 6.0
"""Over the weights in each forward: the norms of their rows, which change with the adapter."""
FORWARD_SHARE = 1 / 3
"""Of passes and calls that the forward pass takes."""
TILE_TOKENS, FUSED_BYTES_PER_CELL, DIRECT_BYTES_PER_CELL, TILE_WORDS = 4096, 29, 16, 32_768
"""When a worker on a CPU computes labelled positions only: `workers.builders.loss` says where they are from."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is to be done: FLOPs of products and of attention, elements to be passed over, and calls, in modules."""

    flops: float
    attention_flops: float
    passes: float
    calls: float

    def seconds(self, speed: DeviceSpeed, dtype: str, *, scale: float = 1.0) -> float:
        """`scale` is of the products."""
        rate = speed.flops_per_second(dtype)
        products = self.flops / rate + self.attention_flops / (ATTENTION_SHARE * rate)
        return scale * products + self.passes / speed.elements_per_second + self.calls / speed.modules_per_second


def measure_training(
    plan: TrainingPlan, facts: ModelFacts, batch: MicroBatch, *, labelled: float, speed: DeviceSpeed
) -> Load:
    """Of one micro-batch, forward and backward. `labelled` is the share of tokens that have a loss."""
    again = 1 if plan.gradient_checkpointing else 0
    adapters = measure_adapter(plan, facts).parameters
    tokens, widths = batch.padded_tokens, facts.linear_widths
    positions, is_direct = _count_positions(facts, batch, labelled=labelled, direct=speed.kind == "cpu")
    head = (4 if is_direct else 6) * facts.vocab_size * facts.hidden_size * positions
    repeats = 1 + again * FORWARD_SHARE
    block_passes = tokens * (BLOCK_PASSES * widths + _adapter_passes(plan, facts))
    return Load(
        flops=tokens * ((4 + 2 * again) * facts.linear_parameters + (6 + 2 * again) * adapters) + head,
        attention_flops=(3 + again) * _attention_flops(facts, batch),
        passes=repeats * block_passes
        + LOGIT_PASSES * positions * facts.vocab_size
        + _weight_passes(plan, facts, times=2 + again),
        calls=repeats * _calls(plan, facts) + _unpacking_calls(plan, facts, times=2 + again),
    )


def measure_evaluation(plan: TrainingPlan, facts: ModelFacts, batch: MicroBatch) -> Load:
    """Of one micro-batch, forward only, with the fused head; nothing is dropped."""
    adapters = measure_adapter(plan, facts).parameters
    tokens = batch.padded_tokens
    per_token = 2 * (facts.linear_parameters + adapters + facts.vocab_size * facts.hidden_size)
    block_passes = BLOCK_PASSES * facts.linear_widths + ADAPTER_PASSES * _adapted_widths(plan, facts)[1]
    return Load(
        flops=tokens * per_token,
        attention_flops=_attention_flops(facts, batch),
        passes=tokens * (FORWARD_SHARE * block_passes + FORWARD_LOGIT_PASSES * facts.vocab_size)
        + _weight_passes(plan, facts, times=1),
        calls=FORWARD_SHARE * _calls(plan, facts) + _unpacking_calls(plan, facts, times=1),
    )


def compare_steps(plan: TrainingPlan, changed: TrainingPlan, facts: ModelFacts, speed: DeviceSpeed) -> float:
    """How many times as long the changed plan takes for as many rows, all at the full length."""
    before, after = (
        measure_training(
            one, facts, even_batch(one.micro_batch_rows, one.max_seq_tokens), labelled=1.0, speed=speed
        ).seconds(speed, one.compute_dtype)
        / one.micro_batch_rows
        for one in (plan, changed)
    )
    return after / before


def _count_positions(facts: ModelFacts, batch: MicroBatch, *, labelled: float, direct: bool) -> tuple[float, bool]:
    """Positions of which logits are computed, over all rows of the micro-batch, and whether they are the labelled ones.

    Those are the same for all rows of a micro-batch: from where the first answer begins to the longest row's end.
    """
    kept = max(labelled * batch.tokens, batch.tokens - (1 - labelled) * batch.shortest)
    kept_bytes = DIRECT_BYTES_PER_CELL * batch.rows * kept * facts.vocab_size
    fused_bytes = FUSED_BYTES_PER_CELL * TILE_WORDS * min(batch.padded_tokens, TILE_TOKENS)
    is_direct = direct and kept_bytes <= fused_bytes
    return (batch.rows * kept, True) if is_direct else (batch.padded_tokens, False)


def _attention_flops(facts: ModelFacts, batch: MicroBatch) -> float:
    return 4 * batch.rows * batch.squares * facts.num_attention_heads * facts.head_dim * facts.num_layers


def _adapted_widths(plan: TrainingPlan, facts: ModelFacts) -> tuple[int, int, int]:
    """Of the layers with an adapter: elements read for a token, read and written, and how many layers."""
    groups = [group for group in facts.linear_groups if group.name in plan.lora_target_modules]
    reads = sum(group.in_features * group.count for group in groups)
    writes = sum(group.out_features * group.count for group in groups)
    return reads, reads + writes, sum(group.count for group in groups)


def _adapter_passes(plan: TrainingPlan, facts: ModelFacts) -> float:
    reads, widths, _ = _adapted_widths(plan, facts)
    return ADAPTER_PASSES * widths + (DROPOUT_PASSES * reads if plan.lora_dropout else 0.0)


def _weight_passes(plan: TrainingPlan, facts: ModelFacts, *, times: int) -> float:
    """`times` of use: once in each forward, once in backward."""
    unpacked = UNPACKING_PASSES.get(plan.quantization, 0.0) * times
    normed = DORA_PASSES * max(1, times - 1) if plan.use_dora else 0.0
    return facts.linear_parameters * (unpacked + normed)


def _calls(plan: TrainingPlan, facts: ModelFacts) -> float:
    return BLOCK_CALLS * facts.num_layers + ADAPTER_CALLS * _adapted_widths(plan, facts)[2]


def _unpacking_calls(plan: TrainingPlan, facts: ModelFacts, *, times: int) -> float:
    if plan.quantization == "none":
        return 0.0
    return QUANTIZED_CALLS * times * sum(group.count for group in facts.linear_groups)
