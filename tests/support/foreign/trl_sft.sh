#!/usr/bin/env bash
# Fine-tunes on one GPU.
set -euo pipefail
export TOKENIZERS_PARALLELISM=false

trl sft \
  --model_name_or_path "Qwen/Qwen2.5-0.5B-Instruct" \
  --dataset_name trl-lib/Capybara \
  --learning_rate 2.0e-4 --num_train_epochs=2 \
  --packing --per_device_train_batch_size 2 \
  --use_peft --lora_r 8 --lora_target_modules q_proj v_proj \
  --load_in_4bit true \
  --warmup_steps 0.05 \
  --neftune_noise_alpha 5 \
  --output_dir out && echo done
