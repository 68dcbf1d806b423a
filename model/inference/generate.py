"""Text from a trained model, one token at a time: by our own model after a training, by transformers' for users.

Shape suffixes: B batch (1 here), T positions, V vocabulary.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from torch import Tensor

from model.config import SystemConfig
from model.inference.export import generation_config, hf_config, hf_weights
from model.inference.weights_reader import Trained, open_tokenizer, read_weights
from model.ops.precision import choose_device
from model.transformer import Transformer

_LEAST_TEMPERATURE = 1e-3
"""Below this the most likely token is taken: nothing else has a chance, and logits divided by less would overflow."""


@torch.no_grad()
def generate(
    model: Transformer,
    prompt_ids: Sequence[int],
    num_tokens: int,
    vocab_size: int,
    eos_id: int | None = None,
    temperature: float = 0.8,
    top_k: int = 50,
    seed: int = 0,
) -> list[int]:
    """Continue a prompt.

    Args:
        model: The model; it sees at most the last `seq_len` tokens. Its mode is restored afterwards.
        prompt_ids: At least one token id.
        num_tokens: Number of new tokens, at most.
        vocab_size: Tokens of the tokenizer; the ids that pad the vocabulary are never drawn.
        eos_id: Stop after this id.
        temperature: 0 takes the most likely token, 1 samples from the model's distribution.
        top_k: Sample among this many most likely tokens; 0 for all.
        seed: Seed of the draw.

    Returns:
        The new token ids, without the prompt.

    Raises:
        ValueError: The prompt is empty.
    """
    if not prompt_ids:
        raise ValueError("the prompt has no tokens; give some text, or start from the end-of-text token")

    device = model.embed_tokens.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    ids = list(prompt_ids)
    was_training = model.training
    model.eval()

    for _ in range(num_tokens):
        tokens_BT = torch.tensor([ids[-model.config.seq_len :]], device=device)
        logits_V = model.logits(tokens_BT)[0, -1, :vocab_size]
        ids.append(_draw(logits_V, temperature, top_k, generator))
        if ids[-1] == eos_id:
            break

    model.train(was_training)
    return ids[len(prompt_ids) :]


def sample_text(
    model: Transformer, tokenizer: Tokenizer, prompt: str, num_tokens: int, eos_id: int, seed: int = 0
) -> str:
    """Return the prompt and its continuation as text.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        prompt: Text to continue; an empty one starts a new document.
        num_tokens: Number of new tokens, at most.
        eos_id: End-of-text token.
        seed: Seed of the draw.
    """
    prompt_ids = tokenizer.encode(prompt, add_special_tokens=False).ids or [eos_id]
    new_ids = generate(model, prompt_ids, num_tokens, tokenizer.get_vocab_size(), eos_id, seed=seed)
    return str(tokenizer.decode([*prompt_ids, *new_ids], skip_special_tokens=True))


def _draw(logits_V: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> int:
    """Draw the next token's id."""
    if temperature == 0:
        return int(logits_V.argmax())

    if 0 < top_k < len(logits_V):
        threshold = logits_V.topk(top_k).values[-1]
        logits_V = logits_V.masked_fill(logits_V < threshold, -torch.inf)
    probs_V = (logits_V / temperature).softmax(-1)
    return int(torch.multinomial(probs_V, 1, generator=generator))


def generate_text(
    path: Path,
    prompt: str,
    write: Callable[[str], None],
    num_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int = 50,
    seed: int = 0,
) -> None:
    """Continue a prompt, piece by piece, with transformers' own model and key-value cache.

    Args:
        path: An export folder, a run's folder or a checkpoint.
        prompt: Text to continue; an empty one starts a new document.
        write: Called with each piece of new text as soon as its characters are complete.
        num_tokens: Number of new tokens, at most.
        temperature: 0 takes the most likely token, 1 samples from the model's distribution.
        top_k: Sample among this many most likely tokens; 0 for all.
        seed: Seed of the draw.

    Raises:
        FileNotFoundError: There is no trained model at the path.
        ValueError: It cannot be read, or has no tokenizer, or the prompt is empty and nothing begins a text.
    """
    trained = read_weights(path)
    if trained.tokenizer_path is None:
        raise ValueError(
            f"{trained.where} has no tokenizer, since its training data are token ids: set data.tokenizer and train "
            "again, or put the tokenizer.json that made the ids into the folder"
        )

    tokenizer = open_tokenizer(trained)
    ids = tokenizer.encode(prompt, add_special_tokens=False).ids
    if not ids and trained.eos_id is None:
        raise ValueError(f"{trained.where} has no end-of-text token to begin with: give a prompt")

    device = choose_device(SystemConfig())
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        model = _for_transformers(trained)
        torch.manual_seed(seed)
        writer = _PieceWriter(tokenizer, ids or [trained.eos_id], write)
        _continue(model.to(device), ids or [trained.eos_id], num_tokens, temperature, top_k, writer)


def _for_transformers(trained: Trained) -> Any:
    """Return transformers' model of our weights.

    Its settings are made here and not read from the folder: a config.json may name code, kernels and other files, which
    transformers would fetch.
    """
    from transformers import GenerationConfig, Qwen3MoeConfig, Qwen3MoeForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    fields = hf_config(trained.config.model, trained.vocab_size, trained.eos_id, trained.normalises)
    config = Qwen3MoeConfig.from_dict(fields)
    model = Qwen3MoeForCausalLM.from_pretrained(None, config=config, state_dict=hf_weights(trained.weights))
    model.generation_config = GenerationConfig(**generation_config(trained.vocab_size, trained.eos_id))
    return model.eval()


class _PieceWriter:
    """Takes token ids from `generate` and writes text, each character once all of its bytes are there.

    The interface is that of transformers' streamers. The one that transformers brings holds text back until the next
    space.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], write: Callable[[str], None]) -> None:
        self._tokenizer = tokenizer
        self._write = write
        self._is_prompt = True
        self.ids: list[int] = []

        # The prompt decides how the first new tokens are spelled, for example with a space in front of a word.
        self._stream = DecodeStream(skip_special_tokens=True)
        for token_id in prompt_ids:
            self._stream.step(tokenizer, token_id)

    def put(self, value: Tensor) -> None:
        """Take the prompt, which is ignored, or a new token."""
        if self._is_prompt:
            self._is_prompt = False
            return

        for token_id in value.flatten().tolist():
            self.ids.append(token_id)
            piece = self._stream.step(self._tokenizer, token_id)
            if piece:
                self._write(piece)

    def end(self) -> None:
        """Expect another prompt; an incomplete character at the end is not written."""
        self._is_prompt = True


def _continue(
    model: Any, prompt_ids: list[int], num_tokens: int, temperature: float, top_k: int, writer: _PieceWriter
) -> None:
    """Generate `num_tokens`, or fewer up to the end of the text; when the context is full, its last half is kept."""
    seq_len, eos_id = model.config.max_position_embeddings, model.config.eos_token_id
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature >= _LEAST_TEMPERATURE:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": 1.0}

    while len(writer.ids) < num_tokens and writer.ids[-1:] != [eos_id]:
        ids = [*prompt_ids, *writer.ids]
        if len(ids) >= seq_len:
            ids = ids[-max(1, seq_len // 2) :]

        max_new_tokens = min(num_tokens - len(writer.ids), seq_len - len(ids))
        prompt = torch.tensor([ids], device=model.device)
        mask = torch.ones_like(prompt)
        model.generate(prompt, attention_mask=mask, max_new_tokens=max_new_tokens, streamer=writer, **sampling)
