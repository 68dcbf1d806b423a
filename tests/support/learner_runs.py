"""Short runs of small learners, and their whole state, for tests that compare runs."""

import torch
from small_model import VOCAB_SIZE, random_tokens, small_config

from model.training.learner import Learner

CPU = torch.device("cpu")


def config_of(seed=0, **sections):
    """Everything on that a run can carry over: dropout, decay, clipping, router losses, accumulation."""
    defaults = {
        "model": {"init_std": 0.2, "dropout": 0.1},
        "optim": {"weight_decay": 0.1, "grad_accum_steps": 3},
    }
    merged = {name: defaults.get(name, {}) | sections.get(name, {}) for name in defaults | sections}
    return small_config(**merged).model_copy(update={"seed": seed})


def make(config, dtype=torch.float32):
    return Learner(config, VOCAB_SIZE, CPU, dtype)


def passes(count, size=4, seed=1):
    tokens = random_tokens(count * size, 17, seed).int()
    return [(part[:, :-1].contiguous(), part[:, 1:].contiguous()) for part in tokens.split(size)]


def go_on(one, parts, first=0):
    """Train on passes, updating after every third; return each update's gradient norm."""
    norms = []
    for number, part in enumerate(parts, first):
        one.accumulate(*part)
        if one.pending == 3:
            one.update(1.0 / (1 + number))
            norms.append(one.grad_norm.item())
    return norms


def state_of(one):
    """Everything a run can be told apart by, copied."""
    state = {f"{part}.{name}": value for part, named in one.state_tensors().items() for name, value in named.items()}
    state |= {f"parameter.{name}": parameter.detach() for name, parameter in one.model.named_parameters()}
    return {name: value.clone() for name, value in state.items()}


def assert_same(state, expected):
    assert state.keys() == expected.keys()
    for name, value in state.items():
        assert torch.equal(value, expected[name]), name
