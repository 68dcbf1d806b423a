"""A learner's gradients against autograd's own, and its runs: repeated, resumed, one after another on one learner."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from learner_runs import CPU, assert_same, config_of, go_on, make, passes, state_of
from small_model import VOCAB_SIZE

from model.training.learner import Learner

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


def objective(one, tokens, targets):
    """The loss as it would be written for autograd: whole logits, router losses added."""
    model, config = one.model, one.config.model
    x, stats = model(tokens)
    loss = F.cross_entropy(F.linear(x, model.embed_tokens.weight).flatten(0, 1), targets.flatten().long())
    return loss, loss + config.aux_loss_coef * stats.aux_loss + config.z_loss_coef * stats.z_loss


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_gradients_equal_autograds_of_the_loss_written_out(dropout):
    """Also the tied embedding's, which is table and head at once."""
    coefs = {"aux_loss_coef": 0.5, "z_loss_coef": 0.1}
    one = make(config_of(model={"dropout": dropout} | coefs))
    (part,) = passes(1)
    rng = torch.get_rng_state()
    one.accumulate(*part)
    torch.set_rng_state(rng)
    loss, total = objective(one, *part)
    expected = torch.autograd.grad(total, list(one.model.parameters()))

    torch.testing.assert_close(one.meters["loss"], loss.detach())

    for (name, _), grad in zip(one.model.named_parameters(), expected, strict=True):
        torch.testing.assert_close(one.weights.grads[name], grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_gradients_point_where_fp32s_do(dtype):
    """Parameter by parameter, over two passes; the routing of the copies is what fp32 would choose nearly always."""
    exact, half = (make(config_of(model={"dropout": 0.0}), kind) for kind in (torch.float32, dtype))
    for part in passes(2):
        exact.accumulate(*part)
        half.accumulate(*part)

    for name, grad in exact.weights.grads.items():
        other = half.weights.grads[name] / half.loss_scale.scale
        assert other.dtype == torch.float32
        assert F.cosine_similarity(other.flatten(), grad.flatten(), dim=0) > 0.98, name
        assert 0.9 < other.norm() / grad.norm() < 1.1, name


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 12])
def test_the_size_of_passes_does_not_change_an_update(limit):
    """A limit of memory only: 4 x 3 sequences make one step, in passes of any size."""
    model = {"dropout": 0.0}
    whole, split = make(config_of(model=model)), make(config_of(model=model, system={"max_pass_sequences": limit}))

    assert split.config.pass_sequences == limit

    for one in (whole, split):
        sequences = [torch.cat(halves) for halves in zip(*passes(3), strict=True)]
        for part in zip(*(half.split(one.config.pass_sequences) for half in sequences), strict=True):
            one.accumulate(*part)
        assert one.pending * one.config.pass_sequences == 12
        for meter in one.meters.values():
            meter.mul_(one.config.pass_sequences)
        one.update(1.0)

    torch.testing.assert_close(split.grad_norm, whole.grad_norm)
    torch.testing.assert_close(split.meters["loss"], whole.meters["loss"])
    torch.testing.assert_close(split.meters["aux_loss"], whole.meters["aux_loss"])

    for name, weight in whole.weights.weights.items():
        torch.testing.assert_close(split.weights.weights[name], weight, atol=2e-4, rtol=1e-3)


def test_an_overflow_in_one_pass_of_several_skips_the_whole_step():
    one = make(config_of(), torch.float16)
    go_on(one, passes(3))
    before = state_of(one)
    parts = passes(3, seed=2)
    one.accumulate(*parts[0])
    one.loss_scale.scale.mul_(2.0**24)
    one.accumulate(*parts[1])
    one.loss_scale.scale.mul_(2.0**-24)
    one.accumulate(*parts[2])
    one.update(1.0)

    assert one.loss_scale.skipped_steps == 1

    after = state_of(one)
    for name, value in before.items():
        if name.startswith(("weight.", "optimizer.", "parameter.")):
            assert torch.equal(after[name], value), name

    go_on(one, passes(3, seed=3))
    assert not torch.equal(one.weights.weights["norm.weight"], before["weight.norm.weight"])
    assert all(torch.isfinite(weight).all() for weight in one.weights.weights.values())


def test_updates_leave_no_gradient_behind():
    one = make(config_of(model={"dropout": 0.0}))
    go_on(one, passes(3))
    assert one.pending == 0
    assert all((grad == 0).all() for grad in one.weights.grads.values())


@DTYPES
def test_a_run_repeats_bit_for_bit(dtype):
    first = make(config_of(), dtype)
    norms = go_on(first, passes(7))
    state = state_of(first)
    again = make(config_of(), dtype)
    assert go_on(again, passes(7)) == norms
    assert_same(state_of(again), state)


