"""Seconds until a memory estimate: a cold process, a warm one asked something new, and one asked again.

`python -m tests.bench.estimator_speed [--rounds 5]`
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import IO, Any

from tests.bench.machine import ROOT, print_table

MODELS: dict[str, dict[str, Any]] = {
    "Llama 3 70B": {
        "model_type": "llama",
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
    },
    "Gemma 3 27B": {
        "model_type": "gemma3_text",
        "hidden_size": 5376,
        "intermediate_size": 21504,
        "num_hidden_layers": 62,
        "num_attention_heads": 32,
        "num_key_value_heads": 16,
        "head_dim": 128,
        "vocab_size": 262208,
        "sliding_window": 1024,
    },
    "DeepSeek-V3": {
        "model_type": "deepseek_v3",
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "vocab_size": 129280,
        "n_routed_experts": 256,
        "num_experts_per_tok": 8,
        "n_shared_experts": 1,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "first_k_dense_replace": 3,
        "n_group": 8,
        "topk_group": 4,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    rows = [[name, *_measure(config, rounds)] for name, config in MODELS.items()]
    header = ["QLoRA of all linear layers", "cold process", "warm, new question (median, worst)", "asked again"]
    print_table("Seconds until a memory estimate", header, rows)


def _measure(config: dict[str, Any], rounds: int) -> list[str]:
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "workers.estimator"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        _ask(process.stdin, process.stdout, config, tokens=2048)
        cold = time.perf_counter() - began
        warm = [_time(process.stdin, process.stdout, config, tokens=2048 + 512 * n) for n in range(1, rounds + 1)]
        again = _time(process.stdin, process.stdout, config, tokens=2048)
        process.stdin.close()
    return [f"{cold:.1f}", f"{statistics.median(warm):.2f}, {max(warm):.2f}", f"{again:.4f}"]


def _time(questions: IO[str], answers: IO[str], config: dict[str, Any], *, tokens: int) -> float:
    began = time.perf_counter()
    _ask(questions, answers, config, tokens=tokens)
    return time.perf_counter() - began


def _ask(questions: IO[str], answers: IO[str], config: dict[str, Any], *, tokens: int) -> None:
    question = {
        "model_config": config,
        "lora": {"r": 16, "target_modules": "all-linear"},
        "quantization": {"type": "nf4"},
        "training": {"max_seq_length": tokens, "gradient_checkpointing": True, "optimizer": "paged_adamw_8bit"},
    }
    questions.write(json.dumps(question) + "\n")
    questions.flush()
    answer = json.loads(answers.readline())
    if "error" in answer:
        raise SystemExit(answer["error"])


if __name__ == "__main__":
    main()
