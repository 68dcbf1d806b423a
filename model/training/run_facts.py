"""What is known of a run before its first pass: its data, its model's size, its device and number format."""

import torch

from model.config import TrainConfig
from model.data.corpus import Corpus
from model.loss import chunk_rows
from model.transformer import Transformer, flops_per_token, num_params


def run_facts(
    config: TrainConfig, corpus: Corpus, model: Transformer, device: torch.device, dtype: torch.dtype
) -> dict[str, object]:
    """Return the facts under the names that the engine stores, all JSON values.

    Args:
        config: The configuration, with passes as this run makes them.
        corpus: What the run trains on.
        model: What it trains.
        device: Where it computes.
        dtype: Number format of its forward and backward passes.
    """
    num_all_params, num_active_params = num_params(model)
    device_name = "cpu"
    if device.type == "cuda":
        device_name = torch.cuda.get_device_name(device)

    return {
        "data_hash": corpus.data_hash,
        "num_params": num_all_params,
        "num_active_params": num_active_params,
        "flops_per_token": flops_per_token(model),
        "tokens_per_step": config.batch_tokens,
        "pass_sequences": config.pass_sequences,
        "device": device_name,
        "dtype": str(dtype).removeprefix("torch."),
        "vocab_size": corpus.vocab_size,
        "chunk_rows": chunk_rows(corpus.vocab_size, device),
    }
