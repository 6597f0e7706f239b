"""Bytes of activations and of the loss in one micro-batch, for a Llama-like block with LoRA.

Notation, all per token: H hidden, Q query heads x head size, K key-value heads x head size, I intermediate, r rank,
V vocabulary, N = B x T tokens of a micro-batch, e bytes of a number in the compute dtype. What autograd keeps of one
block, found by listing the storages alive at the peak (torch 2.13, transformers 5.23, PEFT 0.21, TRL 1.16):

    norms       an fp32 copy of what each normalizes                     4 H each, two of them in most models
    attention   q, k, v and the output (k and v repeated to Q when
                there is a padding mask), log-sum-exp per head           e (2 Q + 2 K or 2 Q) + 4 per head
    mask        16-bit bias [B, 1, T, T], made anew in each block        e T
    MLP         gate and up projections, activated gate                  e 3 I
    LoRA        each target's input, and A's output                      e (in + r)

A frozen linear layer keeps nothing. Inputs of q, k, v are one tensor, as are those of gate and up, unless the adapters
are fp32 under autocast: PEFT then casts the input for each target anew. Dropout keeps its mask (a byte per input on
CUDA, a number on CPU) and takes the sharing away. DoRA keeps the base's and the adapter's output.

With gradient checkpointing only each block's input stays (e H per block), and one block is there in full, recomputed.

The loss of TRL's fused head never builds [N, V] logits: it works on tiles of 4096 tokens x 32768 words. A tile is e
bytes a cell, allocated in full width; on CPU its backward holds seven more fp32 copies and a mask (29 bytes a cell). So
on CPU the worker builds the logits of the labelled positions instead, wherever that takes less; here all are labelled.

Against those storages the sum was right within 4 % for {none, nf4, fp32} x {checkpointing on, off} on models of 6 x 576
and 4 x 1024 at 2 x 512 tokens (23 November 2026).
"""

from dataclasses import dataclass

from orchestrator.domain.estimate_weights import compute_bytes, get_target_groups, measure_adapter
from orchestrator.domain.models import LinearGroup, ModelFacts
from orchestrator.domain.placement import DeviceKind
from orchestrator.domain.plan import TrainingPlan

FP32_BYTES = 4
TILE_TOKENS = 4096
TILE_WORDS = 32_768
"""TRL 1.16: `TOKEN_CHUNK_SIZE` and `_CHUNKED_LOGPROB_CHUNK_SIZE`."""
CPU_TILE_CELL_BYTES = 29
"""`_backward_tile` at its peak: seven fp32 tensors and a mask, beside the tile itself (found in its source)."""
CPU_LOGIT_BYTES = 16
"""Per logit that is built: 12 measured by the worker (`workers.builders.loss`), with room for a masked copy."""
DORA_CELL_BYTES = 24
"""Per weight of the largest DoRA target: the norm of base + B A in fp32, with its temporaries (measured on CPU)."""
INT8_CELL_BYTES = 6
"""Per weight of the largest int8 layer in backward: dequantized to fp32 and then to the compute dtype."""
INT8_CPU_TOKEN_BYTES = 28
"""Per token and intermediate unit: bitsandbytes multiplies int8 on CPU in fp32 (measured)."""
LARGEST_HEAP_BYTES = 32 * 2**20
"""glibc maps larger blocks apart and gives them back at once (`DEFAULT_MMAP_THRESHOLD_MAX`)."""
ATTENTION_INPUT = frozenset({"q_proj", "k_proj", "v_proj"})
MLP_INPUT = frozenset({"gate_proj", "up_proj"})
QK_NORM_MODELS = frozenset({"qwen3", "qwen3_moe", "gemma3", "gemma3_text", "olmo2"})
FOUR_NORM_MODELS = frozenset({"gemma2", "gemma3", "gemma3_text"})


@dataclass(frozen=True, kw_only=True)
class ActivationEstimate:
    """`held_bytes` are alive when the loss is computed. The loss and one block's backward then need room in turn.

    `heap_bytes`: what all blocks' forward passes take from malloc's heap, see `estimate.CPU_HEAP_SHARE`.
    """

    held_bytes: int
    loss_bytes: int
    block_bytes: int
    heap_bytes: int


def estimate_activations(plan: TrainingPlan, facts: ModelFacts, kind: DeviceKind) -> ActivationEstimate:
    """Bytes of one micro-batch whose rows are all `max_seq_tokens` long."""
    tokens = plan.micro_batch_rows * plan.max_seq_tokens
    wide, hidden, layers = compute_bytes(plan), facts.hidden_size, facts.num_layers
    block = _saved_in_block(plan, facts, kind)
    ends = 3 * wide * hidden + FP32_BYTES * hidden
    per_layer = wide * hidden if plan.gradient_checkpointing else block
    if plan.quantization == "int8" and (plan.gradient_checkpointing or casts_inputs(plan, kind)):
        per_layer += _kept_by_int8(plan, facts)
    held = tokens * (layers * per_layer + ends)
    if casts_adapters(plan):
        held += wide * measure_adapter(plan, facts).parameters
    working = tokens * _block_temporaries(plan, facts, kind) + _weight_temporaries(plan, facts)
    if plan.gradient_checkpointing:
        working += tokens * block
    return ActivationEstimate(
        held_bytes=held,
        loss_bytes=_loss_bytes(plan, facts, kind, tokens=tokens),
        block_bytes=working,
        heap_bytes=layers * _block_on_heap(plan, facts, block, tokens=tokens),
    )


