"""The demo's recipe as one writes it by hand with transformers, PEFT and TRL: the overhead is measured against it.

`python -m tests.bench.by_hand MODEL_FOLDER TRAIN_FILE STEPS` prints, as JSON, the moment at which each step ended.
Data preparation is shared with the worker, so that both train on the same token ids; the rest is stock.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer

from workers.builders.data import Collator, build_dataset, load_rows

ROWS_PER_STEP = 4
MAX_TOKENS = 512
LORA_R = 16


class Stopwatch(TrainerCallback):
    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
        self.ends.append(time.time())


def main() -> None:
    folder, data, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=quantization)
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as output:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=output,
                max_steps=steps,
                per_device_train_batch_size=ROWS_PER_STEP,
                activation_checkpointing=False,
                gradient_checkpointing=False,
                learning_rate=2e-4,
                optim="adamw_torch_fused",
                bf16=True,
                use_cpu=True,
                dataloader_pin_memory=False,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                max_length=None,
                dataset_kwargs={"skip_prepare_dataset": True},
            ),
            data_collator=Collator(pad_token_id=tokenizer.pad_token_id or 0, multiple=1),
            train_dataset=build_dataset(load_rows(data, tokenizer, max_tokens=MAX_TOKENS)),
            processing_class=tokenizer,
            peft_config=LoraConfig(task_type="CAUSAL_LM", r=LORA_R, lora_alpha=2 * LORA_R, target_modules="all-linear"),
            callbacks=[watch],
        )
        trainer.train()
    sys.stdout.write("\n" + json.dumps(watch.ends) + "\n")


if __name__ == "__main__":
    main()
