"""Properties of model/ that hold for every shape, seed and schedule tried."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import ModelConfig
from model.data.batches import Batches
from model.data.splits import choose_validation
from model.data.token_bytes import count_token_bytes
from model.data.tokenizer import train_bpe
from model.optim import orthogonalise
from model.schedule import lr_factor
from model.transformer import Transformer

FRACTIONS = st.floats(0.0, 1.0)
QUICK = settings(max_examples=30, deadline=None)


pytestmark = pytest.mark.usefixtures("one_thread")


@st.composite
def models(draw):
    num_kv_heads = draw(st.integers(1, 2))
    num_heads = num_kv_heads * draw(st.integers(1, 2))
    num_experts = draw(st.integers(1, 5))
    config = ModelConfig(
        num_layers=draw(st.integers(1, 2)),
        d_model=num_heads * 8,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        d_ff=16,
        num_experts=num_experts,
        top_k=draw(st.integers(1, num_experts)),
        seq_len=12,
        init_std=0.3,
    )
    model = Transformer(config, 50)
    model.init_weights(torch.Generator().manual_seed(draw(st.integers(0, 1000))))
    return model.eval()


@QUICK
@given(models(), st.integers(0, 10), st.integers(0, 1000))
def test_no_position_sees_a_later_one(model, position, seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 50, (2, 12), generator=generator)
    changed = tokens.clone()
    changed[:, position + 1 :] = (changed[:, position + 1 :] + 1) % 50

    with torch.no_grad():
        before, after = model.logits(tokens), model.logits(changed)

    torch.testing.assert_close(before[:, : position + 1], after[:, : position + 1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before[:, position + 1], after[:, position + 1], atol=1e-5)


@QUICK
@given(models(), st.integers(0, 1000))
def test_sequences_of_a_batch_do_not_touch_each_other(model, seed):
    tokens = torch.randint(0, 50, (3, 12), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        torch.testing.assert_close(model.logits(tokens)[1:2], model.logits(tokens[1:2]), atol=1e-5, rtol=1e-5)


@QUICK
@given(models(), st.integers(1, 4), st.integers(1, 12))
def test_no_token_is_dropped(model, batch, length):
    with torch.no_grad():
        _, stats = model(torch.zeros(batch, length, dtype=torch.int64))
    assert (stats.load_LE.sum(1) == batch * length * model.config.top_k).all()


@given(st.sampled_from(["wsd", "linear", "cosine"]), FRACTIONS, FRACTIONS, FRACTIONS, st.integers(1, 10**12))
def test_schedules_rise_then_fall_to_the_floor(schedule, warmup_frac, decay_frac, floor, budget_tokens):
    times = [budget_tokens * i / 50 for i in range(51)]
    factors = [lr_factor(t, budget_tokens, schedule, warmup_frac, decay_frac, floor) for t in times]

    assert all(-1e-9 <= factor <= 1 + 1e-9 for factor in factors)

    rising = [factor for t, factor in zip(times, factors, strict=True) if t < warmup_frac * budget_tokens]
    falling = factors[len(rising) :]

    assert rising == sorted(rising)
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(falling))

    if decay_frac > 0 or schedule != "wsd":
        assert factors[-1] == pytest.approx(floor)


@given(st.integers(3, 200), st.integers(1, 10), st.integers(1, 7), st.integers(0, 5), st.integers(0, 3))
def test_every_epoch_is_a_permutation(num_tokens, seq_len, size, seed, epoch):
    ids = np.arange(num_tokens + seq_len, dtype=np.uint16)
    batches = Batches(ids, seq_len, seed, torch.device("cpu"))
    first = epoch * batches.num_windows
    windows = []

    while len(windows) < batches.num_windows:
        windows += batches.windows(first + len(windows), min(size, batches.num_windows - len(windows)))

    assert sorted(windows) == list(range(batches.num_windows))


@given(
    st.integers(1, 9),
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 8)), min_size=1, max_size=8),
    st.integers(1, 300),
)
def test_batches_are_their_windows_whatever_the_blocks(seq_len, places, block_tokens):
    ids = np.arange(103, dtype=np.uint16)
    batches, order = (Batches(ids, seq_len, 0, torch.device("cpu")) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.data.batches.BLOCK_TOKENS", block_tokens)
        for start, count in places:
            inputs, targets = batches.batch(start, count)
            expected = np.asarray(order.windows(start, count))[:, None] * seq_len + np.arange(seq_len)
            assert inputs.tolist() == expected.tolist()
            assert targets.tolist() == (expected + 1).tolist()


@QUICK
@given(st.integers(1, 4), st.integers(1, 24), st.integers(1, 24), st.floats(1e-9, 1e9), st.integers(0, 1000))
def test_orthogonalised_matrices_are_bounded_and_keep_their_sign(count, rows, columns, scale, seed):
    matrices = scale * torch.randn(count, rows, columns, generator=torch.Generator().manual_seed(seed))
    result = orthogonalise(matrices)
    assert torch.linalg.matrix_norm(result, 2).max() < 1.25
    assert ((result * matrices).sum((-2, -1)) > 0).all()


@given(st.lists(st.text(min_size=1), min_size=2, max_size=40, unique=True), st.floats(0.01, 0.99))
def test_both_splits_get_documents_and_the_choice_ignores_the_order(documents, val_frac):
    chosen = choose_validation(documents, val_frac).is_val
    assert 0 < sum(chosen) < len(documents)
    backwards = choose_validation(reversed(documents), val_frac).is_val
    assert backwards[::-1] == chosen


TOKENIZER = train_bpe(["we the people of the united states, in order to form a more perfect union"] * 3, 300)
COUNTS = count_token_bytes(TOKENIZER)


@given(st.text())
def test_byte_counts_and_round_trip_of_any_text(text):
    ids = TOKENIZER.encode(text).ids
    if "<|endoftext|>" not in text:
        assert COUNTS[ids].sum() == len(text.encode())
        assert TOKENIZER.decode(ids) == text
