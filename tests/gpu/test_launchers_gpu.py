"""Each launcher of model/ops/kernels/ by itself: ragged sizes, other block sizes, and what is added in place."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from model import loss
from model.attention import RMSNorm, rotary_tables, rotate
from model.config import ModelConfig, TrainConfig
from model.moe import MoE, Router, router_stats
from model.ops import fused
from model.optim import orthogonalise
from model.training.learner import Learner

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, where the kernels run")

HALVES = [torch.bfloat16, torch.float16]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
ROUNDING = {torch.float32: 4e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Relative, about twice half a unit in the last place; sums are taken in fp32."""


@pytest.fixture
def device():
    return torch.device("cuda", 0)


@pytest.fixture
def kernels():
    # They import Triton, which is not everywhere.
    from model.ops import kernels
    from model.ops.kernels import cross_entropy, grouped, heads, norms, router, slots, swiglu, updates  # noqa: F401

    return kernels


@pytest.fixture
def draw(device):
    """Random numbers of a seed of their own for each call, drawn on the CPU so that every device gets the same."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape, dtype=torch.float32, std=1.0):
        return (torch.randn(*shape, generator=generator) * std).to(device, dtype)

    return draw


def close(actual, expected, dtype, slack=1.0):
    """Entry by entry, relative to the entry or to the typical entry where it is smaller."""
    expected = expected.double()
    tolerance = ROUNDING[dtype] * slack
    typical = expected.square().mean().sqrt().item()
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance * (typical + 1e-30))


# --- norms and heads ---


@DTYPES
@pytest.mark.parametrize(("rows", "width"), [(1, 8), (3, 24), (17, 40), (65, 96), (5, 1000)])
@pytest.mark.parametrize("has_y", [True, False])
def test_add_norm(kernels, draw, dtype, rows, width, has_y):
    x, y, gain = draw(rows, width, dtype=dtype), draw(rows, width, dtype=dtype), draw(width, dtype=dtype)
    total, out, rstd = kernels.norms.add_norm(x, y if has_y else None, gain, 1e-6)

    assert total is x or has_y
    assert torch.equal(total, x + y if has_y else x)

    exact = total.double()
    close(rstd, (exact.square().mean(-1) + 1e-6).rsqrt(), torch.float32, slack=2)
    close(out, F.rms_norm(exact, (width,), gain.double(), 1e-6), dtype)


@DTYPES
@pytest.mark.parametrize(("rows", "width"), [(1, 8), (17, 40), (65, 96)])
@pytest.mark.parametrize("has_dtotal", [True, False])
@pytest.mark.parametrize("programs", [1, 3, 264])  # one program for all rows, several rounds each, one round each
def test_add_norm_backward(kernels, draw, monkeypatch, dtype, rows, width, has_dtotal, programs):
    monkeypatch.setattr(kernels.norms, "NORM_PROGRAMS", programs)
    total, gain = draw(rows, width, dtype=dtype), draw(width, dtype=dtype)
    dout, dtotal = draw(rows, width, dtype=dtype), draw(rows, width, dtype=dtype)
    rstd = kernels.norms.add_norm(total, None, gain, 1e-6)[2]
    gain_sum = torch.ones(width, device=total.device)
    dx = kernels.norms.add_norm_backward(total, gain, rstd, dout, dtotal if has_dtotal else None, gain_sum)
    exact, exact_gain = total.double().requires_grad_(), gain.double().requires_grad_()
    F.rms_norm(exact, (width,), exact_gain, 1e-6).backward(dout.double())

    close(dx, exact.grad + dtotal.double() if has_dtotal else exact.grad, dtype, slack=2)
    close(gain_sum - 1.0, exact_gain.grad, torch.float32, slack=5)


def heads_by_hand(qkv, q_gain, k_gain, cos, sin, H, K):
    q, k, v = qkv.unflatten(-1, (H + 2 * K, -1)).split((H, K, K), dim=2)
    tables = cos.to(qkv.dtype)[:, None], sin.to(qkv.dtype)[:, None]
    q, k = (rotate(F.rms_norm(x, gain.shape, gain, 1e-6), *tables) for x, gain in ((q, q_gain), (k, k_gain)))
    return q, k.repeat_interleave(H // K, 2), v.repeat_interleave(H // K, 2)


@DTYPES
@pytest.mark.parametrize(
    ("B", "T", "H", "K", "C"), [(2, 13, 4, 2, 8), (3, 7, 6, 2, 6), (1, 33, 4, 1, 12), (1, 1, 2, 2, 2)]
)
@pytest.mark.parametrize("programs", [1, 66])
def test_heads(kernels, draw, device, monkeypatch, dtype, B, T, H, K, C, programs):
    monkeypatch.setattr(kernels.heads, "HEAD_PROGRAMS", programs)
    monkeypatch.setattr(kernels.heads, "HEAD_BACKWARD_TOKENS", 16)  # so that few tokens are many blocks
    qkv, gains = draw(B, T, (H + 2 * K) * C, dtype=dtype), [draw(C, dtype=dtype) for _ in range(2)]
    tables = [table.to(device) for table in rotary_tables(T + 3, C, 10000.0)]  # longer than the sequence
    tables = [table[:T] for table in tables]
    exact = [each.double().requires_grad_() for each in (qkv, *gains)]
    expected = heads_by_hand(*exact, *tables, H, K)
    given = kernels.heads.heads(qkv, *gains, *tables, H, K, 1e-6)

    for one, other in zip(given, expected, strict=True):
        close(one, other, dtype)

    assert torch.equal(given[2], expected[2].to(dtype))  # values are only copied

    grads = [
        draw(B, T, H, C, dtype=dtype),
        draw(B, H, T, C, dtype=dtype).transpose(1, 2),  # as attention kernels return them
        draw(B, T, C, H, dtype=dtype).transpose(2, 3),  # the last dimension not contiguous either
    ]
    sums = torch.ones(C, device=device), torch.full((C,), 2.0, device=device)
    dqkv = kernels.heads.heads_backward(qkv, *gains, *tables, *grads, sums, H, K, 1e-6)
    expected_grads = torch.autograd.grad(expected, exact, [grad.double() for grad in grads])

    close(dqkv, expected_grads[0], dtype, slack=4)

    for total, start, grad in zip(sums, (1.0, 2.0), expected_grads[1:], strict=True):
        close(total - start, grad, torch.float32, slack=10)


# --- router ---


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("num_experts", "width"), [(1, 8), (5, 24), (16, 40), (32, 96)])
def test_three_summands_keep_a_fp32_weight(kernels, draw, dtype, num_experts, width):
    weight = draw(num_experts, width, std=0.02)
    parts = kernels.router.split_router(weight, dtype)
    padded = -(-num_experts // 8) * 8

    assert (parts.shape, parts.dtype) == ((3 * padded, width), dtype)

    total = parts.double().view(3, padded, width).sum(0)
    assert (total[num_experts:] == 0).all()

    if dtype == torch.bfloat16:  # 8 bits three times, in fp32's own range
        assert torch.equal(total[:num_experts].float(), weight)
    else:  # what is below fp16's smallest number is lost
        torch.testing.assert_close(total[:num_experts], weight.double(), rtol=0, atol=2.0**-25)


CASES = [(1, 1), (5, 1), (5, 3), (16, 2), (16, 3), (32, 1), (32, 3)]


def routing_by_hand(logits, top_k, normalises, block):
    """Of [N, E] logits: shares, choices, probabilities, log-sum-exps, and blocks' counts and sums."""
    probs = logits.softmax(-1)
    top, chosen = probs.topk(top_k, dim=-1)
    counts = F.one_hot(chosen, logits.shape[1]).sum(1).view(-1, block, logits.shape[1]).sum(1)
    sums = probs.view(-1, block, logits.shape[1]).sum(1)
    share = top / top.sum(-1, keepdim=True) if normalises else top
    return share, chosen, probs, logits.logsumexp(-1), counts.T, sums


