import math

import pytest
import torch
from small_model import small_model

from model.config import OptimConfig
from model.optim import Muon, MuonAdamW, is_muon_weight, orthogonalise

SHAPES = {
    "layers.0.self_attn.q_proj.weight": (16, 16),
    "layers.0.self_attn.k_proj.weight": (8, 16),
    "layers.0.mlp.experts.gate_up_proj": (3, 48, 16),
    "layers.0.mlp.experts.down_proj": (3, 16, 24),
}


def random_weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    for weight in weights.values():
        weight.grad = torch.randn(weight.shape, generator=generator)
    return weights


def polar_factor(matrix):
    u, _, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u @ vh


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (16, 16), (8, 64), (32, 48)])
def test_orthogonalise_against_the_svd(rows, columns):
    matrices = torch.randn(5, rows, columns, generator=torch.Generator().manual_seed(rows))
    result = orthogonalise(matrices).double()
    for matrix, answer in zip(matrices, result, strict=True):
        u, before, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
        in_basis = u.T @ answer @ vh.T
        torch.testing.assert_close(in_basis, torch.diag(in_basis.diagonal()), atol=2e-5, rtol=0)
        # The quintic's band, for singular values not too small to be lifted by five iterations.
        inside = in_basis.diagonal()[before > 0.01 * matrix.norm()]
        assert inside.min() > 0.65
        assert inside.max() < 1.25


@pytest.mark.parametrize("scale", [1e-7, 1e-15, 1e6])
def test_orthogonalise_does_not_depend_on_the_gradients_size(scale):
    matrices = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        expected = orthogonalise(matrices, dtype)
        torch.testing.assert_close(orthogonalise(matrices * scale, dtype), expected, atol=0.02, rtol=0.02)


def test_orthogonalise_leaves_a_zero_matrix_zero():
    assert torch.equal(orthogonalise(torch.zeros(1, 4, 8)), torch.zeros(1, 4, 8))


def test_batched_update_equals_one_matrix_at_a_time():
    weights, alone = random_weights(), random_weights()
    muon = Muon(weights, momentum=0.9, weight_decay=0.01)
    singles = {}
    for name, weight in alone.items():
        parts = weight.view(-1, 24, 16) if "gate_up" in name else weight.view(-1, *weight.shape[-2:])
        grads = weight.grad.view_as(parts)
        for index in range(len(parts)):
            single = parts[index]
            single.grad = grads[index]
            singles[f"{name}.{index}"] = (single, Muon({f"{name[:10]}.{index}.weight": single}, 0.9, 0.01))
    for factor in (1.0, -0.5, 2.0):  # changing gradients, so that momentum counts
        for weight in weights.values():
            weight.grad.mul_(factor)
        for weight in alone.values():
            weight.grad.mul_(factor)
        muon.step(0.1)
        for _, optimizer in singles.values():
            optimizer.step(0.1)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, alone[name], atol=1e-5, rtol=1e-4)


def test_update_follows_nesterov_momentum_and_the_scale_of_out_over_in():
    weights = random_weights()
    before = {name: weight.clone() for name, weight in weights.items()}
    Muon(weights, momentum=0.0, weight_decay=0.0).step(0.1)
    for name, scale in (("down_proj", 1.0), ("k_proj.weight", 1.0), ("gate_up_proj", math.sqrt(24 / 16))):
        full = next(key for key in weights if key.endswith(name))
        update = ((before[full] - weights[full]) / (0.1 * scale)).view(
            -1, 24 if "gate" in name else weights[full].shape[-2], weights[full].shape[-1]
        )
        gradient = weights[full].grad.view_as(update)
        for step, grad in zip(update, gradient, strict=True):
            ideal = polar_factor(grad)
            cosine = (step.double() * ideal).sum() / (step.norm() * ideal.norm())
            assert cosine > 0.96
            assert 0.65 < step.norm() / ideal.norm() < 1.2


