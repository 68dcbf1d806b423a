import math

import torch
from small_model import small_shape

from model.attention import Attention, RMSNorm, rotary_tables, rotate


def attention(seed=0, flash_attention=True, **changes):
    torch.manual_seed(seed)
    return Attention(small_shape(**changes), flash_attention).eval()


def test_equals_attention_written_out_head_by_head():
    layer, x = attention(), torch.randn(2, 10, 32, generator=torch.Generator().manual_seed(1))
    cos, sin = rotary_tables(10, 8, 10000.0)
    expected = torch.zeros(2, 10, 32)

    with torch.no_grad():
        queries, keys, values = layer.q_proj(x), layer.k_proj(x), layer.v_proj(x)
        for batch in range(2):
            heads = []
            for head in range(4):
                shared = head // 2
                q = rotate(layer.q_norm(queries[batch, :, head * 8 : head * 8 + 8]), cos, sin)
                k = rotate(layer.k_norm(keys[batch, :, shared * 8 : shared * 8 + 8]), cos, sin)
                scores = (q @ k.T / math.sqrt(8)).masked_fill(torch.ones(10, 10).triu(1).bool(), -math.inf)
                heads.append(scores.softmax(-1) @ values[batch, :, shared * 8 : shared * 8 + 8])
            expected[batch] = layer.o_proj(torch.cat(heads, dim=-1))
        torch.testing.assert_close(layer(x, cos, sin), expected)


def test_rotation_keeps_lengths_and_depends_on_distance_only():
    cos, sin = rotary_tables(12, 8, 10000.0)
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(2))
    turned_q, turned_k = rotate(q.expand(12, 8), cos, sin), rotate(k.expand(12, 8), cos, sin)

    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(12))

    scores = turned_q @ turned_k.T
    for distance in (0, 1, 5):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=1e-4)

    assert abs(scores[0, 0] - scores[5, 0]) > 1e-3


def test_rms_norm():
    norm = RMSNorm(4, 1e-6)
    norm.weight.data = torch.tensor([1.0, 2.0, 3.0, 4.0])
    # mean square of (1, 1, 1, 3) is 3
    expected = torch.tensor([1.0, 2.0, 3.0, 12.0]) / math.sqrt(3)
    torch.testing.assert_close(norm(torch.tensor([1.0, 1.0, 1.0, 3.0])), expected)


def test_dropout_hides_whole_positions_from_all_queries_of_a_head():
    layer, x = attention(), torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(3))
    cos, sin = rotary_tables(16, 8, 10000.0)
    torch.manual_seed(5)
    dropped = layer(x, cos, sin, torch.tensor(0.5))

    assert not torch.equal(dropped, layer(x, cos, sin, torch.tensor(0.5)))

    torch.manual_seed(5)
    kept = (torch.rand(2, 16, 4, 1) >= 0.5) / 0.5  # one draw for each position and query head
    with torch.no_grad():
        q, k, v = (layer._share(each).transpose(1, 2) for each in layer._project(x, cos, sin))
        scores = torch.einsum("bthc,bshc->bhts", q, k) / math.sqrt(8)
        weights = scores.masked_fill(torch.ones(16, 16).triu(1).bool(), -math.inf).softmax(-1)
        expected = layer.o_proj(torch.einsum("bhts,bshc->bthc", weights, v * kept).flatten(2))

    torch.testing.assert_close(dropped, expected)


def test_the_norm_of_a_sum_keeps_the_sum():
    norm, x, y = RMSNorm(4, 1e-6), torch.randn(3, 4), torch.randn(3, 4)
    total, normed = norm.add(x, y)
    assert torch.equal(total, x + y)
    assert torch.equal(normed, norm(x + y))
    assert torch.equal(norm.add(x, None)[0], x)


def test_without_flash_attention_the_result_is_the_same():
    x = torch.randn(2, 16, 32)
    cos, sin = rotary_tables(16, 8, 10000.0)
    with_flash, without = attention(flash_attention=True), attention(flash_attention=False)
    torch.testing.assert_close(with_flash(x, cos, sin), without(x, cos, sin))


def test_dropout_of_zero_changes_no_bit():
    layer, x = attention(), torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(1))
    tables = rotary_tables(16, 8, 10000.0)
    assert torch.equal(layer(x, *tables, torch.zeros(())), layer(x, *tables))


@torch.no_grad()
def test_every_head_of_every_sequence_draws_its_own_dropout():
    """Queries of zero attend evenly, so that position by position the values can be had back from the outputs."""
    layer, x = attention(), torch.randn(3, 16, 32, generator=torch.Generator().manual_seed(1))
    layer.q_proj.weight.zero_()
    layer.o_proj.weight.copy_(torch.eye(32))
    torch.manual_seed(0)
    sums = layer(x, *rotary_tables(16, 8, 10000.0), torch.tensor(0.5)) * torch.arange(1, 17)[:, None]
    seen = torch.diff(sums, dim=1, prepend=torch.zeros(3, 1, 32)).view(3, 16, 4, 8)
    values = layer.v_proj(x).view(3, 16, 2, 8).repeat_interleave(2, dim=2)
    kept = seen.abs().amax(-1, keepdim=True) > 1e-3

    torch.testing.assert_close(seen, values * kept / 0.5, atol=1e-4, rtol=1e-4)

    draws = {tuple(kept[sequence, :, head, 0].tolist()) for sequence in range(3) for head in range(4)}
    assert len(draws) == 12  # heads that share their values, too


@torch.no_grad()
def test_dropout_keeps_the_expectation():
    layer, x = attention(), torch.randn(1, 8, 32, generator=torch.Generator().manual_seed(1))
    tables = rotary_tables(8, 8, 10000.0)
    torch.manual_seed(2)
    draws = layer(x.expand(4000, -1, -1), *tables, torch.tensor(0.3))
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - layer(x, *tables)[0]).abs() < 5 * error + 1e-6).all()
