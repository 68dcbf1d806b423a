"""Trained weights as a folder that transformers loads as Qwen3MoeForCausalLM, and back.

Each expert gets its own matrices on disk, the layout that every version of transformers and other runtimes read.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from model.config import ModelConfig
from model.inference.shape_check import model_of_shape
from model.training.checkpoint import as_readable_as_its_folder
from model.transformer import Transformer, padded_vocab_size

WEIGHTS = "model.safetensors"
_ALWAYS = (
    "model_type",
    "head_dim",
    "decoder_sparse_step",
    "mlp_only_layers",
    "hidden_act",
    "attention_bias",
    "tie_word_embeddings",
    "use_sliding_window",
)
"""Fields of config.json that follow from the others in what is exported here; another value is another model."""


def export(
    folder: Path,
    weights: Mapping[str, Tensor],
    config: ModelConfig,
    vocab_size: int,
    eos_id: int | None = None,
    tokenizer_path: Path | None = None,
    normalises: bool | None = None,
) -> Path:
    """Write config.json, generation_config.json, model.safetensors and, if there is one, the tokenizer.

    Args:
        folder: Where to write; made if absent.
        weights: The model's weights by name, of any float dtype; written as fp32.
        config: Shape of the model.
        vocab_size: Tokens of the tokenizer, before padding.
        eos_id: End-of-text token.
        tokenizer_path: A tokenizer.json to copy.
        normalises: As `hf_config` takes it.

    Returns:
        The folder.

    Raises:
        FloatingPointError: Some weight is not a finite number; nothing is written.
    """
    stored_weights = hf_weights(weights)
    _require_finite(stored_weights)

    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", hf_config(config, vocab_size, eos_id, normalises))
    _write_json(folder / "generation_config.json", generation_config(vocab_size, eos_id))
    save_file(stored_weights, folder / WEIGHTS, metadata={"format": "pt"})
    as_readable_as_its_folder(folder / WEIGHTS)
    if tokenizer_path is not None:
        _write_tokenizer(folder, tokenizer_path, config.seq_len, eos_id)
    return folder


def hf_config(
    config: ModelConfig, vocab_size: int, eos_id: int | None = None, normalises: bool | None = None
) -> dict[str, Any]:
    """Return the fields of transformers' Qwen3MoeConfig.

    Args:
        config: Shape of the model.
        vocab_size: Tokens of the tokenizer, before padding.
        eos_id: End-of-text token.
        normalises: Whether weights of experts were divided by their sum in training; None for
            `config.normalises_weights`.
    """
    if normalises is None:
        normalises = config.normalises_weights

    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "vocab_size": padded_vocab_size(vocab_size),
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "moe_intermediate_size": config.d_ff,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "num_experts": config.num_experts,
        "num_experts_per_tok": config.top_k,
        "norm_topk_prob": normalises,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": config.dropout,
        "max_position_embeddings": config.seq_len,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,  # transformers 4 reads this one, 5 the next
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "router_aux_loss_coef": config.aux_loss_coef,
        "initializer_range": config.init_std,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "bos_token_id": None,
        "eos_token_id": eos_id,
        "pad_token_id": None,
        "torch_dtype": "float32",  # transformers 4 reads this one, 5 the next
        "dtype": "float32",
    }


def generation_config(vocab_size: int, eos_id: int | None) -> dict[str, Any]:
    """Return what transformers' `generate` needs to know: where a text ends, and which ids only pad the vocabulary."""
    settings: dict[str, Any] = {"eos_token_id": eos_id, "pad_token_id": eos_id}
    padding = list(range(vocab_size, padded_vocab_size(vocab_size)))
    if padding:
        settings["suppress_tokens"] = padding
    return settings


def hf_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under transformers' names, each expert apart, as contiguous fp32 on the CPU."""
    named: dict[str, Tensor] = {}
    for name, weight in weights.items():
        named.update(_stored_parts(name, weight))

    # Clones, since safetensors refuses tensors that share memory.
    return {name: weight.detach().float().cpu().clone().contiguous() for name, weight in named.items()}


