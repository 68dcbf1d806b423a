"""Text from a trained model, one token at a time: with our own model after a training, with transformers' for users.

Shape suffixes: B batch, T positions, V vocabulary.
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from torch import Tensor

from model.config import SystemConfig
from model.inference.export import export
from model.inference.weights_reader import Trained, find_weights, read_weights
from model.ops.precision import choose_device
from model.transformer import Transformer


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
        num_tokens: New tokens at most.
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
    """Return the prompt and its continuation as text; an empty prompt starts a new document."""
    prompt_ids = tokenizer.encode(prompt, add_special_tokens=False).ids or [eos_id]
    new_ids = generate(model, prompt_ids, num_tokens, tokenizer.get_vocab_size(), eos_id, seed=seed)
    return str(tokenizer.decode([*prompt_ids, *new_ids], skip_special_tokens=True))


def _draw(logits_V: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    if 0 < top_k < len(logits_V):
        threshold = logits_V.topk(top_k).values[-1]
        logits_V = logits_V.masked_fill(logits_V < threshold, -torch.inf)
    return int(torch.multinomial((logits_V / temperature).softmax(-1), 1, generator=generator))


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
        write: Takes each piece of new text as soon as its characters are whole.
        num_tokens: New tokens at most.
        temperature: 0 takes the most likely token, 1 samples from the model's distribution.
        top_k: Sample among this many most likely tokens; 0 for all.
        seed: Seed of the draw.

    Raises:
        FileNotFoundError: Nothing trained is there.
        ValueError: It cannot be read, or has no tokenizer.
    """
    with ExitStack() as stack:
        folder = find_weights(path)
        if folder.is_file():
            folder = _exported(read_weights(folder), Path(stack.enter_context(tempfile.TemporaryDirectory())))
        if not (folder / "tokenizer.json").is_file():
            raise ValueError(
                f"{folder} has no tokenizer, since its training data are token ids: set data.tokenizer and train "
                "again, or put the tokenizer.json that made the ids into the folder"
            )
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        model = _stock_model(folder)
        device = choose_device(SystemConfig())
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        torch.manual_seed(seed)
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids or [model.config.eos_token_id]
        _continue(model.to(device), ids, num_tokens, temperature, top_k, _Pieces(tokenizer, ids, write))


def _exported(trained: Trained, folder: Path) -> Path:
    shape = trained.config.model
    return export(folder, trained.weights, shape, trained.vocab_size, trained.eos_id, trained.tokenizer_path)


def _stock_model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    except Exception as error:  # torn files: many kinds from many layers
        raise ValueError(f"{folder} cannot be read: {type(error).__name__}: {error}") from error


class _Pieces:
    """Takes token ids from `generate` and writes text, a character only once all of its bytes are there.

    The interface is that of transformers' streamers, whose own one holds text back until the next space.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], write: Callable[[str], None]) -> None:
        self._tokenizer, self._write = tokenizer, write
        self._stream = DecodeStream(skip_special_tokens=True)
        # The prompt decides how the first new tokens are spelled, a space in front of a word for example.
        for token_id in prompt_ids:
            self._stream.step(tokenizer, token_id)
        self._is_prompt = True
        self.ids: list[int] = []

    def put(self, value: Tensor) -> None:
        """Take the prompt, which is passed over, and then each new token."""
        if self._is_prompt:
            self._is_prompt = False
            return
        for token_id in value.flatten().tolist():
            self.ids.append(token_id)
            piece = self._stream.step(self._tokenizer, token_id)
            if piece:
                self._write(piece)

    def end(self) -> None:
        """Expect another prompt; half a character at the end stays unwritten."""
        self._is_prompt = True


def _continue(
    model: Any, prompt_ids: list[int], num_tokens: int, temperature: float, top_k: int, pieces: _Pieces
) -> None:
    """Generate until `num_tokens` or the end of the text; a full context goes on from its last half."""
    seq_len, eos_id = model.config.max_position_embeddings, model.config.eos_token_id
    sampling = {"do_sample": temperature > 0}
    sampling |= {"temperature": temperature, "top_k": top_k, "top_p": 1.0} if temperature > 0 else {}
    while len(pieces.ids) < num_tokens and pieces.ids[-1:] != [eos_id]:
        ids = [*prompt_ids, *pieces.ids]
        ids = ids if len(ids) < seq_len else ids[-max(1, seq_len // 2) :]
        room = min(num_tokens - len(pieces.ids), seq_len - len(ids))
        prompt = torch.tensor([ids], device=model.device)
        mask = torch.ones_like(prompt)
        model.generate(prompt, attention_mask=mask, max_new_tokens=room, streamer=pieces, **sampling)
