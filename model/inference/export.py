"""Trained weights as a folder that transformers loads as Qwen3MoeForCausalLM, and back.

Each expert gets its own matrices on disk, the layout that every version of transformers and other runtimes read.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from model.config import ModelConfig
from model.transformer import Transformer, padded_vocab_size

WEIGHTS = "model.safetensors"


def export(
    folder: Path,
    weights: Mapping[str, Tensor],
    config: ModelConfig,
    vocab_size: int,
    eos_id: int | None = None,
    tokenizer_path: Path | None = None,
) -> Path:
    """Write config.json, generation_config.json, model.safetensors and, if there is one, the tokenizer.

    Args:
        folder: Where to write; made if absent.
        weights: The model's weights by name, of any float dtype; written as fp32.
        config: Shape of the model.
        vocab_size: Tokens of the tokenizer, before padding.
        eos_id: End-of-text token.
        tokenizer_path: A tokenizer.json to copy.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)

    _write_json(folder / "config.json", _hf_config(config, vocab_size, eos_id))
    _write_json(folder / "generation_config.json", _generation_config(vocab_size, eos_id))
    save_file(_hf_weights(weights), folder / WEIGHTS, metadata={"format": "pt"})
    if tokenizer_path is not None:
        _write_tokenizer(folder, tokenizer_path, config.seq_len, eos_id)
    return folder


def _hf_config(config: ModelConfig, vocab_size: int, eos_id: int | None = None) -> dict[str, Any]:
    """Return the fields of transformers' Qwen3MoeConfig."""
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
        "norm_topk_prob": True,
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


def _generation_config(vocab_size: int, eos_id: int | None) -> dict[str, Any]:
    """Return what transformers' `generate` needs to know: where a text ends, and which ids only pad the vocabulary."""
    settings: dict[str, Any] = {"eos_token_id": eos_id, "pad_token_id": eos_id}
    padding = list(range(vocab_size, padded_vocab_size(vocab_size)))
    if padding:
        settings["suppress_tokens"] = padding
    return settings


def _hf_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under transformers' names, each expert apart, as contiguous fp32 on the CPU."""
    named: dict[str, Tensor] = {}
    for name, weight in weights.items():
        stem = f"model.{name}"
        if name.endswith("gate_up_proj"):
            for expert, (gate, up) in enumerate(part.chunk(2) for part in weight):
                named[stem.replace("gate_up_proj", f"{expert}.gate_proj.weight")] = gate
                named[stem.replace("gate_up_proj", f"{expert}.up_proj.weight")] = up
        elif name.endswith("experts.down_proj"):
            for expert, down in enumerate(weight):
                named[stem.replace("down_proj", f"{expert}.down_proj.weight")] = down
        else:
            named[stem] = weight

    # Clones, since safetensors refuses tensors that share memory.
    return {name: weight.detach().float().cpu().clone().contiguous() for name, weight in named.items()}


def load_model(folder: Path) -> Transformer:
    """Return the model that `export` wrote, in fp32 on the CPU and in evaluation mode.

    Args:
        folder: What `export` returned.
    """
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = ModelConfig(
        num_layers=fields["num_hidden_layers"],
        d_model=fields["hidden_size"],
        d_ff=fields["moe_intermediate_size"],
        num_heads=fields["num_attention_heads"],
        num_kv_heads=fields["num_key_value_heads"],
        num_experts=fields["num_experts"],
        top_k=fields["num_experts_per_tok"],
        seq_len=fields["max_position_embeddings"],
        rope_theta=fields["rope_theta"],
        norm_eps=fields["rms_norm_eps"],
    )
    model = Transformer(config, fields["vocab_size"])

    stored = load_file(folder / WEIGHTS)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_stacked(f"model.{name}", stored, config.num_experts))
    return model.eval()


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
