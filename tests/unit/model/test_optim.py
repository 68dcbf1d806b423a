import math

import pytest
import torch
from small_model import small_model

from model.config import OptimConfig
from model.optim import ADAMW_EPS, Muon, MuonAdamW, orthogonalise
from model.weights import MasterWeights, WeightGroup

SHAPES = ((16, 16), (8, 16), (24, 16), (16, 24), (48, 8))
LRS = {"muon_lr": 0.02, "adamw_lr": 0.003}


def scalar(value):
    return torch.tensor(float(value))


def group(weight, grad, copy=None):
    return WeightGroup(f"{weight.shape[-2]}x{weight.shape[-1]}", weight, grad, copy)


def random_groups(count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pairs = [[torch.randn(count, *shape, generator=generator) for _ in range(2)] for shape in SHAPES]
    return [group(weight, grad) for weight, grad in pairs]


def muon_step(muon, lr=0.1, beta=0.9, weight_decay=0.0, factor=1.0, keep=1.0):
    muon.update(*map(scalar, (lr, beta, weight_decay, factor, keep)))


def polar_factor(matrix):
    u, _, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u @ vh


@pytest.mark.parametrize(
    ("rows", "columns"), [(4, 4), (16, 16), (8, 64), (32, 48), (64, 8), (48, 32), (20, 1), (1, 20)]
)
def test_orthogonalise_against_the_svd(rows, columns):
    matrices = torch.randn(5, rows, columns, generator=torch.Generator().manual_seed(rows))
    result = orthogonalise(matrices)

    assert result.shape == matrices.shape

    for matrix, answer in zip(matrices, result.double(), strict=True):
        u, before, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
        in_basis = u.T @ answer @ vh.T
        torch.testing.assert_close(in_basis, torch.diag(in_basis.diagonal()), atol=2e-5, rtol=0)
        # The quintic's band, for singular values not too small to be lifted by five iterations.
        inside = in_basis.diagonal()[before > 0.01 * matrix.norm()]
        assert inside.min() > 0.65
        assert inside.max() < 1.25


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_tall_matrix_is_its_transpose_turned(dtype):
    matrices = torch.randn(3, 40, 16, generator=torch.Generator().manual_seed(0))
    tall, wide = orthogonalise(matrices, dtype), orthogonalise(matrices.mT.contiguous(), dtype)
    assert tall.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(tall, wide.mT, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("scale", [1e-7, 1e-12, 1e6])
@pytest.mark.parametrize(("rows", "columns"), [(8, 16), (16, 8)])
def test_orthogonalise_does_not_depend_on_the_gradients_size(scale, rows, columns):
    matrices = torch.randn(2, rows, columns, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        expected = orthogonalise(matrices, dtype)
        torch.testing.assert_close(orthogonalise(matrices * scale, dtype), expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1e-16, 1e-20, 1e-30, 1e-37, 1e-42])
def test_what_is_too_small_for_its_squares_is_no_large_update(scale, dtype):
    """The norm of such a matrix vanishes before its elements do."""
    matrices = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))
    result = orthogonalise(matrices * scale, dtype)
    assert result.abs().max() <= 1.25  # a NaN is not


def test_an_expert_without_tokens_comes_to_rest():
    """Its momentum shrinks through all magnitudes of fp32, and is gone in the end."""
    groups = random_groups()
    muon = Muon(groups)
    muon_step(muon, beta=0.85)
    for each in groups:
        each.grad.zero_()

    for step in range(1_000):
        before = [each.weight.clone() for each in groups]
        muon_step(muon, beta=0.85)
        assert all(each.weight.isfinite().all() for each in groups), step
    assert all(torch.equal(each.weight, weight) for each, weight in zip(groups, before, strict=True))


@pytest.mark.parametrize(("rows", "columns"), [(4, 8), (8, 4)])
def test_orthogonalise_leaves_a_zero_matrix_zero_beside_others(rows, columns):
    matrices = torch.zeros(2, rows, columns)
    matrices[1] = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    assert torch.equal(orthogonalise(matrices)[0], torch.zeros(rows, columns))
    torch.testing.assert_close(orthogonalise(matrices)[1:], orthogonalise(matrices[1:]))


