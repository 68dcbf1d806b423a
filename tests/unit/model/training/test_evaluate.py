import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from small_model import VOCAB_SIZE, random_tokens, small_config, small_model

from model.loss import count_losses
from model.train import train
from model.training.evaluate import Evaluation, evaluate
from model.training.learner import Learner

CPU = torch.device("cpu")
IDS = random_tokens(1, 16 * 7 + 1, seed=2)[0].numpy().astype(np.uint16)
STARTS = np.array([0, 16, 48, 96])


def score(model, windows_per_batch=3):
    def score_batch(tokens, targets):
        x, _ = model(tokens)
        return count_losses(x.flatten(0, 1), model.embed_tokens.weight, targets.flatten())

    return evaluate(score_batch, IDS, STARTS, 16, windows_per_batch, CPU)


def by_hand(model):
    losses, hits = [], []
    with torch.no_grad():
        for start in STARTS:
            window = torch.from_numpy(IDS[start : start + 17].astype(np.int64))
            logits = model.logits(window[None, :-1])[0]
            losses.append(F.cross_entropy(logits, window[1:], reduction="none"))
            hits.append((logits.argmax(-1) == window[1:]).float())
    return torch.cat(losses).mean().item(), torch.cat(hits).mean().item()


def test_is_the_mean_cross_entropy_over_the_windows():
    model = small_model()
    loss, accuracy = by_hand(model)
    result = score(model)
    assert result.num_tokens == 64
    assert result.val_loss == pytest.approx(loss, rel=1e-6)
    assert result.val_accuracy == accuracy


@pytest.mark.parametrize("windows_per_batch", [1, 3, 4, 64])  # passes of the learner's own 4 windows and others
def test_a_learner_scores_its_model(windows_per_batch):
    one = Learner(small_config(model={"init_std": 0.2}), VOCAB_SIZE, CPU, torch.float32)
    one.model.eval()
    result = evaluate(one.score, IDS, STARTS, 16, windows_per_batch, CPU)
    assert (result.val_loss, result.val_accuracy) == pytest.approx(by_hand(one.model), rel=1e-6)


def test_a_learners_score_changes_nothing_that_learns():
    one = Learner(small_config(model={"init_std": 0.2}), VOCAB_SIZE, CPU, torch.float32)
    tokens = random_tokens(4, 17)
    one.accumulate(tokens[:, :-1], tokens[:, 1:].contiguous())
    before = {
        f"{part}.{name}": value.clone() for part, named in one.state_tensors().items() for name, value in named.items()
    }
    one.model.eval()
    evaluate(one.score, IDS, STARTS, 16, 4, CPU)

    for part, named in one.state_tensors().items():
        for name, value in named.items():
            assert torch.equal(value, before[f"{part}.{name}"]), name


def run_without_learning(folder, dropout):
    """Two points of a run whose weights never move."""
    np.concatenate([IDS] * 8).tofile(folder / "train.bin")
    data = {"source": "tokens", "path": str(folder / "train.bin"), "cache_dir": str(folder), "vocab_size": VOCAB_SIZE}
    config = small_config(
        model={"init_std": 0.2, "dropout": dropout},
        optim={"muon_lr": 0.0, "adamw_lr": 0.0},
        data=data | {"eval_tokens": 64, "num_evals": 2},
    )
    points = []
    train(config, 512, lambda point: points.append(point) or True)
    return points


def test_dropout_is_off_in_evaluation_and_on_again_afterwards(tmp_path):
    plain, dropped = (run_without_learning(tmp_path, dropout) for dropout in (0.0, 0.5))
    assert [point["val_loss"] for point in dropped] == [point["val_loss"] for point in plain]
    for without, with_dropout in zip(plain, dropped, strict=True):
        assert abs(with_dropout["train_loss"] - without["train_loss"]) > 1e-3


def test_router_losses_take_no_part():
    assert score(small_model(aux_loss_coef=100.0, z_loss_coef=100.0)) == score(small_model())

    heavy, plain = (
        Learner(small_config(model={"init_std": 0.2} | coefs), VOCAB_SIZE, CPU, torch.float32)
        for coefs in ({"aux_loss_coef": 100.0, "z_loss_coef": 100.0}, {})
    )
    results = []
    for one in (heavy, plain):
        one.model.eval()
        results.append(evaluate(one.score, IDS, STARTS, 16, 4, CPU))

    assert results[0] == results[1]


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
