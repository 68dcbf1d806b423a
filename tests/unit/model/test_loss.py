import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from model import loss
from model.loss import count_losses, loss_and_gradients


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 16, generator=generator, requires_grad=True)
    weight = torch.randn(40, 16, generator=generator, requires_grad=True)
    return x, weight, torch.randint(0, 40, (50,), generator=generator)


@pytest.mark.parametrize("chunk_rows", [1, 7, 50, 64])
@pytest.mark.parametrize("scale", [1.0, 1024.0])
@pytest.mark.parametrize("integers", [torch.int32, torch.int64])
def test_loss_and_gradients_equal_the_plain_ones_whatever_the_chunks(problem, monkeypatch, chunk_rows, scale, integers):
    monkeypatch.setattr(loss, "CPU_CHUNK_ROWS", chunk_rows)
    x, weight, targets = problem
    plain = F.cross_entropy(x @ weight.T, targets)
    expected_x, expected_weight = torch.autograd.grad(plain * scale, (x, weight))
    summed = torch.ones_like(weight)
    arguments = x.detach(), weight.detach(), targets.to(integers), torch.tensor(scale), summed
    chunked, grad_x = loss_and_gradients(*arguments)

    torch.testing.assert_close(chunked, plain.detach())
    torch.testing.assert_close(grad_x, expected_x, atol=1e-6 * scale, rtol=1e-4)
    # Added to what was there, twice as by two passes.
    torch.testing.assert_close(summed, 1.0 + expected_weight, atol=1e-6 * scale, rtol=1e-4)

    loss_and_gradients(*arguments)
    torch.testing.assert_close(summed, 1.0 + 2 * expected_weight, atol=2e-6 * scale, rtol=1e-4)


def test_inputs_are_left_as_they_are(problem):
    x, weight, targets = (tensor.detach() for tensor in problem)
    before = x.clone(), weight.clone(), targets.clone()
    loss_and_gradients(x, weight, targets, torch.ones(()), torch.zeros_like(weight))
    count_losses(x, weight, targets)
    assert all(torch.equal(*pair) for pair in zip((x, weight, targets), before, strict=True))


def test_logits_far_apart_neither_overflow_nor_lose_the_target(problem):
    x, weight, targets = (tensor.detach() for tensor in problem)
    x, exact = 1e4 * x, (1e4 * x).double().requires_grad_()
    value, grad_x = loss_and_gradients(x, weight, targets, torch.ones(()), torch.zeros_like(weight))
    expected = F.cross_entropy(exact @ weight.double().T, targets)
    expected.backward()

    torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(grad_x.double(), exact.grad, rtol=1e-3, atol=1e-4)


def test_fp16_gradients_do_not_underflow_when_the_scale_is_announced():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4096, 8, generator=generator).half()
    weight = (0.01 * torch.randn(64, 8, generator=generator)).half()
    targets = torch.randint(0, 64, (4096,), generator=generator)
    summed = torch.zeros(64, 8)
    _, grad_x = loss_and_gradients(x, weight, targets, torch.tensor(2.0**16), summed)

    assert grad_x.dtype == torch.float16

    exact_x, exact_weight = (tensor.double().requires_grad_() for tensor in (x, weight))
    F.cross_entropy(exact_x @ exact_weight.T, targets).backward()

    torch.testing.assert_close(grad_x.double() / 2.0**16, exact_x.grad, rtol=0.02, atol=1e-8)
    torch.testing.assert_close(summed.double() / 2.0**16, exact_weight.grad, rtol=0.02, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_takes_the_loss_in_fp32(problem, dtype):
    x, weight, targets = (tensor.detach() for tensor in problem)
    value, _ = loss_and_gradients(x.to(dtype), weight.to(dtype), targets, torch.ones(()), torch.zeros_like(weight))
    logits = x.to(dtype) @ weight.to(dtype).T
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, F.cross_entropy(logits.float(), targets))


@pytest.mark.parametrize("chunk_rows", [16, 50, 2048])
@pytest.mark.parametrize("integers", [torch.int32, torch.int64])
def test_counting_losses(problem, monkeypatch, chunk_rows, integers):
    monkeypatch.setattr(loss, "CPU_CHUNK_ROWS", chunk_rows)
    x, weight, targets = problem
    logits = (x @ weight.T).detach()
    targets[:10] = logits[:10].argmax(-1)  # some right by intent
    total, correct = count_losses(x, weight, targets.to(integers))

    assert total.dtype == correct.dtype == torch.float64
    torch.testing.assert_close(total, F.cross_entropy(logits.double(), targets, reduction="sum"), rtol=1e-5, atol=0)
    assert correct == (logits.argmax(-1) == targets).sum() >= 10