def test_batched_update_equals_one_matrix_at_a_time():
    groups, alone = random_groups(), random_groups()
    muon = Muon(groups)
    singles = [
        Muon([group(each.weight[i : i + 1], each.grad[i : i + 1])]) for each in alone for i in range(len(each.weight))
    ]

    for factor in (1.0, -0.5, 2.0):  # changing gradients, so that momentum counts
        for each in (*groups, *alone):
            each.grad.mul_(factor)
        for optimizer in (muon, *singles):
            muon_step(optimizer, weight_decay=0.01)

    for each, single in zip(groups, alone, strict=True):
        torch.testing.assert_close(each.weight, single.weight, atol=1e-5, rtol=1e-4)


def test_update_points_along_the_svds_and_scales_with_out_over_in():
    groups = random_groups()
    before = [each.weight.clone() for each in groups]
    muon_step(Muon(groups), beta=0.0)

    for each, old in zip(groups, before, strict=True):
        _, out_features, in_features = old.shape
        scale = math.sqrt(max(1.0, out_features / in_features))
        for step, grad in zip((old - each.weight) / (0.1 * scale), each.grad, strict=True):
            ideal = polar_factor(grad)
            cosine = (step.double() * ideal).sum() / (step.norm() * ideal.norm())
            assert cosine > 0.96
            assert 0.65 < step.norm() / ideal.norm() < 1.2


def test_momentum_averages_gradients_and_looks_ahead():
    one = group(torch.zeros(1, 8, 8), torch.eye(8)[None].clone())
    muon = Muon([one])
    muon_step(muon, lr=1.0, beta=0.5)
    one.grad.zero_()
    muon_step(muon, lr=1.0, beta=0.5)

    torch.testing.assert_close(muon.momenta["8x8"], 0.25 * torch.eye(8)[None])
    assert one.weight.diagonal(dim1=1, dim2=2).max() < -1.3  # the second step went on although its gradient was zero


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.95])
def test_nesterovs_look_ahead_by_hand(beta):
    grads = torch.randn(3, 1, 8, 16, generator=torch.Generator().manual_seed(1))
    one = group(torch.zeros(1, 8, 16), torch.zeros(1, 8, 16))
    muon, momentum, expected = Muon([one]), torch.zeros(1, 8, 16), torch.zeros(1, 8, 16)

    for grad in grads:
        one.grad.copy_(grad)
        muon_step(muon, beta=beta)
        momentum = beta * momentum + (1 - beta) * grad
        expected = expected - 0.1 * orthogonalise((1 - beta) * grad + beta * momentum)

    torch.testing.assert_close(one.weight, expected, atol=1e-5, rtol=1e-4)


def test_weight_decay_is_decoupled():
    one = group(torch.ones(1, 8, 8), torch.zeros(1, 8, 8))
    muon_step(Muon([one]), weight_decay=0.5)
    torch.testing.assert_close(one.weight, torch.full((1, 8, 8), 0.95))


