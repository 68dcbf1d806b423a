"""Causal attention with rotary positions, grouped key-value heads and QK norm.

Shape suffixes: B batch, T positions, D d_model, H query heads, K key-value heads, C head_dim, W (H + 2K) x C.
"""

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.config import ModelConfig
from model.ops import cpu, fused
from model.ops.dropout import dropout


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned gain over the last dimension.

    Source: Zhang and Sennrich 2019, arXiv 1910.07467, equation 4.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, of any shape, normalised in its own dtype; the mean square is taken in fp32."""
        if cpu.available(x):
            return cpu.norm(x, self.weight, self.eps)
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)

    def add(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return x + y, or x where y is None, and the norm of that; all of one shape and dtype."""
        if fused.available(x):
            return fused.add_norm(x, y, self.weight, self.eps)

        total = x if y is None else x + y
        return total, self(total)


def rotary_tables(num_positions: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of the rotary angles.

    Args:
        num_positions: Positions, from 0.
        head_dim: Width of one head, even.
        theta: Base of the geometric series of wavelengths.

    Returns:
        Two fp32 tensors [num_positions, head_dim]; the second half of each row repeats the first.

    Source: Su et al. 2021, RoFormer, arXiv 2104.09864, section 3.2.2; the two halves are paired, not neighbours.
    """
    frequency_C = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    position_T = torch.arange(num_positions, dtype=torch.float32)
    angle_TC = torch.outer(position_T, frequency_C).repeat(1, 2)
    return angle_TC.cos(), angle_TC.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return `x` with each pair (i, i + C/2) of its last dimension rotated by its position's angle.

    Args:
        x: [..., T, C], any float dtype.
        cos: Cosines, of a shape that broadcasts to that of `x`.
        sin: Sines, likewise.
    """
    if cpu.available(x):
        return cpu.rotate(x, cos, sin)

    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    """Grouped-query attention; parameter names are those of Qwen3MoeForCausalLM.

    Source: grouped heads, Ainslie et al. 2023, arXiv 2305.13245; QK norm per head, Qwen3, arXiv 2505.09388.
    """

    def __init__(self, config: ModelConfig, flash_attention: bool) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.num_kv_heads = config.num_kv_heads
        self.head_dim = config.head_dim
        self.flash_attention = flash_attention

        kv_width = config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.k_proj = nn.Linear(config.d_model, kv_width, bias=False)
        self.v_proj = nn.Linear(config.d_model, kv_width, bias=False)
        self.o_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps)

    def forward(self, x_BTD: Tensor, cos_TC: Tensor, sin_TC: Tensor, drop: Tensor | None = None) -> Tensor:
        """Mix each position with those before it.

        Args:
            x_BTD: Normed hidden states.
            cos_TC: Cosines of the rotary angles, fp32.
            sin_TC: Sines.
            drop: Dropout probability, a scalar; None for none. With this probability a position is hidden from all
                queries of a head. Since they share the draw, dropout is a product with the values, and any attention
                kernel will do.

        Returns:
            [B, T, D] in the dtype of `x_BTD`.
        """
        B, T, _ = x_BTD.shape
        q_BHTC, k_BKTC, v_BKTC = self._project(x_BTD, cos_TC, sin_TC)

        if drop is not None:
            # Each query head draws its own, so that each needs its own copy of the values.
            k_BKTC, v_BKTC = self._share(k_BKTC), self._share(v_BKTC)
            v_BKTC = dropout(v_BKTC.transpose(1, 2), drop, axes=1).transpose(1, 2)

        out_BHTC = self._attend(q_BHTC, k_BKTC, v_BKTC)
        return self._linear(out_BHTC.transpose(1, 2).reshape(B, T, -1), self.o_proj.weight)

    def _attend(self, q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor) -> Tensor:
        """Return causal attention, [B, H, T, C]."""
        if cpu.available(q_BHTC):
            return cpu.attend(q_BHTC, k_BKTC, v_BKTC)

        k_BHTC, v_BHTC = self._share(k_BKTC), self._share(v_BKTC)
        with sdpa_kernel(self._backends(q_BHTC), set_priority=True):
            return F.scaled_dot_product_attention(q_BHTC, k_BHTC, v_BHTC, is_causal=True)

    def _project(self, x_BTD: Tensor, cos_TC: Tensor, sin_TC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries [B, H, T, C], keys and values [B, K, T, C] or already repeated [B, H, T, C]."""
        qkv_BTW = self._linear(x_BTD, self.q_proj.weight, self.k_proj.weight, self.v_proj.weight)
        H, K = self.num_heads, self.num_kv_heads

        if fused.available(x_BTD):
            gains = self.q_norm.weight, self.k_norm.weight
            q_BTHC, k_BTHC, v_BTHC = fused.heads(qkv_BTW, *gains, cos_TC, sin_TC, H, K, self.q_norm.eps)
            return q_BTHC.transpose(1, 2), k_BTHC.transpose(1, 2), v_BTHC.transpose(1, 2)

        heads_BHTC = qkv_BTW.unflatten(-1, (-1, self.head_dim)).transpose(1, 2).contiguous()
        q_BHTC, k_BKTC, v_BKTC = heads_BHTC.split((H, K, K), dim=1)
        tables_TC = cos_TC.to(x_BTD.dtype), sin_TC.to(x_BTD.dtype)
        turned_q_BHTC = rotate(self.q_norm(q_BHTC), *tables_TC)
        turned_k_BKTC = rotate(self.k_norm(k_BKTC), *tables_TC)
        return turned_q_BHTC, turned_k_BKTC, v_BKTC

    @staticmethod
    def _linear(x_BTD: Tensor, *weights: Tensor) -> Tensor:
        """Return the products with several weights [out, D] beside each other, as one product."""
        if fused.available(x_BTD):
            return fused.linear(x_BTD, *weights)

        weight = torch.cat(weights) if len(weights) > 1 else weights[0]
        return F.linear(x_BTD, weight)

    def _backends(self, q_BHTC: Tensor) -> list[SDPBackend]:
        """Return the attention kernels in order of preference."""
        backends = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
        if not self.flash_attention:
            return backends
        backends.insert(0, SDPBackend.FLASH_ATTENTION)

        # cuDNN's is the fastest on Hopper, for the regular shapes of training.
        is_regular = q_BHTC.is_cuda and q_BHTC.shape[2] % 64 == 0 and self.head_dim % 8 == 0
        if is_regular and torch.cuda.get_device_capability(q_BHTC.device) >= (9, 0):
            backends.insert(0, SDPBackend.CUDNN_ATTENTION)
        return backends

    def _share(self, x_BKTC: Tensor) -> Tensor:
        """Repeat each key-value head for its group of query heads, unless that has been done."""
        # enable_gqa would do the same, but not with the fused kernels of older GPUs.
        group = self.num_heads // x_BKTC.shape[1]
        if group == 1:
            return x_BKTC
        return x_BKTC.repeat_interleave(group, dim=1)
