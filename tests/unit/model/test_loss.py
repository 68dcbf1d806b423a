import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from model import loss
from model.loss import count_losses, cross_entropy


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 16, generator=generator, requires_grad=True)
    weight = torch.randn(40, 16, generator=generator, requires_grad=True)
    return x, weight, torch.randint(0, 40, (50,), generator=generator)


@pytest.mark.parametrize("chunk_rows", [7, 50, 64])
@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_loss_and_gradients_equal_the_plain_ones_whatever_the_chunks(problem, monkeypatch, chunk_rows, scale):
    monkeypatch.setattr(loss, "CHUNK_ROWS", chunk_rows)
    x, weight, targets = problem
    plain = F.cross_entropy(x @ weight.T, targets)
    chunked = cross_entropy(x, weight, targets, torch.tensor(scale))
    torch.testing.assert_close(chunked, plain)
    expected = torch.autograd.grad(plain * scale, (x, weight))
    for grad, expected_grad in zip(torch.autograd.grad(chunked * scale, (x, weight)), expected, strict=True):
        torch.testing.assert_close(grad, expected_grad, atol=1e-6 * scale, rtol=1e-4)


def test_gradient_is_right_even_for_another_factor_than_announced(problem):
    x, weight, targets = problem
    expected = torch.autograd.grad(3 * F.cross_entropy(x @ weight.T, targets), x)[0]
    grad = torch.autograd.grad(3 * cross_entropy(x, weight, targets), x)[0]
    torch.testing.assert_close(grad, expected, atol=1e-6, rtol=1e-4)


def test_fp16_gradients_do_not_underflow_when_the_scale_is_announced():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4096, 8, generator=generator).half().requires_grad_()
    weight = (0.01 * torch.randn(64, 8, generator=generator)).half()
    targets = torch.randint(0, 64, (4096,), generator=generator)
    scale = torch.tensor(2.0**16)
    (cross_entropy(x, weight, targets, scale) * scale).backward()
    exact = x.detach().double().requires_grad_()
    F.cross_entropy(exact @ weight.double().T, targets).backward()
    torch.testing.assert_close(x.grad.double() / 2.0**16, exact.grad, rtol=0.02, atol=1e-8)


def test_counting_losses(problem, monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_ROWS", 16)
    x, weight, targets = problem
    total, correct = count_losses(x, weight, targets)
    logits = x @ weight.T
    torch.testing.assert_close(total, F.cross_entropy(logits.double(), targets, reduction="sum"), rtol=1e-5, atol=0)
    assert correct == (logits.argmax(-1) == targets).sum()
