import pytest
import torch
from small_model import VOCAB_SIZE, random_tokens, small_model

from model.inference.generate import generate

PROMPT = random_tokens(1, 5)[0].tolist()


def test_temperature_zero_takes_the_most_likely_token():
    model, ids = small_model(), list(PROMPT)
    for _ in range(8):
        with torch.no_grad():
            ids.append(int(model.logits(torch.tensor([ids]))[0, -1, :VOCAB_SIZE].argmax()))
    assert generate(model, PROMPT, 8, VOCAB_SIZE, temperature=0) == ids[5:]
    assert generate(model, PROMPT, 8, VOCAB_SIZE, top_k=1) == ids[5:]


def test_a_seed_repeats_and_another_differs():
    model = small_model(init_std=0.02)
    first, again, other = (generate(model, PROMPT, 20, VOCAB_SIZE, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_never_draws_padding_and_may_outgrow_the_window():
    drawn = generate(small_model(init_std=0.001), PROMPT, 150, VOCAB_SIZE, top_k=0, temperature=1.0)
    assert len(drawn) == 150
    assert max(drawn) < VOCAB_SIZE
    assert len(set(drawn)) > 60


def test_top_k_bounds_the_choice():
    model = small_model(init_std=0.05)
    with torch.no_grad():
        best = model.logits(torch.tensor([PROMPT]))[0, -1, :VOCAB_SIZE].topk(3).indices.tolist()
    drawn = {generate(model, PROMPT, 1, VOCAB_SIZE, top_k=3, temperature=5.0, seed=seed)[0] for seed in range(40)}
    assert drawn == set(best)


def test_stops_after_the_end_of_text():
    model = small_model()
    first = generate(model, PROMPT, 1, VOCAB_SIZE, temperature=0)[0]
    assert generate(model, PROMPT, 50, VOCAB_SIZE, eos_id=first, temperature=0) == [first]


def test_needs_a_prompt_and_restores_the_mode():
    model = small_model().train()
    generate(model, PROMPT, 1, VOCAB_SIZE)
    assert model.training
    with pytest.raises(ValueError, match="no tokens"):
        generate(model, [], 1, VOCAB_SIZE)