def test_momentum_averages_gradients():
    weight = torch.zeros(8, 8)
    weight.grad = torch.eye(8)
    muon = Muon({"w.weight": weight}, momentum=0.5, weight_decay=0.0)
    muon.step(1.0)
    weight.grad = torch.zeros(8, 8)
    muon.step(1.0)
    torch.testing.assert_close(muon.momenta[(8, 8)], 0.25 * torch.eye(8)[None])
    assert weight.diagonal().max() < -1.3  # the second step went on although its gradient was zero


def test_weight_decay_is_decoupled():
    weight = torch.ones(8, 8)
    weight.grad = torch.zeros(8, 8)
    Muon({"w.weight": weight}, momentum=0.9, weight_decay=0.5).step(0.1)
    torch.testing.assert_close(weight, torch.full((8, 8), 0.95))


def test_learning_rate_may_be_a_tensor():
    by_float, by_tensor = random_weights(), random_weights()
    Muon(by_float, 0.9, 0.1).step(0.02)
    Muon(by_tensor, 0.9, 0.1).step(torch.tensor(0.02))
    for name in SHAPES:
        torch.testing.assert_close(by_float[name], by_tensor[name])


def model_weights(seed=0):
    weights = {name: parameter.detach() for name, parameter in small_model(seed).named_parameters()}
    for weight in weights.values():
        weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
    return weights


def test_every_weight_has_one_optimizer():
    weights = model_weights()
    optimizer = MuonAdamW(weights.items(), OptimConfig())
    muon = {name for group in optimizer.muon.groups.values() for name, _ in group}
    assert muon | set(optimizer.rest) == set(weights)
    assert not muon & set(optimizer.rest)
    kinds = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight", "gate_up_proj", "down_proj")
    assert muon == {name for name in weights if name.endswith(kinds)}
    assert not is_muon_weight("embed_tokens.weight", weights["embed_tokens.weight"])


def test_a_step_that_is_not_finite_changes_nothing():
    weights = model_weights()
    optimizer = MuonAdamW(weights.items(), OptimConfig(weight_decay=0.1))
    finite, overflow = torch.ones(()), torch.zeros(())
    optimizer.step(0.02, 0.003, finite)
    state = {name: tensor.clone() for name, tensor in optimizer.state_tensors().items()}
    before = {name: weight.clone() for name, weight in weights.items()}
    for weight in weights.values():
        weight.grad.view(-1)[0] = math.inf
        weight.grad.view(-1)[-1] = math.nan
    optimizer.step(0.02, 0.003, overflow)
    for name, weight in weights.items():
        assert torch.equal(weight, before[name]), name
    for name, tensor in optimizer.state_tensors().items():
        assert torch.equal(tensor, state[name]), name


def test_a_finite_flag_of_one_equals_no_flag():
    flagged, plain = model_weights(), model_weights()
    first = MuonAdamW(flagged.items(), OptimConfig(weight_decay=0.1))
    second = MuonAdamW(plain.items(), OptimConfig(weight_decay=0.1))
    for _ in range(3):
        first.step(0.02, 0.003, torch.ones(()))
        second.step(0.02, 0.003)
    for name in plain:
        torch.testing.assert_close(flagged[name], plain[name], atol=1e-6, rtol=1e-5)


def test_state_can_be_moved_to_another_optimizer():
    weights, copy = model_weights(), model_weights()
    first = MuonAdamW(weights.items(), OptimConfig())
    first.step(0.02, 0.003)
    saved = {name: tensor.clone() for name, tensor in first.state_tensors().items()}
    for name, weight in copy.items():
        weight.copy_(weights[name])
    second = MuonAdamW(copy.items(), OptimConfig())
    second.load_state_tensors(saved)
    first.step(0.02, 0.003)
    second.step(0.02, 0.003)
    for name in weights:
        assert torch.equal(weights[name], copy[name]), name


def test_a_missing_gradient_is_named():
    with pytest.raises(ValueError, match=r"w\.weight has no gradient"):
        Muon({"w.weight": torch.zeros(4, 4)}, 0.9, 0.0).step(0.1)