@DTYPES
@pytest.mark.parametrize("stop", [6, 7, 8])  # between updates, and with one or two passes accumulated
def test_a_resumed_run_equals_one_that_was_not_interrupted(dtype, stop):
    parts = passes(12)
    whole = make(config_of(), dtype)
    go_on(whole, parts)
    expected = state_of(whole)
    stopped = make(config_of(), dtype)
    go_on(stopped, parts[:stop])
    saved = {
        part: {name: value.clone() for name, value in named.items()} for part, named in stopped.state_tensors().items()
    }
    at_the_stop = state_of(stopped)

    assert bool(saved["grad"]) == (stop % 3 > 0)

    resumed = make(config_of(seed=9), dtype)
    go_on(resumed, passes(2, seed=5))  # what it has accumulated and drawn by itself must go
    resumed.load_state_tensors(saved, stopped.pending)

    assert resumed.pending == stopped.pending
    assert_same(state_of(resumed), at_the_stop)

    go_on(resumed, parts[stop:], first=stop)
    assert_same(state_of(resumed), expected)


CHANGES = {
    "nothing": {},
    "seed": {"seed": 5},
    "learning rates": {"optim": {"muon_lr": 0.05, "adamw_lr": 0.001}},
    "momentum": {"optim": {"muon_momentum": 0.5}},
    "dropout": {"model": {"dropout": 0.4}},
    "decay": {"optim": {"weight_decay": 0.5}},
    "clipping": {"optim": {"grad_clip": 0.05}},
    "router losses": {"model": {"aux_loss_coef": 0.5, "z_loss_coef": 0.0}},
    "initial weights": {"model": {"init_std": 0.1}},
    "all": {
        "seed": 7,
        "model": {"dropout": 0.3, "aux_loss_coef": 0.0, "z_loss_coef": 0.2, "init_std": 0.05},
        "optim": {"muon_lr": 0.1, "adamw_lr": 0.01, "muon_momentum": 0.8, "weight_decay": 0.3, "grad_clip": 5.0},
    },
}


def wear(one):
    """Leave traces of every kind: weights, state, a loss scale that moved, half a batch, evaluation mode."""
    go_on(one, passes(7, seed=8))
    one.loss_scale.scale.mul_(0.5)
    one.loss_scale.skipped_steps.add_(3)
    one.model.eval()


@DTYPES
@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES.keys())
def test_a_learner_started_again_equals_a_fresh_one_in_every_tensor(dtype, changes):
    config = config_of(**changes)
    assert Learner.key(config, VOCAB_SIZE, CPU, dtype) == Learner.key(config_of(), VOCAB_SIZE, CPU, dtype)

    used = make(config_of(), dtype)
    wear(used)
    used.start(config)
    begun = state_of(used)
    norms = go_on(used, passes(7))
    state = state_of(used)
    fresh = make(config, dtype)

    assert_same(state_of(fresh), begun)
    assert go_on(fresh, passes(7)) == norms
    assert_same(state_of(fresh), state)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"dropout": 0.0}},
        {"model": {"top_k": 1}},
        {"model": {"seq_len": 8}},
        {"model": {"norm_eps": 1e-5}},
        {"optim": {"weight_decay": 0.0}},
        {"optim": {"grad_clip": 0.0}},
        {"optim": {"adamw_beta1": 0.8}},
        {"system": {"max_pass_sequences": 2}},
        {"system": {"flash_attention": False}},
    ],
    ids=str,
)
def test_what_cannot_be_started_again_has_another_key(changes):
    one, other = config_of(), config_of(**changes)
    assert Learner.key(one, VOCAB_SIZE, CPU, torch.float32) != Learner.key(other, VOCAB_SIZE, CPU, torch.float32)


def test_vocabulary_and_number_format_belong_to_the_key():
    config = config_of()
    keys = {
        Learner.key(config, vocab_size, CPU, dtype)
        for vocab_size in (VOCAB_SIZE, VOCAB_SIZE + 1)
        for dtype in (torch.float32, torch.float16)
    }

    assert len(keys) == 4


def test_equal_batches_in_equal_passes_share_a_key():
    """Micro-batch and accumulation only say how many passes make a step."""
    keys = {
        Learner.key(config_of(optim={"grad_accum_steps": steps}, system=system), VOCAB_SIZE, CPU, torch.float32)
        for steps, system in ((1, {}), (3, {}), (2, {"micro_batch_size": 8, "max_pass_sequences": 4}))
    }
    assert len(keys) == 1
