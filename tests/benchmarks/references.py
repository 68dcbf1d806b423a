"""What the trainer is measured against: a plain trainer, transformers' own model, and the bound set by a dense one.

All learn the same shape as the trainer under test: grouped-query attention with rotary positions and QK norm,
SwiGLU, tied head, gradients clipped; Muon for the hidden matrices and AdamW for the rest, but for transformers' model,
which has AdamW alone. They share nothing with it but its configuration, so that a fault there cannot hide in its own
yardstick.

Shape suffixes: B micro-batch, T positions, N tokens (B x T), R tokens of a chunk, K experts per token, E experts,
D d_model, H heads, C head width, V vocabulary.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from model.config import ModelConfig, TrainConfig

TokenIds = npt.NDArray[np.uint16]
Batch = tuple[Tensor, Tensor]
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; five iterations."""
CHUNK_ROWS = 2048
TRIAL_MICRO_STEPS = 6


def flops_per_token(named_parameters: Iterable[tuple[str, Tensor]], config: ModelConfig) -> int:
    """Return operations of forward and backward per token: 6 per weight in use, and those of causal attention.

    A tied head is one parameter and counts once. Parameters named "experts" count top_k / num_experts.

    Source: Kaplan et al. 2020, arXiv 2001.08361, section 2.1.
    """
    total = experts = 0
    for name, parameter in named_parameters:
        total += parameter.numel()
        experts += parameter.numel() if ".experts." in name else 0
    active = total - experts + experts * config.top_k // config.num_experts
    return 6 * active + 6 * config.num_layers * config.seq_len * config.d_model


class Rotary(nn.Module):
    """Rotary positions, Su et al. 2021, arXiv 2104.09864: halves of a head turn together."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        frequency_C = config.rope_theta ** (-torch.arange(0, config.head_dim, 2).float() / config.head_dim)
        angle_TC = torch.outer(torch.arange(config.seq_len).float(), frequency_C).repeat(1, 2)
        self.register_buffer("cos_TC", angle_TC.cos(), persistent=False)
        self.register_buffer("sin_TC", angle_TC.sin(), persistent=False)

    def forward(self, x_BHTC: Tensor) -> Tensor:
        """Turn each pair by its position's angle."""
        first, second = x_BHTC.chunk(2, -1)
        return x_BHTC * self.cos_TC + torch.cat((-second, first), -1) * self.sin_TC


