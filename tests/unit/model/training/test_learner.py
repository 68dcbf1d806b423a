"""The guards on gradients: accumulation, averaging, clipping, skipped steps."""

import pytest
import torch
from small_model import VOCAB_SIZE, random_tokens, small_config

from model.training.learner import Learner

CPU = torch.device("cpu")


def learner(dtype=torch.float32, **sections):
    return Learner(small_config(**sections), VOCAB_SIZE, CPU, dtype)


def gradients_of(one):
    return {name: grad.clone() for name, grad in one.weights.grads.items()}


def micro_batches(count, batch=4):
    tokens = random_tokens(count * batch, 17, seed=1)
    return [(part[:, :-1], part[:, 1:].contiguous()) for part in tokens.split(batch)]


def weights_of(one):
    return {name: weight.detach().clone() for name, weight in one.weights.weights.items()}


def test_four_accumulated_micro_batches_equal_one_large_batch():
    """With router losses on: they are means over sequences, so that splitting a batch cannot change them."""
    parts = micro_batches(4)
    whole = [torch.cat(halves) for halves in zip(*parts, strict=True)]
    split, large = learner(model={"init_std": 0.2}), learner(model={"init_std": 0.2})

    for part in parts:
        split.accumulate(*part)

    large.accumulate(*whole)
    for name, grad in gradients_of(large).items():
        torch.testing.assert_close(split.weights.grads[name], grad, atol=4e-6, rtol=1e-3)

    split.update(1.0)
    large.update(1.0)

    torch.testing.assert_close(split.grad_norm, large.grad_norm)

    for name, weight in weights_of(large).items():
        torch.testing.assert_close(weights_of(split)[name], weight, atol=2e-4, rtol=1e-3)


def test_a_short_last_group_is_averaged_over_what_it_has():
    """Also when its last pass is smaller than the others: each sequence counts the same."""
    parts = micro_batches(3)
    short = [*parts[:2], [half[:2] for half in parts[2]]]
    for group in (parts, short):
        split, reference = learner(), learner()
        for part in group:
            split.accumulate(*part)
        reference.accumulate(*[torch.cat(halves) for halves in zip(*group, strict=True)])
        for one in (split, reference):
            one.update(1.0)
        torch.testing.assert_close(split.grad_norm, reference.grad_norm)
        torch.testing.assert_close(split.meters["loss"] / split_passes(group), reference_loss(group), rtol=1e-4, atol=0)


def split_passes(group):
    return sum(len(tokens) for tokens, _ in group) / 4


def reference_loss(group):
    one = learner()
    tokens, targets = (torch.cat(halves) for halves in zip(*group, strict=True))
    loss, _ = one.score(tokens, targets)
    return (loss / targets.numel()).float()


def test_an_update_needs_something_accumulated():
    one = learner()
    with pytest.raises(ValueError, match="nothing was accumulated since the last update"):
        one.update(1.0)

    one.accumulate(*micro_batches(1)[0])
    one.update(1.0)

    with pytest.raises(ValueError, match="nothing was accumulated"):
        one.update(1.0)


@pytest.mark.parametrize("grad_clip", [0.0, 0.01, 100.0])
def test_clipping_bounds_the_norm_the_optimizers_see(grad_clip, monkeypatch):
    one = learner(optim={"grad_clip": grad_clip})
    one.accumulate(*micro_batches(1)[0])
    raw = torch.cat([grad.double().flatten() for grad in one.weights.grads.values()]).norm().item()
    seen = []
    monkeypatch.setattr(one.optimizer, "update", lambda factor, keep: seen.append(factor.item() * raw))
    one.update(1.0)

    assert one.grad_norm.item() == pytest.approx(raw, rel=1e-5)
    assert seen == [pytest.approx(min(raw, grad_clip or raw), rel=1e-4)]


def test_learning_rate_zero_changes_nothing():
    one = learner()
    before = weights_of(one)
    one.accumulate(*micro_batches(1)[0])
    one.update(0.0)
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(one).items())


def test_fp16_overflow_skips_the_step_counts_it_and_recovers():
    one = learner(torch.float16)
    one.loss_scale.scale.fill_(2.0**40)  # scaled gradients do not fit fp16: real infinities
    part = micro_batches(1)[0]
    one.accumulate(*part)
    one.update(1.0)
    before = weights_of(one)

    assert not torch.isfinite(one.grad_norm)

    state = {name: tensor.clone() for name, tensor in one.optimizer.state_tensors().items()}
    one.accumulate(*part)
    one.update(1.0)

    assert one.loss_scale.skipped_steps == 2
    assert one.loss_scale.scale == 2.0**38
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(one).items())

    after = one.optimizer.state_tensors()
    assert all(torch.equal(tensor, after[name]) for name, tensor in state.items())

    one.loss_scale.scale.fill_(2.0**10)
    one.accumulate(*part)
    one.update(1.0)

    assert one.loss_scale.skipped_steps == 2
    assert not torch.equal(weights_of(one)["norm.weight"], before["norm.weight"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gradients_are_close_to_fp32(dtype):
    part = micro_batches(1)[0]
    exact, half = learner(), learner(dtype)
    exact.accumulate(*part)
    half.accumulate(*part)
    exact.update(1.0)
    half.update(1.0)

    torch.testing.assert_close(half.grad_norm, exact.grad_norm, rtol=0.02, atol=0)
    torch.testing.assert_close(half.meters["loss"], exact.meters["loss"], rtol=0.01, atol=0)


def test_router_losses_reach_the_gradient_but_not_the_reported_loss():
    part = micro_batches(1)[0]
    plain = learner(model={"aux_loss_coef": 0.0, "z_loss_coef": 0.0})
    heavy = learner(model={"aux_loss_coef": 5.0, "z_loss_coef": 5.0})
    plain.accumulate(*part)
    heavy.accumulate(*part)

    assert torch.equal(plain.meters["loss"], heavy.meters["loss"])

    name = "layers.0.mlp.gate.weight"
    assert heavy.weights.grads[name].norm() > 2 * plain.weights.grads[name].norm()


def test_a_run_with_another_seed_starts_from_other_weights():
    assert weights_of(learner())["norm.weight"].sum() == 32

    first, again, other = (weights_of(learner(**kw)) for kw in ({}, {}, {}))
    assert torch.equal(first["embed_tokens.weight"], again["embed_tokens.weight"])

    other = Learner(small_config().model_copy(update={"seed": 1}), VOCAB_SIZE, CPU, torch.float32)
    assert not torch.equal(first["embed_tokens.weight"], weights_of(other)["embed_tokens.weight"])
