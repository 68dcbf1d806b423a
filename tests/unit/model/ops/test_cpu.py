"""The operations by hand of a CPU against the modules' own lines of torch: results and all gradients."""

import pytest
import torch
from small_model import VOCAB_SIZE, small_model

from model.ops import cpu


def learned(dropout: float, tokens: torch.Tensor, **changes: object) -> dict[str, torch.Tensor]:
    model = small_model(dropout=dropout, **changes).train()
    torch.manual_seed(3)  # dropout draws the same numbers both ways
    x_BTD, stats = model(tokens)
    weight_BTD = torch.randn(x_BTD.shape, generator=torch.Generator().manual_seed(4))
    ((x_BTD * weight_BTD).sum() + stats.aux_loss + stats.z_loss).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {"out": x_BTD, "load": stats.load_LE, **gradients}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_kv_heads": 4},
        {"num_kv_heads": 1, "top_k": 1},
        {"num_experts": 8, "top_k": 3},
        {"seq_len": 150},  # more rows for an expert than are rounded up to
    ],
)
def test_as_the_modules_own_lines(monkeypatch, dropout, changes):
    tokens = torch.randint(VOCAB_SIZE, (3, 150 if "seq_len" in changes else 13))
    by_hand = learned(dropout, tokens, **changes)
    monkeypatch.setattr(cpu, "available", lambda x: False)
    reference = learned(dropout, tokens, **changes)
    # Gradients are fp32 sums in another order, and which digits they lose differs between CPUs: 1.4e-4 on a Xeon.
    torch.testing.assert_close(by_hand, reference, rtol=1e-4, atol=3e-4)


def test_heads_in_several_chunks(monkeypatch):
    q, k, v = (torch.randn(2, heads, 20, 8) for heads in (4, 2, 2))
    whole = cpu.attend(q, k, v)
    monkeypatch.setattr(cpu, "CHUNK_SCORES", 2 * 20 * 20 * 3)  # three of the four key-value heads at a time
    torch.testing.assert_close(cpu.attend(q, k, v), whole)


def test_an_expert_without_rows_gets_no_gradient_and_its_neighbours_rows_stay_theirs():
    generator = torch.Generator().manual_seed(0)
    x, gate_up, down = (torch.randn(shape, generator=generator) for shape in ((5, 8), (4, 24, 8), (4, 8, 12)))
    chosen = torch.tensor([3, 1, 1, 3, 1])
    order = chosen.argsort(stable=True)
    leaves = [each.requires_grad_() for each in (x, torch.rand(5, 1), gate_up, down)]
    ends = torch.tensor([0, 3, 3, 5], dtype=torch.int32)
    y = cpu.experts(*leaves, order, order.argsort(), ends)
    gate, up = torch.einsum("nd,nfd->nf", x, gate_up[chosen]).chunk(2, dim=1)
    hidden = torch.nn.functional.silu(gate) * up * leaves[1]
    expected = torch.einsum("nf,ndf->nd", hidden, down[chosen])

    torch.testing.assert_close(y, expected)

    weight = torch.randn(5, 8)
    gradients = torch.autograd.grad((y * weight).sum(), leaves)

    torch.testing.assert_close(gradients, torch.autograd.grad((expected * weight).sum(), leaves))
    assert not gradients[2][[0, 2]].any()


def test_products_keep_fp32_digits_and_the_setting_comes_back():
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    x, y = torch.randn(200, 300), torch.randn(300, 100)
    exact = x.double() @ y.double()

    with cpu.fast_products(torch.device("cpu")):
        error = (x @ y - exact).norm() / exact.norm()

    assert error < 1e-6  # of bf16 inputs it would be 3e-3
    assert setting.fp32_precision == before


def test_a_run_on_a_gpu_leaves_the_setting_alone():
    before = torch.backends.mkldnn.matmul.fp32_precision
    with cpu.fast_products(torch.device("cuda")):
        assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_where_products_would_lose_digits_no_leave_is_given(monkeypatch):
    monkeypatch.setattr(cpu, "_keeps_digits", lambda: False)
    before = torch.backends.mkldnn.matmul.fp32_precision
    with cpu.fast_products(torch.device("cpu")):
        assert torch.backends.mkldnn.matmul.fp32_precision == before