def test_blocks_divide_sequences(kernels):
    assert [kernels.router.router_block(length) for length in (1, 2, 7, 12, 33, 48, 64, 512)] == [
        1,
        2,
        1,
        4,
        1,
        16,
        32,
        32,
    ]


@pytest.mark.parametrize(("num_experts", "top_k"), CASES)
@pytest.mark.parametrize("normalises", [True, False])
@pytest.mark.parametrize(("num_tokens", "block", "parts"), [(21, 1, 3), (24, 4, 1), (64, 32, 3)])
def test_route(kernels, draw, num_experts, top_k, normalises, num_tokens, block, parts):
    padded = num_experts if parts == 1 else -(-num_experts // 8) * 8
    summands = draw(num_tokens, parts, padded)
    logits = summands.double().sum(1)[:, :num_experts].requires_grad_()
    given = kernels.router.route(summands.flatten(1), parts, num_experts, top_k, normalises, block)
    expected = routing_by_hand(logits, top_k, normalises, block)

    for one, other in zip(given, expected, strict=True):
        assert one.shape == other.shape
        if one.dtype == torch.int32:
            assert torch.equal(one.long(), other)
        else:
            close(one, other.detach(), torch.float32, slack=3)

    share, chosen, probs = given[:3]
    directions = draw(num_tokens, top_k), draw(num_tokens // block, num_experts), draw(num_tokens)
    (grad,) = torch.autograd.grad(
        (expected[0], expected[5], expected[3]), logits, [each.double() for each in directions]
    )

    for dtype in [torch.float32] if parts == 1 else HALVES:
        dlogits = kernels.router.route_backward(probs, chosen, share, *directions, normalises, block, padded, dtype)
        assert (dlogits.shape, dlogits.dtype) == ((num_tokens, padded), dtype)
        close(dlogits[:, :num_experts], grad, dtype, slack=10 if dtype == torch.float32 else 1)
        assert (dlogits[:, num_experts:] == 0).all()


def slots_of(chosen, num_experts, block):
    counts = F.one_hot(chosen.long(), num_experts).sum(1).view(-1, block, num_experts).sum(1)
    return counts.T.contiguous().to(torch.int32)


@pytest.mark.parametrize(("num_experts", "top_k"), CASES)
@pytest.mark.parametrize(("num_tokens", "block"), [(1, 1), (21, 1), (24, 4), (96, 32)])
def test_sort_slots_equals_a_stable_sort(kernels, device, num_experts, top_k, num_tokens, block):
    generator = torch.Generator().manual_seed(num_tokens)
    scores = torch.rand(num_tokens, num_experts, generator=generator)
    if num_experts > top_k:
        scores[:, num_experts // 2] = -1.0  # an expert that no token chooses
    chosen = scores.argsort(descending=True)[:, :top_k].to(device, torch.int32).contiguous()
    order, inverse, ends = kernels.slots.sort_slots(chosen, slots_of(chosen, num_experts, block))

    assert torch.equal(order.long(), chosen.flatten().argsort(stable=True))
    assert torch.equal(inverse.long()[order.long()], torch.arange(num_tokens * top_k, device=device))
    assert torch.equal(ends.long(), torch.bincount(chosen.flatten().long(), minlength=num_experts).cumsum(0))


@DTYPES
@pytest.mark.parametrize(("num_tokens", "width", "top_k"), [(1, 8, 1), (7, 24, 3), (33, 40, 2), (10, 96, 1)])
def test_tokens_go_to_their_slots_and_come_back_as_sums(kernels, draw, device, dtype, num_tokens, width, top_k):
    num_slots = num_tokens * top_k
    order = torch.randperm(num_slots, generator=torch.Generator().manual_seed(1)).to(device)
    inverse = order.argsort()
    x, y = draw(num_tokens, width, dtype=dtype), draw(num_slots, width, dtype=dtype)

    assert torch.equal(kernels.slots.to_slots(x, order.int(), top_k), x[order // top_k])

    summed = kernels.slots.from_slots(y, inverse.int(), top_k)
    assert summed.dtype == dtype
    close(summed, y.double()[inverse].view(num_tokens, top_k, width).sum(1), dtype)


@DTYPES
@pytest.mark.parametrize(("num_slots", "d_ff"), [(1, 8), (9, 40), (24, 104), (3, 1032)])  # wider than a block, too
def test_swiglu(kernels, draw, device, dtype, num_slots, d_ff):
    gate_up, dhidden = draw(num_slots, 2 * d_ff, dtype=dtype), draw(num_slots, d_ff, dtype=dtype)
    share, order = draw(num_slots, 1).sigmoid(), torch.arange(num_slots - 1, -1, -1, device=device)
    exact, exact_share = gate_up.double().requires_grad_(), share.double().requires_grad_()
    gate, up = exact.chunk(2, dim=-1)
    expected = F.silu(gate) * up * exact_share[order]

    close(kernels.swiglu.swiglu(gate_up, share, order.int()), expected, dtype)

    dgate_up, hidden, dshare = kernels.swiglu.swiglu_backward(gate_up, share, order.int(), dhidden)
    grads = torch.autograd.grad(expected, (exact, exact_share), dhidden.double())

    close(hidden, expected, dtype)
    close(dgate_up, grads[0], dtype, slack=2)
    close(dshare, grads[1], torch.float32, slack=10)


# --- cross-entropy ---


def exact_cross_entropy(logits, targets, scale=1.0):
    """Each row's loss, and the gradient of scale x their sum, by torch in fp64."""
    exact = logits.double().requires_grad_()
    losses = F.cross_entropy(exact, targets.long(), reduction="none")
    (grad,) = torch.autograd.grad(losses.sum() * scale, exact)
    return losses.detach(), grad


@DTYPES
@pytest.mark.parametrize(
    ("rows", "vocab", "integers"),
    [(1, 64, torch.int32), (7, 128, torch.int32), (5, 1000, torch.int32), (3, 33, torch.int64)],
    ids=str,
)
@pytest.mark.parametrize("lanes", [64, 8192])  # several whole tiles and a ragged end, or less than one tile
def test_cross_entropy(kernels, draw, device, monkeypatch, dtype, rows, vocab, lanes, integers):
    monkeypatch.setattr(kernels.cross_entropy, "LANES", lanes)
    logits = draw(rows, vocab, dtype=dtype, std=4.0)
    targets = (torch.arange(rows, device=device) * 37 % vocab).to(integers)
    logits[0, targets[0]] = 40.0  # right by far; the others are as they come
    losses, grad = exact_cross_entropy(logits, targets, scale=1024)
    scored, right = kernels.cross_entropy.score(logits, targets)

    torch.testing.assert_close(scored.double(), losses, rtol=1e-5, atol=1e-5)

    best = logits.amax(1) == logits.gather(1, targets.long()[:, None])[:, 0]
    assert torch.equal(right.bool(), best)
    assert best[0]

    given = kernels.cross_entropy.cross_entropy_(logits, targets, torch.tensor(1024.0, device=device))
    torch.testing.assert_close(given.double(), losses, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits.double(), grad, rtol=ROUNDING[dtype] * 10, atol=1024 * 1e-6)


def test_a_target_that_is_left_behind_by_more_than_an_exponential_can_hold(kernels, draw, device):
    logits, targets = draw(4, 300), torch.arange(4, device=device)
    logits[:, 7] = torch.tensor([80.0, 88.0, 95.0, 300.0], device=device)  # 88.7 is the logarithm of fp32's largest
    losses, grad = exact_cross_entropy(logits, targets)
    given = kernels.cross_entropy.cross_entropy_(logits, targets, torch.ones((), device=device))

    torch.testing.assert_close(given.double(), losses, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(logits.double(), grad, rtol=1e-3, atol=1e-4)


def test_logits_far_apart_neither_overflow_nor_lose_the_target(kernels, draw, device):
    logits, targets = draw(6, 200, std=1e4), torch.arange(6, device=device)
    losses, grad = exact_cross_entropy(logits, targets)
    given = kernels.cross_entropy.cross_entropy_(logits, targets, torch.ones((), device=device))

    torch.testing.assert_close(given.double(), losses, rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(logits.double(), grad, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("rows", [1, 7, 50, 64])
def test_loss_in_chunks(draw, device, monkeypatch, rows):
    monkeypatch.setattr(loss, "chunk_rows", lambda vocab, device: rows)
    x, weight = draw(50, 16), draw(40, 16)
    targets = torch.arange(50, device=device, dtype=torch.int32) % 40
    summed = torch.ones_like(weight)
    value, grad_x = loss.loss_and_gradients(x, weight, targets, torch.tensor(8.0, device=device), summed)
    total, right = loss.count_losses(x, weight, targets)
    exact = [each.double().requires_grad_() for each in (x, weight)]
    logits = exact[0] @ exact[1].T
    expected = F.cross_entropy(logits, targets.long())
    grads = torch.autograd.grad(8 * expected, exact)

    torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(total, 50 * expected.detach(), rtol=1e-5, atol=0)
    assert right == (logits.argmax(-1) == targets).sum()
    close(grad_x, grads[0], torch.float32, slack=50)
    close(summed - 1.0, grads[1], torch.float32, slack=50)


# --- sums and the optimizer ---


@DTYPES
@pytest.mark.parametrize("shape", [(1,), (2047,), (2048,), (2, 33, 65)])
def test_add(kernels, draw, dtype, shape):
    total, x = draw(*shape), draw(*shape, dtype=dtype)
    expected = total + x.float()
    kernels.updates.add_(total, x)
    assert torch.equal(total, expected)


@DTYPES
@pytest.mark.parametrize("kind", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 3, 5), (3, 24, 40), (2, 64, 40)])
def test_scale_matrices(kernels, draw, dtype, kind, count, rows, columns):
    matrices, scales = draw(count, rows, columns, dtype=dtype), draw(count, 1, 1)
    scaled = kernels.updates.scale_matrices(matrices, scales, kind)
    assert scaled.dtype == kind
    assert torch.equal(scaled, (matrices.float() * scales).to(kind))


@DTYPES
@pytest.mark.parametrize(("keep", "bad"), [(1.0, False), (0.0, False), (0.0, True)])
def test_nesterov(kernels, draw, device, dtype, keep, bad):
    grad, momentum = draw(3, 24, 40), draw(3, 24, 40)
    if bad:
        grad[0, 0, :3] = torch.tensor([float("inf"), -float("inf"), float("nan")])
    before = momentum.clone()
    factor, beta = (torch.tensor(value, device=device) for value in (0.25, 0.9))
    update = kernels.updates.nesterov(grad, momentum, factor, torch.tensor(keep, device=device), beta, dtype)

    assert update.dtype == dtype

    if keep:
        close(momentum, before.lerp(0.25 * grad, 0.1), torch.float32)
        close(update, (0.25 * grad).lerp(momentum, 0.9), dtype)
    else:
        assert torch.equal(momentum, before)
        close(update, 0.9 * before, dtype)


@pytest.mark.parametrize("copied", [None, *HALVES], ids=str)
@pytest.mark.parametrize("kind", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("lr", [0.1, 0.0])
def test_apply_update(kernels, draw, device, copied, kind, lr):
    weight, update = draw(3, 24, 40), draw(3, 24, 40, dtype=kind)
    copy = None if copied is None else torch.zeros_like(weight, dtype=copied)
    before, shrink = weight.clone(), 1.0 - lr / 2
    scalars = [torch.tensor(value, device=device) for value in (lr, shrink)]
    kernels.updates.apply_update(weight, copy, update, *scalars, 1.5)

    close(weight, before.double() * shrink - update.double() * lr * 1.5, torch.float32)

    if lr == 0.0:
        assert torch.equal(weight, before)
    if copy is not None:
        assert torch.equal(copy, weight.to(copied))


# --- modules with the kernels and without ---


@pytest.fixture
def plain(monkeypatch):
    """Switch the modules to their own torch."""
    return lambda: monkeypatch.setattr(fused, "available", lambda x: False)


def shape_of(**changes):
    fields = {"num_layers": 2, "d_model": 24, "num_heads": 4, "num_kv_heads": 2, "d_ff": 40, "num_experts": 5}
    return ModelConfig.model_validate(fields | {"top_k": 2, "seq_len": 12, "init_std": 0.3} | changes)


@pytest.mark.parametrize("lead", [(7,), (2, 5)])
@pytest.mark.parametrize("has_y", [True, False])
def test_norm_without_a_sum_to_add_to_gives_its_gradients_to_autograd(draw, device, plain, lead, has_y):
    norm = RMSNorm(24, 1e-6).to(device)
    norm.weight.data = draw(24)
    x, y = draw(*lead, 24).requires_grad_(), draw(*lead, 24).requires_grad_()
    directions = draw(*lead, 24), draw(*lead, 24)
    inputs = [x, norm.weight, *([y] if has_y else [])]
    results = []

    for _ in range(2):
        both = norm.add(x, y if has_y else None)
        only_norm = torch.autograd.grad(both[1], inputs, directions[1], retain_graph=True)
        results.append([*both, *torch.autograd.grad(both, inputs, directions), *only_norm])
        plain()

    for one, other in zip(*results, strict=True):
        assert one.shape == other.shape
        close(one, other, torch.float32, slack=10)


@pytest.mark.parametrize(("num_experts", "top_k"), CASES)
@pytest.mark.parametrize("length", [7, 12])
def test_mixture_equals_plain_torch(draw, device, plain, num_experts, top_k, length):
    layer = MoE(shape_of(num_experts=num_experts, top_k=top_k)).to(device)
    for parameter in layer.parameters():
        parameter.data = draw(*parameter.shape, std=0.4)

    if num_experts > top_k:
        layer.gate.weight.data[num_experts // 2] = 0.0
        layer.gate.weight.data[:, 0] = 0.0
        layer.gate.weight.data[num_experts // 2, 0] = -30.0  # with the first input at 1, an expert that gets no token
    values = draw(3, length, 24)
    values[..., 0] = 1.0
    x, direction = values.requires_grad_(), draw(3, length, 24)
    results = []

    for _ in range(2):
        y, tally = layer(x)
        stats = router_stats([tally])
        objective = (y * direction).sum() + 3 * stats.aux_loss + 0.1 * stats.z_loss
        grads = torch.autograd.grad(objective, [x, *layer.parameters()])
        results.append((stats.load_LE, [y, stats.aux_loss, stats.z_loss, *grads]))
        plain()

    (load, given), (expected_load, expected) = results
    assert torch.equal(load, expected_load)

    if num_experts > top_k:
        assert load[0, num_experts // 2] == 0
        assert (given[-1][num_experts // 2] == 0).all()
    for one, other in zip(given, expected, strict=True):
        close(one, other, torch.float32, slack=100)


def test_slots_lie_as_the_plain_router_lays_them(kernels, draw, device):
    """The same order within an expert: sums over its slots then agree to the last digits."""
    router = Router(shape_of(top_k=3)).to(device)
    router.weight.data = draw(5, 24)
    x = draw(2, 12, 24)
    routing = router(x)
    share, chosen, _, _, counts, _ = kernels.router.route(x.flatten(0, 1) @ router.weight.T, 1, 5, 3, True, 4)
    order, inverse, ends = kernels.slots.sort_slots(chosen, counts)

    assert torch.equal(order.long(), routing.order_S)
    assert torch.equal(inverse.long(), routing.inverse_S)
    assert torch.equal(ends, routing.group_ends_E)
    close(share, routing.weight_NK.detach(), torch.float32, slack=10)


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (8, 40), (40, 8)])
def test_orthogonalise_equals_plain_torch(draw, plain, rows, columns):
    matrices = draw(3, rows, columns, std=1e-4)
    given = orthogonalise(matrices)
    plain()
    torch.testing.assert_close(given, orthogonalise(matrices), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-16, 1e-19, 1e-20, 1e-30, 1e-42])
def test_a_matrix_whose_norm_vanishes_is_no_large_update(kernels, draw, scale):
    for dtype in (torch.float32, torch.bfloat16):
        assert orthogonalise(draw(3, 8, 40) * scale, dtype).abs().max() <= 1.25


LEARNERS = [
    {},
    {"top_k": 1},
    {"top_k": 3, "num_kv_heads": 4, "seq_len": 7},
    {"num_experts": 1, "top_k": 1},
    {"num_experts": 16, "num_kv_heads": 1, "d_ff": 56},
    {"num_experts": 32, "top_k": 3},
]


def in_fp32(device, **model):
    config = TrainConfig.model_validate(
        {
            "model": shape_of(**model).model_dump() | {"aux_loss_coef": 0.1, "z_loss_coef": 0.01},
            "optim": {"weight_decay": 0.1},
            "system": {"micro_batch_size": 3},
        }
    )
    return Learner(config, 150, device, torch.float32)


def steps_of(one, device, count=2):
    """Train, then score; return everything that can be compared, by name."""
    seq_len, generator = one.config.model.seq_len, torch.Generator().manual_seed(1)
    seen = {}
    for number in range(count):
        for part in ("first", "second"):
            tokens = torch.randint(0, 150, (3, seq_len + 1), generator=generator).to(device, torch.int32)
            batch = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
            one.accumulate(*batch)
            if number == 0:
                seen |= {f"{part} gradient of {name}": grad.clone() for name, grad in one.weights.grads.items()}
        one.update(0.5)
        seen[f"grad_norm {number}"] = one.grad_norm.clone()

    one.model.eval()
    seen |= {f"weight {name}": weight.clone() for name, weight in one.weights.weights.items()}
    seen |= {f"meter {name}": meter.clone() for name, meter in one.meters.items()}
    return seen | dict(zip(("loss", "right"), one.score(*batch), strict=True))


@pytest.mark.parametrize("model", LEARNERS, ids=str)
def test_a_learner_equals_plain_torch_in_gradients_losses_and_weights(device, plain, model):
    given = steps_of(in_fp32(device, **model), device)
    plain()
    expected = steps_of(in_fp32(device, **model), device)

    for name, value in expected.items():
        # Newton-Schulz magnifies the last digits of small singular values.
        atol, rtol = (3e-4, 1e-2) if name.startswith(("weight", "grad_norm")) else (2e-5, 1e-3)
        torch.testing.assert_close(given[name], value, atol=atol, rtol=rtol, msg=lambda m, n=name: f"{n}: {m}")


def test_gradients_are_added_to_those_already_there(device):
    """The sums of weights without a half-precision copy, too: no operation gives its gradient twice or not at all."""
    once, twice = (in_fp32(device) for _ in range(2))
    tokens = torch.randint(0, 150, (3, 13), generator=torch.Generator().manual_seed(2)).to(device, torch.int32)
    batch = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    once.accumulate(*batch)

    for _ in range(2):
        twice.accumulate(*batch)

    for name, grad in once.weights.grads.items():
        assert grad.any(), name
        torch.testing.assert_close(twice.weights.grads[name], 2 * grad, atol=1e-5, rtol=1e-4)


# --- products of groups ---


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("ends", [[5, 5, 400, 417], [0, 0, 0, 1000], [128, 256, 384, 512], [1, 2, 3, 4]], ids=str)
@pytest.mark.parametrize(("width", "out"), [(384, 2048), (1024, 384), (72, 40), (24, 200)])
@pytest.mark.parametrize("rows_of_a_share", [1024, 8])  # a program has a group to itself, or four share it
def test_products_of_groups(kernels, draw, device, monkeypatch, dtype, ends, width, out, rows_of_a_share):
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("needs tensor cores that Triton knows")
    monkeypatch.setattr(kernels.grouped, "_ROWS_OF_A_SHARE", rows_of_a_share)

    x, dy = draw(ends[-1], width, dtype=dtype), draw(ends[-1], out, dtype=dtype)
    weight = draw(len(ends), out, width, dtype=dtype)
    ends_E = torch.tensor(ends, dtype=torch.int32, device=device)
    sizes = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]

    y = kernels.grouped.by_rows(x, weight.mT, ends_E)
    dx = kernels.grouped.by_rows(dy, weight, ends_E)
    before = draw(len(ends), out, width)
    dweight = before.clone()
    kernels.grouped.add_by_groups_(dweight, dy.mT, x, ends_E)
    groups = list(zip(x.double().split(sizes), dy.double().split(sizes), weight.double(), strict=True))
    close(y, torch.cat([rows @ matrix.T for rows, _, matrix in groups]), dtype)
    close(dx, torch.cat([grads @ matrix for _, grads, matrix in groups]), dtype)
    close(dweight, before + torch.stack([grads.T @ rows for rows, grads, _ in groups]), dtype)
