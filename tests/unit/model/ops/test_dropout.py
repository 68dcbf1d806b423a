import pytest
import torch

from model.ops.dropout import dropout


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def test_probability_zero_changes_no_bit():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = torch.randn(50, 7).to(dtype)
        assert torch.equal(dropout(x, torch.zeros(())), x)
        assert torch.equal(dropout(x, torch.zeros(()), axes=1), x)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("axes", [0, 1])
def test_drops_its_share_and_scales_the_rest_so_that_the_mean_stays(probability, axes):
    x = torch.full((200_000, 1), 3.0)
    dropped = dropout(x, torch.tensor(probability), axes)
    kept = dropped[dropped != 0]

    torch.testing.assert_close(kept, torch.full_like(kept, 3.0 / (1 - probability)))

    # Five standard errors of a mean of as many coins.
    error = 5 * (probability * (1 - probability) / len(x)) ** 0.5
    assert abs((dropped == 0).float().mean().item() - probability) < error
    assert abs(dropped.mean().item() / 3.0 - 1) < error / (1 - probability)


def test_last_axes_share_one_draw_and_the_others_draw_alone():
    kept = dropout(torch.ones(40, 30, 5, 6), torch.tensor(0.5), axes=2) != 0
    assert torch.equal(kept, kept[:, :, :1, :1].expand_as(kept))

    draws = kept[:, :, 0, 0]
    assert len(set(map(tuple, draws.tolist()))) == 40
    assert len(set(map(tuple, draws.T.tolist()))) == 30

    own = dropout(torch.ones(40, 30), torch.tensor(0.5)) != 0
    assert len(set(map(tuple, own.tolist()))) == 40


def test_gradient_passes_through_what_was_kept():
    x = torch.randn(100, requires_grad=True)
    dropped = dropout(x, torch.tensor(0.25))
    dropped.sum().backward()
    torch.testing.assert_close(x.grad, (dropped != 0) / 0.75)


def test_keeps_the_dtype_and_reads_the_probability_anew():
    probability, x = torch.zeros(()), torch.ones(1000, dtype=torch.float16)
    assert dropout(x, probability).dtype == torch.float16
    assert (dropout(x, probability) != 0).all()
    probability.fill_(0.5)
    assert 300 < (dropout(x, probability) == 0).sum() < 700


def test_a_seed_repeats_and_every_call_draws_anew():
    x, half = torch.ones(100), torch.tensor(0.5)
    first, second = dropout(x, half), dropout(x, half)
    torch.manual_seed(0)
    assert torch.equal(dropout(x, half), first)
    assert not torch.equal(first, second)
