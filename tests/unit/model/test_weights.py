import pytest
import torch
from small_model import small_model

from model.weights import MasterWeights, group_of

HALF = [torch.float16, torch.bfloat16]


def snapshot(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_groups_by_kind_and_shape():
    model = small_model()
    groups = {}
    for name, parameter in model.named_parameters():
        in_layer = name.removeprefix("layers.0.").removeprefix("layers.1.")
        groups.setdefault(group_of(name, parameter), set()).add(in_layer)

    assert groups == {
        "embedding": {"embed_tokens.weight"},
        "router": {"mlp.gate.weight"},
        "vector": {
            "norm.weight",
            "input_layernorm.weight",
            "post_attention_layernorm.weight",
            "self_attn.q_norm.weight",
            "self_attn.k_norm.weight",
        },
        "32x32": {"self_attn.q_proj.weight", "self_attn.o_proj.weight"},
        "16x32": {"self_attn.k_proj.weight", "self_attn.v_proj.weight"},
        "48x32": {"mlp.experts.gate_up_proj"},
        "32x48": {"mlp.experts.down_proj"},
    }


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_every_weight_lies_in_one_group_with_its_gradient(dtype):
    model = small_model()
    original = snapshot(model)
    weights = MasterWeights(model, dtype)

    assert set(weights.weights) == set(weights.grads) == set(original)

    for group in weights.groups.values():
        assert group.weight.dtype == group.grad.dtype == torch.float32
        assert group.weight.shape == group.grad.shape
        assert group.is_muon == ("x" in group.name)
        group.weight.fill_(-5.0)
        group.grad.fill_(-6.0)

    total = sum(group.weight.numel() for group in weights.groups.values())
    assert total == sum(weight.numel() for weight in original.values())  # none twice

    for name, weight in original.items():
        assert weights.weights[name].shape == weights.grads[name].shape == weight.shape
        assert (weights.weights[name] == -5.0).all() and (weights.grads[name] == -6.0).all()


def test_gate_and_up_are_two_matrices_of_each_expert():
    model = small_model()
    group = MasterWeights(model, torch.float32).groups["48x32"]
    assert group.weight.shape == (2 * 4 * 2, 48, 32)
    projections = [layer.mlp.experts.gate_up_proj for layer in model.layers]
    expected = [half for projection in projections for expert in projection for half in expert.chunk(2)]
    assert torch.equal(group.weight, torch.stack(expected))


def test_in_fp32_the_masters_are_the_parameters():
    model = small_model()
    original = snapshot(model)
    weights = MasterWeights(model, torch.float32)

    assert all(group.copy is None for group in weights.groups.values())

    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, original[name])
        assert weights.weights[name].data_ptr() == parameter.data_ptr()
        assert weights.grads[name].data_ptr() == parameter.grad.data_ptr()


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_keeps_fp32_masters_and_fp32_routers(dtype):
    model = small_model()
    original = snapshot(model)
    weights = MasterWeights(model, dtype)

    for name, parameter in model.named_parameters():
        is_router = name.endswith("mlp.gate.weight")
        assert parameter.dtype == (torch.float32 if is_router else dtype)
        assert weights.weights[name].dtype == weights.grads[name].dtype == torch.float32
        assert torch.equal(weights.weights[name], original[name])
        assert torch.equal(parameter, original[name].to(parameter.dtype))

    assert len(weights.weights) == len(original)


@pytest.mark.parametrize("name", ["norm.weight", "layers.1.mlp.experts.down_proj"])
def test_half_precision_gradients_are_summed_in_fp32_and_weights_published(name):
    model = small_model()
    weights = MasterWeights(model, torch.float16)
    parameter, master, grad = dict(model.named_parameters())[name], weights.weights[name], weights.grads[name]

    for value in (1024.0, 0.25, 0.25):  # fp16 would swallow a quarter beside 1024
        parameter.grad = torch.full_like(parameter, value)
        weights.collect()
        assert parameter.grad is None

    assert torch.equal(grad, torch.full_like(grad, 1024.5))

    master.fill_(3.0)
    weights.publish()

    assert torch.equal(parameter, torch.full_like(parameter, 3.0))

    weights.clear_gradients()
    assert all((each == 0).all() for each in weights.grads.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_autograd_adds_into_the_sums_until_they_are_cleared(dtype):
    """In fp32 directly, and so for the routers; what is in half precision when it is collected."""
    model = small_model()
    weights = MasterWeights(model, dtype)
    router = model.layers[0].mlp.gate.weight

    for _ in range(2):
        for parameter in model.parameters():
            parameter.sum().backward()
        weights.collect()

    assert all((grad == 2.0).all() for grad in weights.grads.values())

    weights.clear_gradients()
    router.sum().backward()

    assert (weights.grads["layers.0.mlp.gate.weight"] == 1.0).all()
    assert (weights.grads["layers.1.mlp.gate.weight"] == 0.0).all()