class Norm(nn.RMSNorm):
    """RMSNorm in its input's dtype: under autocast, weights of another dtype would miss the fused kernel."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` normalised."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Causal grouped-query attention; query, key and value maps are one matrix."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.widths = [config.d_model, *[config.num_kv_heads * config.head_dim] * 2]
        self.head_dim, self.group = config.head_dim, config.num_heads // config.num_kv_heads
        self.qkv = nn.Linear(config.d_model, sum(self.widths), bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)
        self.q_norm = Norm(config.head_dim, config.norm_eps)
        self.k_norm = Norm(config.head_dim, config.norm_eps)
        self.rotary = Rotary(config)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Mix each position with those before it."""
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in self.qkv(x_BTD).split(self.widths, -1))
        q_BHTC = self.rotary(self.q_norm(q).transpose(1, 2))
        k_BHTC = self.rotary(self.k_norm(k).transpose(1, 2)).repeat_interleave(self.group, 1)
        v_BHTC = v.transpose(1, 2).repeat_interleave(self.group, 1)
        out_BHTC = F.scaled_dot_product_attention(q_BHTC, k_BHTC, v_BHTC, is_causal=True)
        return self.out(out_BHTC.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """An expert, or the dense bound's layer, Shazeer 2020, arXiv 2002.05202; gate and up maps are one matrix."""

    def __init__(self, d_model: int, width: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * width, bias=False)
        self.down = nn.Linear(width, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class LoopMoE(nn.Module):
    """Top-k experts, one after the other: a mask finds each expert's tokens, and the host waits for it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.router = nn.Linear(config.d_model, config.num_experts, bias=False)
        self.experts = nn.ModuleList(SwiGLU(config.d_model, config.d_ff) for _ in range(config.num_experts))
        self.router_loss = torch.zeros(())

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the weighted sum of the chosen experts; the balance and z losses are left in `router_loss`."""
        config, x_ND = self.config, x_BTD.flatten(0, 1)
        logits_NE = self.router(x_ND).float()
        probs_NE = logits_NE.softmax(-1)
        weight_NK, expert_NK = probs_NE.topk(config.top_k, -1)
        if config.normalises_weights:
            weight_NK = weight_NK / weight_NK.sum(-1, keepdim=True)
        out_ND = torch.zeros_like(x_ND)
        for number, expert in enumerate(self.experts):
            token, place = torch.where(expert_NK == number)
            if len(token):
                weighted = expert(x_ND[token]) * weight_NK[token, place].unsqueeze(-1)
                out_ND.index_add_(0, token, weighted.to(out_ND.dtype))
        share_E = F.one_hot(expert_NK, config.num_experts).float().mean((0, 1))
        balance_loss = config.num_experts * (share_E * probs_NE.mean(0)).sum()
        z_loss = logits_NE.logsumexp(-1).square().mean()
        self.router_loss = config.aux_loss_coef * balance_loss + config.z_loss_coef * z_loss
        return out_ND.view_as(x_BTD)


class Block(nn.Module):
    """Attention, then `mlp`, each behind a norm and added to the residual stream."""

    def __init__(self, config: ModelConfig, mlp: nn.Module) -> None:
        super().__init__()
        self.attention_norm = Norm(config.d_model, config.norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = Norm(config.d_model, config.norm_eps)
        self.mlp = mlp

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the new residual stream."""
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD))
        return x_BTD + self.mlp(self.mlp_norm(x_BTD))


class Decoder(nn.Module):
    """Embedding, blocks and final norm; the embedding is the head."""

    def __init__(self, config: ModelConfig, vocab_size: int, make_mlp: Callable[[], nn.Module]) -> None:
        super().__init__()
        # Padded as the trainer pads it: tensor cores want whole tiles.
        self.embed = nn.Embedding(math.ceil(vocab_size / 64) * 64, config.d_model)
        self.blocks = nn.ModuleList(Block(config, make_mlp()) for _ in range(config.num_layers))
        self.norm = Norm(config.d_model, config.norm_eps)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=config.init_std)

    def states(self, tokens_BT: Tensor) -> Tensor:
        """Return the final hidden states."""
        x_BTD = self.embed(tokens_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.norm(x_BTD)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the mean cross-entropy, taken in fp32 over whole logits."""
        logits_BTV = F.linear(self.states(tokens_BT), self.embed.weight).float()
        return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


def orthogonalise(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Newton-Schulz on one matrix, or on a stack of matrices of one shape."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = (x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + 1e-12)).to(dtype)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon matrix by matrix, or with `batched` once for all matrices of one shape."""

    def __init__(self, params: list[Tensor], lr: float, momentum: float, dtype: torch.dtype, batched: bool) -> None:
        super().__init__(params, {"lr": lr})
        self.momentum, self.dtype, self.batched = momentum, dtype, batched
        groups: dict[object, list[Tensor]] = {}
        for param in params:
            groups.setdefault(param.shape if batched else id(param), []).append(param)
        self.groups = list(groups.values())

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every matrix that has a gradient."""
        for params in self.groups:
            if params[0].grad is None:  # an expert that no token chose
                continue
            grad = torch.stack([param.grad for param in params]) if self.batched else params[0].grad
            state = self.state[params[0]]
            if not state:
                state["momentum"] = torch.zeros_like(grad)
            state["momentum"].lerp_(grad, 1 - self.momentum)
            update = orthogonalise(grad.lerp(state["momentum"], self.momentum), self.dtype).to(grad.dtype)
            lr = self.param_groups[0]["lr"] * math.sqrt(max(1.0, grad.shape[-2] / grad.shape[-1]))
            torch._foreach_add_(params, list(update.unbind()) if self.batched else [update], alpha=-lr)


class _Reference:
    """What all share: batches on the device, optimizers over fp32 weights, loss scale, accumulation, clipping."""

    def __init__(self, config: TrainConfig, model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self.config, self.model, self.device, self.dtype = config, model.to(device), device, dtype
        self.flops_per_token = flops_per_token(model.named_parameters(), config.model)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.micro_steps = 0
        self.note = ""

    def batches(self, ids: TokenIds) -> Iterator[Batch]:
        """Yield shuffled micro-batches without end, gathered on the device."""
        seq_len = self.config.model.seq_len
        ids_N = torch.from_numpy(ids.astype(np.int64)).to(self.device)
        offsets_T = torch.arange(seq_len + 1, device=self.device)
        while True:
            order = torch.randperm((len(ids_N) - 1) // seq_len, device=self.device)
            for windows in order.split(self.config.system.micro_batch_size):
                if len(windows) == self.config.system.micro_batch_size:  # other shapes would be compiled anew
                    window_BT = ids_N[windows.unsqueeze(1) * seq_len + offsets_T]
                    yield window_BT[:, :-1].contiguous(), window_BT[:, 1:].contiguous()

    def _make_optimizers(self, weights: Mapping[str, Tensor], muon_dtype: torch.dtype, fast: bool) -> None:
        optim = self.config.optim
        hidden, rest = [], []
        for name, weight in weights.items():
            (hidden if weight.ndim == 2 and "embed" not in name and "router" not in name else rest).append(weight)
        betas = (optim.adamw_beta1, optim.adamw_beta2)
        self.weights = list(weights.values())
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(hidden, optim.muon_lr, optim.muon_momentum, muon_dtype, batched=fast),
            torch.optim.AdamW(rest, optim.adamw_lr, betas, weight_decay=0.0, fused=fast or None),
        ]

    def _group_complete(self) -> bool:
        self.micro_steps += 1
        return self.micro_steps % self.config.optim.grad_accum_steps == 0

    def _update(self) -> None:
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(self.weights, self.config.optim.grad_clip)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()


class Windows(Dataset[Batch]):
    """Non-overlapping windows of the training tokens and their next tokens."""

    def __init__(self, ids: TokenIds, seq_len: int) -> None:
        self.ids, self.seq_len = ids, seq_len

    def __len__(self) -> int:
        return (len(self.ids) - 1) // self.seq_len

    def __getitem__(self, index: int) -> Batch:
        start = index * self.seq_len
        window = torch.from_numpy(self.ids[start : start + self.seq_len + 1].astype(np.int64))
        return window[:-1], window[1:]


class PlainTrainer(_Reference):
    """A careful first version: experts in a loop, autocast, GradScaler, whole fp32 logits, Muon per matrix."""

    def __init__(self, config: TrainConfig, vocab_size: int, device: torch.device, dtype: torch.dtype) -> None:
        shape = config.model
        super().__init__(config, Decoder(shape, vocab_size, lambda: LoopMoE(shape)), device, dtype)
        self.moes = [module for module in self.model.modules() if isinstance(module, LoopMoE)]
        # bf16, as Muon is usually written; a CPU without bf16 units would only be slowed down by it.
        muon_dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self._make_optimizers(dict(self.model.named_parameters()), muon_dtype, fast=False)

    def batches(self, ids: TokenIds, num_workers: int = 2) -> Iterator[Batch]:
        """Yield shuffled micro-batches without end, from a loader's processes."""
        loader = DataLoader(
            Windows(ids, self.config.model.seq_len),
            batch_size=self.config.system.micro_batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=num_workers,
            pin_memory=self.device.type == "cuda",
        )
        return itertools.chain.from_iterable(itertools.repeat(loader))

    def micro_step(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Train on one micro-batch and return its cross-entropy, on the device."""
        tokens_BT = tokens_BT.to(self.device, non_blocking=True)
        targets_BT = targets_BT.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            loss = self.model(tokens_BT, targets_BT)
            objective = loss + sum(moe.router_loss for moe in self.moes)
        self.scaler.scale(objective / self.config.optim.grad_accum_steps).backward()
        if self._group_complete():
            self._update()
            for optimizer in self.optimizers:
                optimizer.zero_grad()
        return loss.detach()


class TransformersTrainer(_Reference):
    """What people would take instead: transformers' Qwen3Moe with grouped experts, compiled, fused AdamW.

    Args:
        config: The same as for the trainer under test.
        vocab_size: Tokens of the vocabulary.
        device: Where to compute.
        dtype: Number format of forward and backward.
        half_weights: Whether the weights have that format too, and nothing is cast: transformers takes torch's grouped
            product only then, and a loop over experts under autocast. Updates are rounded to the format.
    """

    def __init__(
        self,
        config: TrainConfig,
        vocab_size: int,
        device: torch.device,
        dtype: torch.dtype,
        half_weights: bool = False,
    ) -> None:
        from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

        shape = config.model
        described = Qwen3MoeConfig(
            vocab_size=math.ceil(vocab_size / 64) * 64,
            hidden_size=shape.d_model,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            num_key_value_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            moe_intermediate_size=shape.d_ff,
            num_experts=shape.num_experts,
            num_experts_per_tok=shape.top_k,
            norm_topk_prob=shape.normalises_weights,
            router_aux_loss_coef=shape.aux_loss_coef,
            output_router_logits=True,
            max_position_embeddings=shape.seq_len,
            initializer_range=shape.init_std,
            tie_word_embeddings=True,
            use_cache=False,
        )
        model = Qwen3MoeForCausalLM._from_config(
            described,
            attn_implementation="sdpa",
            experts_implementation="grouped_mm",
            dtype=dtype if half_weights else torch.float32,
        )
        self.casts = dtype != torch.float32 and not half_weights
        super().__init__(config, model.train(), device, dtype)

        self.weights = list(self.model.parameters())
        betas = (config.optim.adamw_beta1, config.optim.adamw_beta2)
        fused = device.type == "cuda" or None
        self.optimizers = [torch.optim.AdamW(self.weights, config.optim.adamw_lr, betas, weight_decay=0.0, fused=fused)]
        self.run = torch.compile(self.model) if device.type == "cuda" else self.model
        self.note = f"AdamW alone, {'half-precision weights' if half_weights else 'autocast'}"

    def micro_step(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Train on one micro-batch and return its loss, that of the router included, on the device."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.casts):
            loss = self.run(input_ids=tokens_BT, labels=targets_BT, shift_labels=targets_BT).loss

        self.scaler.scale(loss / self.config.optim.grad_accum_steps).backward()
        if self._group_complete():
            self._update()
            for optimizer in self.optimizers:
                optimizer.zero_grad()
        return loss.detach()


def _head_chunk(x_RD: Tensor, head_VD: Tensor, targets_R: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a chunk's summed cross-entropy and its gradients, multiplied by `scale`, of states and head."""
    logits_RV = (x_RD @ head_VD.T).float()
    total_R1 = logits_RV.logsumexp(-1, keepdim=True)
    loss = (total_R1 - logits_RV.gather(1, targets_R.unsqueeze(1))).sum()
    is_target_RV = targets_R.unsqueeze(1) == torch.arange(head_VD.shape[0], device=x_RD.device)
    grad_RV = (((logits_RV - total_R1).exp() - is_target_RV.float()) * scale).to(x_RD.dtype)
    return loss, grad_RV @ head_VD, grad_RV.T @ x_RD


class DenseTrainer(_Reference):
    """The bound: a dense model of equal active operations, as fast as this file knows how to make it.

    Half-precision weights beside fp32 masters and fp32 gradient sums, compiled graphs, Muon batched by shape,
    fused AdamW, tokens already on the device. On CUDA several `VARIANTS` are timed at set-up and the fastest kept.

    Args:
        config: The same as for the trainer under test; the layer is top_k * d_ff wide.
        vocab_size: Tokens of the vocabulary.
        device: Where to compute.
        dtype: Number format of forward and backward.
        variant: A variant that won before; None chooses (on CUDA) or takes "whole logits" uncompiled (elsewhere).
    """

    VARIANTS: Mapping[str, str | None] = {
        "whole logits": None,
        "whole logits, CUDA graphs": "reduce-overhead",
        "chunked logits": None,
    }

    def __init__(
        self,
        config: TrainConfig,
        vocab_size: int,
        device: torch.device,
        dtype: torch.dtype,
        variant: str | None = None,
    ) -> None:
        shape = config.model
        width = shape.top_k * shape.d_ff
        super().__init__(config, Decoder(shape, vocab_size, lambda: SwiGLU(shape.d_model, width)), device, dtype)
        masters = {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}
        for master in masters.values():
            master.grad = torch.zeros_like(master)
        self._make_optimizers(masters, torch.float32 if device.type == "cpu" else dtype, fast=True)
        self.model.to(dtype)
        self.copies = list(self.model.parameters())
        self.head_VD, self.head_master = self.model.embed.weight.detach(), masters["embed.weight"]
        self.variant = variant or ("whole logits" if device.type == "cpu" else self._fastest_variant(vocab_size))
        self._build(self.variant)
        self.note = self.variant

    def micro_step(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Train on one micro-batch and return its cross-entropy, on the device."""
        loss = self._accumulate(tokens_BT, targets_BT)
        if self._group_complete():
            self._update()
            with torch.no_grad():
                torch._foreach_copy_(self.copies, self.weights)
            torch._foreach_zero_([master.grad for master in self.weights])
        return loss

    def _accumulate(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        num_micro_batches = self.config.optim.grad_accum_steps
        if self.variant == "chunked logits":
            loss = self._chunked_backward(tokens_BT, targets_BT.flatten(), num_micro_batches)
        else:
            if self.VARIANTS[self.variant]:
                torch.compiler.cudagraph_mark_step_begin()
            loss = self.graph(tokens_BT, targets_BT)
            self.scaler.scale(loss / num_micro_batches).backward()
        torch._foreach_add_([master.grad for master in self.weights], [copy.grad for copy in self.copies])
        for copy in self.copies:
            copy.grad = None
        return loss.detach()

    def _chunked_backward(self, tokens_BT: Tensor, targets_N: Tensor, num_micro_batches: int) -> Tensor:
        x_ND = self.graph(tokens_BT).flatten(0, 1)
        num_tokens = len(targets_N)
        scale = self.scaler.scale(torch.ones((), device=self.device)) / (num_micro_batches * num_tokens)
        chunks = zip(x_ND.detach().split(CHUNK_ROWS), targets_N.split(CHUNK_ROWS), strict=True)
        losses, grads_x, grads_head = zip(
            *(self.head_graph(x_RD, self.head_VD, targets_R, scale) for x_RD, targets_R in chunks), strict=True
        )
        x_ND.backward(torch.cat(grads_x))
        for grad_VD in grads_head:
            self.head_master.grad.add_(grad_VD)
        return torch.stack(losses).sum() / num_tokens

    def _build(self, variant: str) -> None:
        self.variant = variant
        compiles = self.device.type == "cuda"
        torch.compiler.reset()  # gives back what another variant's graphs hold
        run = self.model.states if variant == "chunked logits" else self.model
        self.graph = torch.compile(run, mode=self.VARIANTS[variant]) if compiles else run
        self.head_graph = torch.compile(_head_chunk) if compiles else _head_chunk

    def _fastest_variant(self, vocab_size: int) -> str:
        """Time forward and backward of each variant; one that fails is left out."""
        shape = (self.config.system.micro_batch_size, self.config.model.seq_len)
        batch = torch.randint(vocab_size, shape, device=self.device)
        seconds = {}
        for variant in self.VARIANTS:
            self._build(variant)
            try:
                for number in range(2 * TRIAL_MICRO_STEPS):
                    if number == TRIAL_MICRO_STEPS:
                        torch.cuda.synchronize()
                        started_s = time.perf_counter()
                    self._accumulate(batch, batch)
                torch.cuda.synchronize()
            except RuntimeError as error:
                print(f"note: dense bound, {variant}: {str(error).splitlines()[0]}", flush=True)
                continue
            finally:
                for copy in self.copies:
                    copy.grad = None
            seconds[variant] = time.perf_counter() - started_s
        torch._foreach_zero_([master.grad for master in self.weights])
        if not seconds:
            raise RuntimeError("no variant of the dense bound runs on this device")
        return min(seconds, key=lambda variant: seconds[variant])
