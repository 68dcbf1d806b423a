"""Whole steps on the kernels: recorded as CUDA graphs, started again, diverged, let go. Kernels: test_launchers_gpu."""

import pytest
import torch

from model.config import TrainConfig
from model.ops import graphs
from model.training import learner_cache
from model.training.learner import Learner

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

CUDA = torch.device("cuda", 0)
VOCAB_SIZE = 1000
ALL = [torch.float32, torch.bfloat16, torch.float16]


def close(actual, expected):
    """Compare weights after training by relative norm: atomic sums and rounding differ from run to run."""
    error = (actual.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30)
    assert error < 0.06, f"relative error {error:.2e}"


def shaped(num_experts, top_k, seq_len=64, d_ff=96, **more):
    model = {"num_layers": 2, "d_model": 64, "num_heads": 4, "num_kv_heads": 2, "d_ff": d_ff, "init_std": 0.2}
    model |= {"num_experts": num_experts, "top_k": top_k, "seq_len": seq_len}
    return TrainConfig.model_validate({"model": model, "system": {"micro_batch_size": 4}, **more})


def batch(seed=0, size=4, seq_len=64):
    tokens = torch.randint(0, VOCAB_SIZE, (size, seq_len + 1), generator=torch.Generator().manual_seed(seed))
    tokens = tokens.to(CUDA, torch.int32)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def trained(one, steps=2, seed=0):
    losses = []
    for step in range(steps):
        one.accumulate(*batch(2 * step + seed))
        one.accumulate(*batch(2 * step + 1 + seed))
        losses.append(one.meters["loss"].item() / 2)
        one.clear_meters()
        one.update(0.5)
    return losses, {name: weight.clone() for name, weight in one.weights.weights.items()}


@pytest.fixture(params=[torch.bfloat16, torch.float16], ids=str)
def capturing(request):
    if not graphs.can_capture(CUDA, request.param):
        pytest.skip("steps are recorded from compute capability 8.0 only")
    return request.param


def learner(dtype, **sections):
    return Learner(shaped(8, 2, **sections), VOCAB_SIZE, CUDA, dtype)


def test_a_recorded_step_equals_launching_its_kernels(capturing):
    losses, weights = trained(learner(capturing), steps=4)
    system = {"micro_batch_size": 4, "cuda_graphs": False}
    expected, expected_weights = trained(learner(capturing, system=system), steps=4)
    assert losses == pytest.approx(expected, rel=2e-3)
    for name, weight in expected_weights.items():
        close(weights[name], weight)


def test_a_recorded_learner_started_again_equals_a_fresh_one(capturing):
    model = shaped(8, 2).model.model_copy(update={"dropout": 0.1})
    first = shaped(8, 2, optim={"weight_decay": 0.1}).model_copy(update={"model": model})
    changed = first.model_copy(
        update={
            "seed": 3,
            "model": model.model_copy(update={"dropout": 0.3, "aux_loss_coef": 0.1}),
            "optim": first.optim.model_copy(update={"muon_lr": 0.05, "adamw_lr": 0.001, "weight_decay": 0.5}),
        }
    )
    used, fresh = (Learner(config, VOCAB_SIZE, CUDA, capturing) for config in (first, changed))
    trained(used)
    used.start(changed)
    losses, weights = trained(used)
    fresh.start(changed)
    expected, expected_weights = trained(fresh)

    assert losses == pytest.approx(expected, rel=2e-3)

    for name, weight in expected_weights.items():
        close(weights[name], weight)


def test_each_replay_draws_new_dropout(capturing):
    config = shaped(8, 2)
    dropped = config.model.model_copy(update={"dropout": 0.5})
    one = Learner(config.model_copy(update={"model": dropped}), VOCAB_SIZE, CUDA, capturing)
    losses = []

    for _ in range(4):
        one.clear_meters()
        one.accumulate(*batch())
        losses.append(one.meters["loss"].item())

    assert len(set(losses)) == 4


def test_a_smaller_last_pass_counts_each_sequence_the_same(capturing):
    one, reference = learner(capturing), learner(capturing, system={"micro_batch_size": 6})
    tokens, targets = batch(size=6)
    one.accumulate(tokens[:4], targets[:4])
    one.accumulate(tokens[4:], targets[4:])
    reference.accumulate(tokens, targets)

    for each in (one, reference):
        each.update(1.0)

    torch.testing.assert_close(one.grad_norm, reference.grad_norm, rtol=0.02, atol=0)


@pytest.mark.parametrize("dtype", ALL)
def test_a_diverged_run_says_so_and_leaves_the_device_usable(dtype):
    one = Learner(shaped(5, 2), VOCAB_SIZE, CUDA, dtype)
    one.weights.weights["embed_tokens.weight"].fill_(float("nan"))
    one.weights.publish()
    one.accumulate(*batch())
    one.model.eval()
    loss, _ = one.score(*batch())

    assert loss.isnan()
    assert torch.ones(3, device=CUDA).sum().item() == 3


def test_memory_of_a_learner_let_go_comes_back(capturing):
    learner_cache.clear()
    before = torch.cuda.memory_reserved()
    for num_experts in (4, 8, 16):
        learner_cache.get_or_build(shaped(num_experts, 2), VOCAB_SIZE, CUDA, capturing)

    learner_cache.clear()
    # What libraries keep for their streams stays; it does not grow with the number of learners.
    kept = torch.cuda.memory_reserved() - before
    for num_experts in (4, 8, 16):
        learner_cache.get_or_build(shaped(num_experts, 2), VOCAB_SIZE, CUDA, capturing)

    learner_cache.clear()
    assert torch.cuda.memory_reserved() - before <= kept
