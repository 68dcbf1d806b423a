import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from small_model import small_shape

from model.moe import MoE, router_stats


def moe(**changes):
    layer = MoE(small_shape(**changes))
    generator = torch.Generator().manual_seed(3)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return layer


def run_token_by_token(layer, x):
    """The layer again, without sorting, stacking or grouping."""
    rows = []
    for token in x.flatten(0, 1):
        probabilities = F.linear(token, layer.gate.weight).softmax(-1)
        top = torch.argsort(probabilities, descending=True)[: layer.gate.top_k]
        # A single expert's weight would be 1 whatever the router says.
        total = sum(probabilities[expert] for expert in top) if len(top) > 1 else 1.0
        row = torch.zeros_like(token)
        for expert in top:
            gate, up = (layer.experts.gate_up_proj[expert] @ token).chunk(2)
            row = row + probabilities[expert] / total * (layer.experts.down_proj[expert] @ (F.silu(gate) * up))
        rows.append(row)
    return torch.stack(rows).view_as(x)


@pytest.mark.parametrize(("num_experts", "top_k"), [(4, 1), (4, 2), (4, 4), (1, 1), (16, 2)])
def test_output_and_gradients_equal_a_loop_over_tokens(num_experts, top_k):
    layer = moe(num_experts=num_experts, top_k=top_k)
    x = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(4), requires_grad=True)
    direction = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(5))
    inputs = [x, *layer.parameters()]
    output, _ = layer(x)
    expected = run_token_by_token(layer, x)

    torch.testing.assert_close(output, expected)

    grads = torch.autograd.grad((output * direction).sum(), inputs, materialize_grads=True)
    expected_grads = torch.autograd.grad((expected * direction).sum(), inputs, materialize_grads=True)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)  # the CPU's own operations, and torch's
def test_the_output_teaches_the_router_of_a_single_expert(dtype):
    norms = {}
    for top_k in (1, 2):
        layer = moe(num_experts=4, top_k=top_k)
        layer.experts.to(dtype)
        x = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(4)).to(dtype)
        layer(x)[0].square().sum().backward()
        norms[top_k] = float(layer.gate.weight.grad.norm())

    assert norms[1] > 0.1 * norms[2] > 0


def test_weights_of_an_earlier_version_keep_the_weight_1():
    layer = MoE(small_shape(num_experts=4, top_k=1), normalises=True)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(3))
    routing = layer.gate(torch.randn(2, 7, 32))

    assert (routing.weight_NK == 1).all()


def test_an_expert_that_gets_no_token_gets_a_zero_gradient():
    layer = moe(num_experts=4, top_k=1)
    x = torch.ones(1, 5, 32)  # equal tokens all choose the same expert
    output, tally = layer(x)
    output.square().sum().backward()
    (load_E,) = router_stats([tally]).load_LE

    assert load_E.sum() == 5

    idle = load_E == 0
    assert idle.sum() == 3
    assert (layer.experts.down_proj.grad[idle] == 0).all()
    assert (layer.experts.down_proj.grad[~idle] != 0).any()


def test_balance_loss_by_hand():
    layer = moe(num_experts=2, top_k=1)
    layer.gate.weight.data.zero_()
    layer.gate.weight.data[0, 0] = 1.0
    x = torch.zeros(1, 4, 32)
    x[0, :3, 0], x[0, 3, 0] = 2.0, -2.0  # three tokens to expert 0, one to expert 1
    stats = router_stats([layer(x)[1]])
    p = torch.sigmoid(torch.tensor(2.0))
    mean_0 = (3 * p + (1 - p)) / 4
    expected = 2 * (0.75 * mean_0 + 0.25 * (1 - mean_0))

    torch.testing.assert_close(stats.aux_loss, expected)

    logits = x @ layer.gate.weight.T
    torch.testing.assert_close(stats.z_loss, torch.log(logits.exp().sum(-1)).square().mean())
    assert stats.load_LE.tolist() == [[3, 1]]


def test_balance_loss_is_one_when_balanced():
    layer = moe(num_experts=4, top_k=2)
    layer.gate.weight.data.zero_()
    stats = router_stats([layer(torch.randn(3, 8, 32))[1]])
    torch.testing.assert_close(stats.aux_loss, torch.tensor(1.0))


def test_router_losses_of_a_batch_are_the_mean_over_its_sequences():
    layer, x = moe(), torch.randn(4, 8, 32)
    whole = router_stats([layer(x)[1]])
    parts = [router_stats([layer(sequence[None])[1]]) for sequence in x]
    torch.testing.assert_close(whole.aux_loss, torch.stack([part.aux_loss for part in parts]).mean())
    torch.testing.assert_close(whole.z_loss, torch.stack([part.z_loss for part in parts]).mean())
    assert torch.equal(whole.load_LE, torch.stack([part.load_LE for part in parts]).sum(0))


def test_losses_of_layers_add_up():
    tallies = [moe(num_experts=num)(torch.randn(2, 8, 32))[1] for num in (4, 4, 4)]
    whole, parts = router_stats(tallies), [router_stats([tally]) for tally in tallies]
    torch.testing.assert_close(whole.aux_loss, torch.stack([part.aux_loss for part in parts]).sum())
    torch.testing.assert_close(whole.z_loss, torch.stack([part.z_loss for part in parts]).sum())
    assert whole.load_LE.shape == (3, 4)


def test_blocks_of_a_sequence_count_together():
    """A tally may come in blocks of positions; the losses are those of whole sequences."""
    _, tally = moe()(torch.randn(3, 8, 32))
    share = torch.tensor([0.25, 0.75])[:, None]
    whole = tally._replace(load_BPE=tally.load_BPE * 4)
    blocks = tally._replace(load_BPE=whole.load_BPE * share, prob_sum_BPE=tally.prob_sum_BPE * share)
    for value, expected in zip(router_stats([blocks]), router_stats([whole]), strict=True):
        torch.testing.assert_close(value, expected, check_dtype=False)


def test_router_losses_and_their_gradients_as_written_out():
    layer, x = moe(), torch.randn(4, 8, 32, requires_grad=True)
    inputs = [x, layer.gate.weight]
    stats = router_stats([layer(x)[1]])
    logits = F.linear(x, layer.gate.weight)
    probs = logits.softmax(-1)
    chosen = F.one_hot(probs.topk(2, dim=-1).indices, 4).sum(2).float()
    aux_loss = 4 * (chosen.mean(1) / 2 * probs.mean(1)).sum(-1).mean()
    z_loss = logits.logsumexp(-1).square().mean()

    for loss, expected in ((stats.aux_loss, aux_loss), (stats.z_loss, z_loss)):
        torch.testing.assert_close(loss, expected)
        grads = torch.autograd.grad(loss, inputs, retain_graph=True)
        torch.testing.assert_close(grads, torch.autograd.grad(expected, inputs, retain_graph=True))
