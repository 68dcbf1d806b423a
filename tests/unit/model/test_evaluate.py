import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from small_model import VOCAB_SIZE, random_tokens, small_model

from model.evaluate import Evaluation, evaluate

CPU = torch.device("cpu")
IDS = random_tokens(1, 16 * 7 + 1, seed=2)[0].numpy().astype(np.uint16)
STARTS = np.array([0, 16, 48, 96])


def score(model, windows_per_batch=3):
    return evaluate(model, IDS, STARTS, 16, windows_per_batch, CPU)


def test_is_the_mean_cross_entropy_over_the_windows():
    model = small_model()
    losses, hits = [], []
    with torch.no_grad():
        for start in STARTS:
            window = torch.from_numpy(IDS[start : start + 17].astype(np.int64))
            logits = model.logits(window[None, :-1])[0]
            losses.append(F.cross_entropy(logits, window[1:], reduction="none"))
            hits.append((logits.argmax(-1) == window[1:]).float())
    result = score(model)
    assert result.num_tokens == 64
    assert result.val_loss == pytest.approx(torch.cat(losses).mean().item(), rel=1e-6)
    assert result.val_accuracy == torch.cat(hits).mean().item()


def test_dropout_is_off_and_the_mode_comes_back():
    plain, dropped = small_model(), small_model(dropout=0.5).train()
    assert score(dropped) == score(plain)
    assert dropped.training
    assert not plain.training


def test_router_losses_take_no_part():
    assert score(small_model(aux_loss_coef=100.0, z_loss_coef=100.0)) == score(small_model())


def test_the_batch_size_does_not_matter():
    assert score(small_model(), 1).val_loss == pytest.approx(score(small_model(), 64).val_loss, rel=1e-6)


def test_an_untrained_model_is_near_the_uniform_loss():
    assert score(small_model(init_std=0.001)).val_loss == pytest.approx(math.log(128), abs=0.05)
    assert VOCAB_SIZE < 128  # padded to a multiple of 64


def test_other_units():
    result = Evaluation(val_loss=2 * math.log(2), val_accuracy=0.5, num_tokens=10)
    assert result.perplexity == pytest.approx(4.0)
    assert result.bits_per_byte(4.0) == pytest.approx(0.5)
    assert Evaluation(1e4, 0.0, 1).perplexity == math.inf
