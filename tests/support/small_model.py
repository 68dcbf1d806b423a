"""Small configurations shared by the tests of model/."""

import torch

from model.config import ModelConfig, TrainConfig
from model.transformer import Transformer

VOCAB_SIZE = 100


def small_shape(**changes: object) -> ModelConfig:
    fields: dict[str, object] = {
        "num_layers": 2,
        "d_model": 32,
        "num_heads": 4,
        "num_kv_heads": 2,
        "d_ff": 48,
        "num_experts": 4,
        "top_k": 2,
        "seq_len": 16,
    }
    return ModelConfig.model_validate(fields | changes)


def small_config(**sections: dict[str, object]) -> TrainConfig:
    fields: dict[str, object] = {
        "model": small_shape().model_dump(),
        "system": {"device": "cpu", "micro_batch_size": 4},
    }
    for name, changes in sections.items():
        fields[name] = {**fields.get(name, {}), **changes}  # type: ignore[dict-item]
    return TrainConfig.model_validate(fields)


def small_model(seed: int = 0, init_std: float = 0.2, **changes: object) -> Transformer:
    """A model with weights large enough that routing, attention and logits are far from uniform."""
    model = Transformer(small_shape(init_std=init_std, **changes), VOCAB_SIZE)
    model.init_weights(torch.Generator().manual_seed(seed))
    return model.eval()


def random_tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCAB_SIZE, (batch, length), generator=torch.Generator().manual_seed(seed))
