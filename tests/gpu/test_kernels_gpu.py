"""The kernels against the few lines of torch they stand for, and learners on them against plain torch."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from model import fused, graphs, residents
from model.attention import rotary_tables, rotate
from model.config import TrainConfig
from model.learner import Learner
from model.moe import MoE, router_stats

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

CUDA = torch.device("cuda", 0)
VOCAB_SIZE = 1000
HALVES = [torch.bfloat16, torch.float16]
ALL = [torch.float32, *HALVES]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture
def plain(monkeypatch):
    """Switches the modules to their own torch."""
    return lambda: monkeypatch.setattr(fused, "available", lambda x: False)


def random(*shape, dtype=torch.float32, seed=0, std=1.0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * std).to(CUDA, dtype)


def close(actual, expected, dtype, scale=1.0):
    """Compare by relative norm: rounding of single entries is the format's own."""
    error = (actual.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30)
    assert error < TOLERANCE[dtype] * scale, f"relative error {error:.2e}"


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize(("rows", "width"), [(1, 8), (37, 96), (260, 384), (5, 1000)])
@pytest.mark.parametrize("has_y", [True, False])
def test_add_norm(dtype, rows, width, has_y):
    x, y, gain = random(rows, width, dtype=dtype), random(rows, width, dtype=dtype, seed=1), random(width, dtype=dtype)
    directions = random(rows, width, dtype=dtype, seed=2), random(rows, width, dtype=dtype, seed=3)
    inputs = [each.clone().requires_grad_() for each in ((x, y, gain) if has_y else (x, gain))]
    total, out = fused.add_norm(inputs[0], inputs[1] if has_y else None, inputs[-1], 1e-6)
    given = torch.autograd.grad((total, out), inputs, directions)
    exact = [each.detach().double().requires_grad_() for each in inputs]
    exact_total = exact[0] + exact[1] if has_y else exact[0] * 1
    exact_out = F.rms_norm(exact_total, (width,), exact[-1], 1e-6)
    expected = torch.autograd.grad((exact_total, exact_out), exact, [each.double() for each in directions])
    close(total, exact_total, dtype)
    close(out, exact_out, dtype)
    for grad, expected_grad in zip(given, expected, strict=True):
        close(grad, expected_grad, dtype)


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize(("B", "T", "H", "K", "C"), [(2, 13, 4, 2, 8), (3, 64, 8, 4, 48), (1, 1, 2, 2, 6)])
def test_heads(dtype, B, T, H, K, C):
    qkv, q_gain, k_gain = (
        random(B, T, (H + 2 * K) * C, dtype=dtype),
        random(C, dtype=dtype),
        random(C, dtype=dtype, seed=1),
    )
    cos, sin = (table.to(CUDA) for table in rotary_tables(T, C, 10000.0))
    directions = [random(B, H, T, C, dtype=dtype, seed=seed).transpose(1, 2) for seed in (2, 3, 4)]  # odd strides
    inputs = [each.clone().requires_grad_() for each in (qkv, q_gain, k_gain)]
    result = fused.heads(*inputs, cos, sin, H, K, 1e-6)
    given = torch.autograd.grad(result, inputs, directions)
    exact = [each.detach().double().requires_grad_() for each in inputs]
    q, k, v = exact[0].unflatten(-1, (-1, C)).split((H, K, K), dim=2)
    tables = cos.double()[:, None], sin.double()[:, None]
    q = rotate(F.rms_norm(q, (C,), exact[1], 1e-6), *tables)
    k = rotate(F.rms_norm(k, (C,), exact[2], 1e-6), *tables)
    expected = q, k.repeat_interleave(H // K, 2), v.repeat_interleave(H // K, 2)
    for one, other in zip(result, expected, strict=True):
        close(one, other, dtype)
    expected_grads = torch.autograd.grad(expected, exact, [each.double() for each in directions])
    for grad, expected_grad in zip(given, expected_grads, strict=True):
        close(grad, expected_grad, dtype)


def shaped(num_experts, top_k, seq_len=64, d_ff=96, **more):
    model = {"num_layers": 2, "d_model": 64, "num_heads": 4, "num_kv_heads": 2, "d_ff": d_ff, "init_std": 0.2}
    model |= {"num_experts": num_experts, "top_k": top_k, "seq_len": seq_len}
    return TrainConfig.model_validate({"model": model, "system": {"micro_batch_size": 4}, **more})


@pytest.mark.parametrize(
    ("num_experts", "top_k", "seq_len", "d_ff"),
    [(4, 2, 64, 96), (1, 1, 7, 40), (5, 3, 33, 104), (16, 2, 64, 64), (32, 1, 6, 48)],
)
def test_experts_and_router_in_fp32(plain, num_experts, top_k, seq_len, d_ff):
    layer = MoE(shaped(num_experts, top_k, seq_len, d_ff).model).to(CUDA)
    for seed, parameter in enumerate(layer.parameters()):
        parameter.data = random(*parameter.shape, seed=seed, std=0.3)
    x, direction = random(3, seq_len, 64, seed=7).requires_grad_(), random(3, seq_len, 64, seed=8)
    results = []
    for _ in range(2):
        y, tally = layer(x)
        stats = router_stats([tally])
        objective = (y * direction).sum() + 3 * stats.aux_loss + 0.1 * stats.z_loss
        results.append((y, stats, torch.autograd.grad(objective, [x, *layer.parameters()])))
        plain()
    (y, stats, grads), (expected_y, expected_stats, expected_grads) = results
    close(y, expected_y, torch.float32)
    assert torch.equal(stats.load_LE, expected_stats.load_LE)
    torch.testing.assert_close(stats.aux_loss, expected_stats.aux_loss)
    torch.testing.assert_close(stats.z_loss, expected_stats.z_loss)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        close(grad, expected_grad, torch.float32, scale=10)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("num_experts", [4, 5, 16])
def test_the_router_keeps_the_digits_of_its_fp32_weight(dtype, num_experts):
    from model import kernels

    x, weight = random(96, 64, dtype=dtype), random(num_experts, 64, seed=1, std=0.02)
    parts = kernels.split_router(weight, dtype)
    logits = torch.mm(x, parts.T, out_dtype=torch.float32)
    share, chosen, probs, lse, count, prob_sum = kernels.route(logits, kernels.ROUTER_PARTS, num_experts, 2, 32)
    exact = x.double() @ weight.double().T
    torch.testing.assert_close(probs.double(), exact.softmax(-1), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(lse.double(), exact.logsumexp(-1), rtol=1e-5, atol=1e-6)
    top, expected = exact.softmax(-1).topk(2)
    assert (chosen == expected).float().mean() > 0.99  # ties apart
    torch.testing.assert_close(share.double(), top / top.sum(-1, keepdim=True), rtol=1e-4, atol=1e-5)
    assert torch.equal(count.sum(1).long(), F.one_hot(chosen.long(), num_experts).sum((0, 1)))
    torch.testing.assert_close(prob_sum.sum(0), probs.sum(0), rtol=1e-4, atol=1e-4)


def test_slots_are_sorted_by_expert_and_stay_in_order_within_one():
    from model import kernels

    chosen = torch.randint(0, 5, (96, 3), generator=torch.Generator().manual_seed(0)).to(CUDA, torch.int32)
    chosen[chosen == 2] = 1  # an expert without a token
    count = F.one_hot(chosen.view(12, -1).long(), 5).sum(1).T.contiguous().to(torch.int32)
    order, inverse, ends = kernels.sort_slots(chosen, count)
    assert torch.equal(order.long(), chosen.flatten().long().argsort(stable=True))
    assert torch.equal(order[inverse.long()].long(), torch.arange(288, device=CUDA))
    assert torch.equal(ends.long(), torch.bincount(chosen.flatten().long(), minlength=5).cumsum(0))


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("vocab", [64, 1000, 50_304])
def test_cross_entropy(dtype, vocab):
    logits, targets = random(37, vocab, dtype=dtype, std=4.0), torch.arange(37, device=CUDA) % vocab
    exact = logits.double().requires_grad_()
    losses = F.cross_entropy(exact, targets, reduction="none")
    (expected,) = torch.autograd.grad(3 * losses.sum(), exact)
    scored, right = fused.score(logits, targets)
    torch.testing.assert_close(scored.double(), losses.detach(), rtol=1e-5, atol=1e-5)
    assert torch.equal(right.bool(), logits.gather(1, targets[:, None])[:, 0] == logits.amax(1))
    loss = fused.cross_entropy_(logits, targets, torch.tensor(3.0, device=CUDA))
    torch.testing.assert_close(loss.double(), losses.detach(), rtol=1e-5, atol=1e-5)
    close(logits, expected, dtype)


# --- whole learners ---


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


@pytest.mark.parametrize(("num_experts", "top_k", "seq_len"), [(4, 2, 64), (5, 3, 64), (1, 1, 64)])
def test_a_learner_on_the_kernels_equals_plain_torch(plain, num_experts, top_k, seq_len):
    config = shaped(num_experts, top_k, seq_len, optim={"weight_decay": 0.1})
    losses, weights = trained(Learner(config, VOCAB_SIZE, CUDA, torch.float32))
    plain()
    expected, expected_weights = trained(Learner(config, VOCAB_SIZE, CUDA, torch.float32))
    assert losses == pytest.approx(expected, rel=1e-5)
    for name, weight in expected_weights.items():
        close(weights[name], weight, torch.float32, scale=30)


@pytest.fixture
def capturing():
    if not graphs.can_capture(CUDA, torch.bfloat16):
        pytest.skip("steps are recorded from compute capability 9.0 only")


def bf16(**sections):
    return Learner(shaped(8, 2, **sections), VOCAB_SIZE, CUDA, torch.bfloat16)


@pytest.mark.usefixtures("capturing")
def test_a_recorded_step_equals_launching_its_kernels():
    losses, weights = trained(bf16(), steps=4)
    system = {"micro_batch_size": 4, "cuda_graphs": False}
    expected, expected_weights = trained(bf16(system=system), steps=4)
    assert losses == pytest.approx(expected, rel=2e-3)
    for name, weight in expected_weights.items():
        close(weights[name], weight, torch.bfloat16, scale=2)


@pytest.mark.usefixtures("capturing")
def test_a_recorded_learner_started_again_equals_a_fresh_one():
    model = shaped(8, 2).model.model_copy(update={"dropout": 0.1})
    first = shaped(8, 2, optim={"weight_decay": 0.1}).model_copy(update={"model": model})
    changed = first.model_copy(
        update={
            "seed": 3,
            "model": model.model_copy(update={"dropout": 0.3, "aux_loss_coef": 0.1}),
            "optim": first.optim.model_copy(update={"muon_lr": 0.05, "adamw_lr": 0.001, "weight_decay": 0.5}),
        }
    )
    used, fresh = (Learner(config, VOCAB_SIZE, CUDA, torch.bfloat16) for config in (first, changed))
    trained(used)
    used.start(changed)
    losses, weights = trained(used)
    fresh.start(changed)
    expected, expected_weights = trained(fresh)
    assert losses == pytest.approx(expected, rel=2e-3)
    for name, weight in expected_weights.items():
        close(weights[name], weight, torch.bfloat16, scale=2)


@pytest.mark.usefixtures("capturing")
def test_each_replay_draws_new_dropout():
    config = shaped(8, 2)
    dropped = config.model.model_copy(update={"dropout": 0.5})
    one = Learner(config.model_copy(update={"model": dropped}), VOCAB_SIZE, CUDA, torch.bfloat16)
    losses = []
    for _ in range(4):
        one.clear_meters()
        one.accumulate(*batch())
        losses.append(one.meters["loss"].item())
    assert len(set(losses)) == 4


@pytest.mark.usefixtures("capturing")
def test_a_smaller_last_pass_counts_each_sequence_the_same():
    one, reference = bf16(), bf16(system={"micro_batch_size": 6})
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


@pytest.mark.usefixtures("capturing")
def test_memory_of_a_learner_let_go_comes_back():
    residents.clear()
    before = torch.cuda.memory_reserved()
    for num_experts in (4, 8, 16):
        residents.learner_for(shaped(num_experts, 2), VOCAB_SIZE, CUDA, torch.bfloat16)
    residents.clear()
    # What libraries keep for their streams stays; it does not grow with the number of learners.
    kept = torch.cuda.memory_reserved() - before
    for num_experts in (4, 8, 16):
        residents.learner_for(shaped(num_experts, 2), VOCAB_SIZE, CUDA, torch.bfloat16)
    residents.clear()
    assert torch.cuda.memory_reserved() - before <= kept