def _stored_parts(name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield what is stored of a weight of ours, under transformers' names."""
    stem = f"model.{name}"
    if name.endswith("gate_up_proj"):
        for expert, (gate, up) in enumerate(part.chunk(2) for part in weight):
            yield stem.replace("gate_up_proj", f"{expert}.gate_proj.weight"), gate
            yield stem.replace("gate_up_proj", f"{expert}.up_proj.weight"), up
    elif name.endswith("experts.down_proj"):
        for expert, down in enumerate(weight):
            yield stem.replace("down_proj", f"{expert}.down_proj.weight"), down
    else:
        yield stem, weight


def _require_finite(weights: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        if not torch.isfinite(weight).all():
            raise FloatingPointError(
                f"the weight {name} is not finite: the training has diverged, and nothing is exported; "
                "lower learning rates help"
            )


def load_model(folder: Path) -> Transformer:
    """Return the model that `export` wrote, in fp32 on the CPU and in evaluation mode.

    An earlier version gave the single expert of a token the weight 1. What it exported says so and is computed so.

    Args:
        folder: What `export` returned, or a folder from elsewhere that says to be the same.

    Raises:
        ValueError: It is something else.
    """
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = _model_config(fields)
    vocab_size = fields["vocab_size"]

    with safe_open(folder / WEIGHTS, framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (not a dict)
    model = model_of_shape(config, vocab_size, shapes, _stored_parts, stored_normalises(fields))

    stored = load_file(folder / WEIGHTS)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_stacked(f"model.{name}", stored, config.num_experts))
    return model.eval()


def stored_normalises(fields: Mapping[str, Any]) -> bool:
    """Return whether a config.json says that weights of experts are divided by their sum.

    Raises:
        ValueError: It says neither.
    """
    value = fields.get("norm_topk_prob")
    if not isinstance(value, bool):
        raise ValueError(f"config.json says norm_topk_prob = {value!r}; it is true or false")
    return value


def _model_config(fields: Mapping[str, Any]) -> ModelConfig:
    """Return the shape that a config.json tells."""
    rope_theta = fields.get("rope_theta")
    if rope_theta is None:  # a copy that transformers 5 has saved
        rope_theta = fields["rope_parameters"]["rope_theta"]

    config = ModelConfig(
        num_layers=fields["num_hidden_layers"],
        d_model=fields["hidden_size"],
        d_ff=fields["moe_intermediate_size"],
        num_heads=fields["num_attention_heads"],
        num_kv_heads=fields["num_key_value_heads"],
        num_experts=fields["num_experts"],
        top_k=fields["num_experts_per_tok"],
        seq_len=fields["max_position_embeddings"],
        rope_theta=rope_theta,
        norm_eps=fields["rms_norm_eps"],
    )

    ours = hf_config(config, fields["vocab_size"])
    for name in _ALWAYS:
        if fields.get(name) != ours[name]:
            raise ValueError(
                f"config.json says {name} = {fields.get(name)!r}; in a model that this program exports it is "
                f"{ours[name]!r}"
            )
    return config


def _stacked(name: str, stored: Mapping[str, Tensor], num_experts: int) -> Tensor:
    """Return a weight of our model, put together from the matrices that each expert has on disk."""
    stem = name.rsplit(".", 1)[0]

    def all_experts(part: str) -> Tensor:
        return torch.stack([stored[f"{stem}.{expert}.{part}.weight"] for expert in range(num_experts)])

    if name.endswith("gate_up_proj"):
        return torch.cat([all_experts("gate_proj"), all_experts("up_proj")], dim=1)
    if name.endswith("experts.down_proj"):
        return all_experts("down_proj")
    return stored[name]


def _write_tokenizer(folder: Path, tokenizer_path: Path, seq_len: int, eos_id: int | None) -> None:
    shutil.copyfile(tokenizer_path, folder / "tokenizer.json")

    end_token = None
    if eos_id is not None:
        end_token = Tokenizer.from_file(str(tokenizer_path)).id_to_token(eos_id)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": seq_len,
        # Without this generate() is given token types, which it refuses.
        "model_input_names": ["input_ids", "attention_mask"],
        "eos_token": end_token,
        # As in generation_config.json. Prompts of a batch are padded in front, so that what follows them is new text.
        "pad_token": end_token,
        "padding_side": "left",
        # Without this spaces before punctuation may be lost from what is decoded.
        "clean_up_tokenization_spaces": False,
    }
    _write_json(folder / "tokenizer_config.json", settings)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
