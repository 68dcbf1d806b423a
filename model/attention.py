"""Causal attention with rotary positions, grouped key-value heads and QK norm.

Shape suffixes: B batch, T positions, D d_model, H query heads, K key-value heads, C head_dim.
"""

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.config import ModelConfig


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned gain over the last dimension.

    Source: Zhang and Sennrich 2019, arXiv 1910.07467, equation 4.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` normalised, in its own dtype (the mean square is taken in fp32)."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rotary_tables(num_positions: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of the rotary angles.

    Args:
        num_positions: Positions, from 0.
        head_dim: Width of one head, even.
        theta: Base of the geometric series of wavelengths.

    Returns:
        Two fp32 tensors [num_positions, head_dim]; the second half of each row repeats the first.

    Source: Su et al. 2021, RoFormer, arXiv 2104.09864, section 3.2.2; halves are turned, not neighbours.
    """
    frequency_C = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angle_TC = torch.outer(torch.arange(num_positions, dtype=torch.float32), frequency_C).repeat(1, 2)
    return angle_TC.cos(), angle_TC.sin()


def rotate(x_BHTC: Tensor, cos_TC: Tensor, sin_TC: Tensor) -> Tensor:
    """Turn each pair (i, i + C/2) of a head by its position's angle."""
    first, second = x_BHTC.chunk(2, dim=-1)
    return x_BHTC * cos_TC + torch.cat((-second, first), dim=-1) * sin_TC


class Attention(nn.Module):
    """Grouped-query attention; parameter names are those of Qwen3MoeForCausalLM.

    Source: grouped heads, Ainslie et al. 2023, arXiv 2305.13245; QK norm per head, Qwen3, arXiv 2505.09388.
    """

    def __init__(self, config: ModelConfig, flash_attention: bool) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = (
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
        )
        self.dropout = config.dropout
        kv_width = config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.k_proj = nn.Linear(config.d_model, kv_width, bias=False)
        self.v_proj = nn.Linear(config.d_model, kv_width, bias=False)
        self.o_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps)
        self.backends = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
        if flash_attention:
            self.backends.insert(0, SDPBackend.FLASH_ATTENTION)

    def forward(self, x_BTD: Tensor, cos_TC: Tensor, sin_TC: Tensor) -> Tensor:
        """Mix each position with those before it; [B, T, D] in, [B, T, D] out."""
        B, T, _ = x_BTD.shape
        q_BHTC = self.q_norm(self._heads(self.q_proj(x_BTD))).transpose(1, 2)
        k_BKTC = self.k_norm(self._heads(self.k_proj(x_BTD))).transpose(1, 2)
        v_BKTC = self._heads(self.v_proj(x_BTD)).transpose(1, 2)
        q_BHTC, k_BKTC = rotate(q_BHTC, cos_TC, sin_TC), rotate(k_BKTC, cos_TC, sin_TC)
        dropout = self.dropout if self.training else 0.0
        with sdpa_kernel(self.backends):
            out_BHTC = F.scaled_dot_product_attention(
                q_BHTC, self._share(k_BKTC), self._share(v_BKTC), dropout_p=dropout, is_causal=True
            )
        out: Tensor = self.o_proj(out_BHTC.transpose(1, 2).reshape(B, T, -1))
        return out

    def _heads(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.view(*x_BTD.shape[:2], -1, self.head_dim)

    def _share(self, x_BKTC: Tensor) -> Tensor:
        """Give each query head its key-value head; enable_gqa would miss the fused kernels of older GPUs."""
        group = self.num_heads // self.num_kv_heads
        return x_BKTC.unsqueeze(2).expand(-1, -1, group, -1, -1).flatten(1, 2)
