import pytest
import torch
from small_model import small_config

from model import train as trainer
from model.train import train


def unexpected(point):
    raise AssertionError("a refused training reports nothing")


@pytest.mark.parametrize("budget_tokens", [0, -5])
def test_a_budget_below_one_token_is_refused(budget_tokens):
    with pytest.raises(ValueError, match=f"budget_tokens = {budget_tokens}; give at least 1"):
        train(small_config(), budget_tokens, unexpected)


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="finds no CUDA device"):
        train(small_config(system={"device": "cuda"}), 100, unexpected)


def test_the_module_offers_the_whole_interface_of_a_trainer():
    for name in ("train", "counts", "length_rules", "generate_text", "evaluate_weights"):
        assert hasattr(trainer, name), name