def _block_on_heap(plan: TrainingPlan, facts: ModelFacts, block: int, *, tokens: int) -> int:
    """What of a block's `block` bytes per token is below malloc's limit: four tensors of the MLP are the widest."""
    width = compute_bytes(plan) * facts.intermediate_size
    wide = min(block, 4 * width)
    return wide * min(tokens, LARGEST_HEAP_BYTES // width) + (block - wide) * tokens


def casts_adapters(plan: TrainingPlan) -> bool:
    """Whether autocast makes 16-bit copies of the adapters, which are always kept in fp32."""
    return compute_bytes(plan) == 2


def casts_inputs(plan: TrainingPlan, kind: DeviceKind) -> bool:
    """Whether PEFT casts a target's input to the adapter's fp32: always but for quantized layers under CUDA's autocast.

    (`Linear4bit.forward` asks `torch.is_autocast_enabled()`, which knows CUDA's state only.)
    """
    return casts_adapters(plan) and (plan.quantization == "none" or kind == "cpu")


def _saved_in_block(plan: TrainingPlan, facts: ModelFacts, kind: DeviceKind) -> int:
    """What autograd keeps of one block, per token."""
    wide, hidden = compute_bytes(plan), facts.hidden_size
    query = facts.num_attention_heads * facts.head_dim
    key = facts.num_key_value_heads * facts.head_dim
    masked = plan.packing or plan.micro_batch_rows > 1
    norms = (4 if facts.model_type in FOUR_NORM_MODELS else 2) * FP32_BYTES * hidden
    if facts.model_type in QK_NORM_MODELS:
        norms += FP32_BYTES * (query + key)
    attention = wide * (2 * query + 2 * (query if masked else key)) + FP32_BYTES * facts.num_attention_heads
    if masked:
        row_tokens = plan.max_seq_tokens * (plan.micro_batch_rows if plan.packing else 1)
        attention += wide * row_tokens
    mlp = 3 * wide * facts.intermediate_size
    return norms + attention + mlp + _saved_by_lora(plan, facts, kind)


def _kept_by_int8(plan: TrainingPlan, facts: ModelFacts) -> int:
    """bitsandbytes' int8 product keeps its input by itself, unseen by checkpointing; per token and block."""
    query = facts.num_attention_heads * facts.head_dim
    return compute_bytes(plan) * (2 * facts.hidden_size + query + facts.intermediate_size)


def _saved_by_lora(plan: TrainingPlan, facts: ModelFacts, kind: DeviceKind) -> int:
    """Per token and block, over all targets. `count` is over the whole model, so it is shared out over the blocks."""
    wide, casts = compute_bytes(plan), casts_inputs(plan, kind)
    groups = get_target_groups(plan, facts)
    shared = not casts and plan.lora_dropout == 0
    total = 0
    for group in groups:
        saved = wide * plan.lora_r
        if not (shared and _is_shared(group, groups)):
            saved += wide * group.in_features
        if plan.lora_dropout > 0:
            noise = FP32_BYTES if casts else wide
            saved += group.in_features * (noise if kind == "cpu" else 1)
        if plan.use_dora:
            saved += 2 * wide * group.out_features
        total += saved * group.count
    return -(-total // facts.num_layers)


def _is_shared(group: LinearGroup, groups: tuple[LinearGroup, ...]) -> bool:
    """Whether an earlier target counted the same input already."""
    for family in (ATTENTION_INPUT, MLP_INPUT):
        if group.name in family:
            return min(other.name for other in groups if other.name in family) != group.name
    return False


def _block_temporaries(plan: TrainingPlan, facts: ModelFacts, kind: DeviceKind) -> int:
    """Gradients that one block's backward holds at once, per token; the widest moment is at the down projection."""
    wide = compute_bytes(plan)
    widest = max((group.in_features for group in get_target_groups(plan, facts)), default=0)
    temporaries = 2 * wide * facts.intermediate_size + 2 * FP32_BYTES * facts.hidden_size
    if casts_inputs(plan, kind):
        temporaries += FP32_BYTES * widest * (2 if plan.lora_dropout > 0 else 1)
    if plan.quantization == "int8":
        temporaries += (INT8_CPU_TOKEN_BYTES if kind == "cpu" else FP32_BYTES) * facts.intermediate_size
    return temporaries


def _weight_temporaries(plan: TrainingPlan, facts: ModelFacts) -> int:
    """The largest weight, unpacked for one multiplication."""
    largest = max((group.out_features * group.in_features for group in facts.linear_groups), default=0)
    needed = {"nf4": compute_bytes(plan), "fp4": compute_bytes(plan), "int8": INT8_CELL_BYTES}.get(plan.quantization, 0)
    if plan.use_dora:
        needed += DORA_CELL_BYTES
    return needed * largest


def _loss_bytes(plan: TrainingPlan, facts: ModelFacts, kind: DeviceKind, *, tokens: int) -> int:
    """The fused head's backward over one tile, and the fp32 gradient of the last hidden state [N, H]."""
    rows, words = min(tokens, TILE_TOKENS), min(facts.vocab_size, TILE_WORDS)
    tile = compute_bytes(plan) * rows * TILE_WORDS
    gradient = FP32_BYTES * tokens * facts.hidden_size
    if kind == "cuda":
        return tile + gradient
    folding = CPU_TILE_CELL_BYTES * rows * words
    multiplying = FP32_BYTES * words * (rows + facts.hidden_size)
    fused = tile + gradient + max(folding, multiplying)
    return min(fused, CPU_LOGIT_BYTES * tokens * facts.vocab_size)
