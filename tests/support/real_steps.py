"""The same two steps predicted and really run on a CPU, in a plain loop of float32, where CPU and GPU run alike."""

from typing import Any

import torch
from torch import nn
from transformers import Adafactor

from tests.support.architectures import make_request
from tests.support.storages import StorageCount
from workers.estimator.build import build_model, read_config
from workers.estimator.depth import Plan, Recording, stretch
from workers.estimator.request import Request
from workers.estimator.step import record_steps

DEPTH, TOKENS = 4, 32
TOLERANCE_BYTES = 8192
"""Of numbers by the dozen that on a GPU stay on the host: AdamW's step counts, and the loss."""

OPTIMIZERS: dict[str, Any] = {
    "adamw": lambda trained: torch.optim.AdamW(trained, fused=True),
    "adamw_torch": lambda trained: torch.optim.AdamW(trained, foreach=True),
    "sgd": lambda trained: torch.optim.SGD(trained, lr=0.1, foreach=True),
    "sgd_momentum": lambda trained: torch.optim.SGD(trained, lr=0.1, momentum=0.9, foreach=True),
    "adagrad": lambda trained: torch.optim.Adagrad(trained, foreach=True),
    "rmsprop": lambda trained: torch.optim.RMSprop(trained, foreach=True),
    "adafactor": lambda trained: Adafactor(trained, lr=0.1, scale_parameter=False, relative_step=False),
}


def make_plain_request(lora: dict[str, Any] | None, **training: Any) -> Request:
    plain = {
        "max_seq_length": TOKENS,
        "padded": False,
        "dtype": "float32",
        "attention": "eager",
        "loss": "materialized",
        "optimizer": "adamw_torch",
        "keeps_outputs": True,
    }
    fields = make_request("llama", depth=DEPTH, lora=lora, training={**plain, **training})
    fields["model_config"] |= {"hidden_size": 256, "intermediate_size": 510}
    return Request.model_validate(fields)


def predict(request: Request) -> Recording:
    """Without stretching, so that nothing but the steps is compared."""
    recorded = record_steps(build_model(request, read_config(request)), request)
    return stretch(recorded, Plan(first=0, period=1, copies=0, depth=DEPTH))


def make_real(request: Request) -> nn.Module:
    """The request's model with memory behind it."""
    model = build_model(request, read_config(request)).to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(0.01)
    return model


def count_stored(model: nn.Module, count: StorageCount) -> None:
    for tensor in (*model.parameters(), *model.buffers()):
        count.add(tensor)


def train(model: nn.Module, request: Request, count: StorageCount) -> None:
    """Two steps; the first has half as many tokens, as the estimator assumes of loops that keep their outputs."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other on a busy machine
    try:
        _run(model, request, trained, count)
    finally:
        torch.set_num_threads(threads)


def _run(model: nn.Module, request: Request, trained: list[nn.Parameter], count: StorageCount) -> None:
    with count:
        optimizer = OPTIMIZERS[request.training.optimizer](trained)
        for tokens in (TOKENS // 2, TOKENS):
            ids = torch.zeros(1, tokens, dtype=torch.int64)
            outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, num_items_in_batch=1)
            outputs.loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
