"""Text from a trained model, one token at a time.

Shape suffixes: B batch, T positions, V vocabulary.
"""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

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