def test_gradients_count_as_multiplied_by_the_factor():
    """Without it momentum would mix steps of different loss scales."""
    scaled, plain = random_groups(), random_groups()
    optimizers = Muon(scaled), Muon(plain)
    for factor in (1.0, 0.25, 2.0**-16):
        for each, other in zip(scaled, plain, strict=True):
            each.grad.copy_(other.grad / factor)
        muon_step(optimizers[0], factor=factor)
        muon_step(optimizers[1])

    for each, other in zip(scaled, plain, strict=True):
        torch.testing.assert_close(each.weight, other.weight, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(optimizers[0].momenta[each.name], optimizers[1].momenta[each.name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_copies_follow_the_weights(dtype):
    groups = [group(each.weight, each.grad, each.weight.to(dtype)) for each in random_groups()]
    muon_step(Muon(groups), weight_decay=0.1)
    for each, start in zip(groups, random_groups(), strict=True):
        assert not torch.equal(each.weight, start.weight)
        assert torch.equal(each.copy, each.weight.to(dtype))


def master_weights(seed=0, dtype=torch.float32):
    weights = MasterWeights(small_model(seed), dtype)
    draw_gradients(weights)
    return weights


def draw_gradients(weights, seed=0):
    for number, grad in enumerate(weights.grads.values()):
        grad.normal_(generator=torch.Generator().manual_seed(1000 * seed + number))


def make(weights, **config):
    """Both optimizers, at fixed learning rates."""
    optimizer = MuonAdamW(weights.groups, OptimConfig.model_validate(config))
    for name, lr in LRS.items():
        optimizer.scalars[name].fill_(lr)
    return optimizer


def step(optimizer, factor=1.0, keep=1.0):
    optimizer.update(scalar(factor), scalar(keep))


def copies(tensors):
    return {name: tensor.clone() for name, tensor in tensors.items()}


def assert_equal(tensors, expected):
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, expected[name]), name


def test_every_weight_has_one_optimizer():
    weights = master_weights()
    optimizer = make(weights)
    muon, rest = ({each.name for each in groups} for groups in (optimizer.muon.groups, optimizer.rest))

    assert muon | rest == set(weights.groups)
    assert rest == {"embedding", "router", "vector"}

    before = copies(weights.weights)
    optimizer.scalars["adamw_lr"].zero_()
    step(optimizer)
    moved = {name for name, weight in weights.weights.items() if not torch.equal(weight, before[name])}
    kinds = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight", "gate_up_proj", "down_proj")

    assert moved == {name for name in before if name.endswith(kinds)}


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_rest_equals_plain_adamw_with_the_gains_not_decayed(weight_decay):
    weights = master_weights()
    optimizer = make(weights, weight_decay=weight_decay, adamw_beta1=0.8, adamw_beta2=0.9)
    twins = {
        name: weight.clone().requires_grad_()
        for name, weight in weights.weights.items()
        if "_proj" not in name  # the hidden matrices
    }
    plain_decay = weight_decay * LRS["muon_lr"] / LRS["adamw_lr"]  # as fast as Muon's
    plain = torch.optim.AdamW(
        [
            {"params": [twin for twin in twins.values() if twin.ndim == 2], "weight_decay": plain_decay},
            {"params": [twin for twin in twins.values() if twin.ndim == 1], "weight_decay": 0.0},
        ],
        lr=LRS["adamw_lr"],
        betas=(0.8, 0.9),
        eps=ADAMW_EPS,
        foreach=False,
    )

    for seed in range(3):
        draw_gradients(weights, seed)
        for name, twin in twins.items():
            twin.grad = weights.grads[name].clone()
        step(optimizer)
        plain.step()

    for name, twin in twins.items():
        torch.testing.assert_close(weights.weights[name], twin.detach(), atol=1e-6, rtol=1e-5)


def test_the_hidden_matrices_equal_muon_one_by_one():
    weights = master_weights()
    optimizer = make(weights, weight_decay=0.1, muon_momentum=0.8)
    singles, expected = [], {}

    for name, weight in weights.weights.items():
        if "_proj" not in name:
            continue
        expected[name], grad = weight.clone(), weights.grads[name].clone()
        shape = (-1, weight.shape[-2] // (2 if "gate_up" in name else 1), weight.shape[-1])
        pairs = zip(expected[name].view(shape).split(1), grad.view(shape).split(1), strict=True)
        singles += [Muon([group(*pair)]) for pair in pairs]

    for _ in range(2):
        step(optimizer)
        for single in singles:
            muon_step(single, LRS["muon_lr"], 0.8, 0.1)

    for name, weight in expected.items():
        torch.testing.assert_close(weights.weights[name], weight, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("first", [True, False])  # with no state yet, and with some
def test_a_step_that_is_not_finite_changes_nothing(dtype, first):
    weights = master_weights(dtype=dtype)
    optimizer = make(weights, weight_decay=0.1)
    if not first:
        step(optimizer)
    state, before = copies(optimizer.state_tensors()), copies(weights.weights)
    half = {name: each.copy.clone() for name, each in weights.groups.items() if each.copy is not None}

    for grad in weights.grads.values():
        grad.view(-1)[0] = math.inf
        grad.view(-1)[-1] = math.nan

    for factor in (1.0, 0.0, math.nan):  # what averaging and clipping make of such a norm
        step(optimizer, factor, keep=0.0)
        assert_equal(weights.weights, before)
        assert_equal(optimizer.state_tensors(), state)
        assert_equal({name: weights.groups[name].copy for name in half}, half)


def test_a_skipped_step_leaves_no_trace_in_later_ones():
    interrupted, plain = master_weights(), master_weights()
    first, second = make(interrupted, weight_decay=0.1), make(plain, weight_decay=0.1)
    for seed in range(3):
        for grad in interrupted.grads.values():
            grad.fill_(math.inf)
        step(first, keep=0.0)
        for weights, optimizer in ((interrupted, first), (plain, second)):
            draw_gradients(weights, seed)
            step(optimizer)

    assert_equal(interrupted.weights, plain.weights)
    assert_equal(first.state_tensors(), second.state_tensors())


def test_the_factor_divides_out_of_gradients():
    scaled, plain = master_weights(), master_weights()
    first, second = make(scaled), make(plain)
    for factor in (0.25, 2.0**-10, 1.0):
        for name, grad in scaled.grads.items():
            grad.copy_(plain.grads[name] / factor)
        step(first, factor)
        step(second)

    for name, weight in plain.weights.items():
        torch.testing.assert_close(scaled.weights[name], weight, atol=1e-6, rtol=1e-5)


def test_settings_are_read_from_the_scalars_at_every_step():
    changed, fixed = master_weights(), master_weights()
    first, second = make(changed, weight_decay=0.1), make(fixed, weight_decay=0.2, muon_momentum=0.5)
    first.scalars["weight_decay"].fill_(0.2)
    first.scalars["muon_momentum"].fill_(0.5)

    for lr in (0.0, 0.1, 0.02):
        for optimizer in (first, second):
            optimizer.scalars["muon_lr"].fill_(lr)
            optimizer.scalars["adamw_lr"].fill_(lr / 10)
            step(optimizer)
        if lr == 0.0:
            assert_equal(changed.weights, MasterWeights(small_model(), torch.float32).weights)

    assert_equal(changed.weights, fixed.weights)
    assert not torch.equal(changed.weights["norm.weight"], torch.ones(32))


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_configuring_forgets_all_state_and_takes_the_settings(weight_decay):
    used, fresh = master_weights(), master_weights()
    first = make(used, weight_decay=0.1, muon_momentum=0.9)
    start = copies(used.weights)

    for seed in range(3):
        draw_gradients(used, seed)
        step(first)

    for name, weight in used.weights.items():
        weight.copy_(start[name])

    config = {"weight_decay": weight_decay, "muon_momentum": 0.4}
    first.configure(OptimConfig.model_validate(config))
    second = make(fresh, **config)

    assert_equal(first.state_tensors(), second.state_tensors())

    for seed in range(2):
        for weights, optimizer in ((used, first), (fresh, second)):
            draw_gradients(weights, seed)
            step(optimizer)

    assert_equal(used.weights, fresh.weights)


def test_making_the_optimizers_moves_nothing_and_leaves_no_state():
    weights = master_weights()
    before = copies(weights.weights)
    optimizer = MuonAdamW(weights.groups, OptimConfig())
    assert_equal(weights.weights, before)
    assert all((tensor == 0).all() for tensor in optimizer.state_tensors().values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_published_weights_follow_but_the_routers_stay_fp32(dtype):
    weights = master_weights(dtype=dtype)
    step(make(weights))
    for name, each in weights.groups.items():
        if name == "router":
            assert each.copy is None
        else:
            assert torch.equal(each.copy, each.weight.to(dtype))


def test_state_can_be_moved_to_another_optimizer():
    weights, copy = master_weights(), master_weights(seed=1)
    first, second = make(weights), make(copy)
    for seed in range(2):
        draw_gradients(copy, seed)
        step(second)  # what it has of its own must go

    step(first)
    for name, weight in copy.weights.items():
        weight.copy_(weights.weights[name])
        copy.grads[name].copy_(weights.grads[name])

    second.load_state_tensors(copies(first.state_tensors()))
    for optimizer in (first, second):
        step(optimizer)

    assert_equal(copy.weights, weights.weights)
