"""fp32 weights side by side in one tensor per update rule, with their gradients and half-precision copies.

The model's parameters are views of these tensors, so that one kernel updates all matrices of a shape.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.ops import fused, gradient_sums


@dataclass(frozen=True)
class WeightGroup:
    """Weights that one update rule changes together.

    Args:
        name: "embedding", "router" or "vector" for AdamW; "OUTxIN", such as "192x384", for Muon.
        weight: fp32; [matrices, out, in] for Muon, one dimension for AdamW.
        grad: fp32, the same shape: what has been accumulated since the last update.
        copy: The model's parameters in half precision, the same shape; None where the model uses `weight`.
    """

    name: str
    weight: Tensor
    grad: Tensor
    copy: Tensor | None

    @property
    def is_muon(self) -> bool:
        """Whether Muon trains this group."""
        return self.weight.ndim == 3


def group_of(name: str, weight: Tensor) -> str:
    """Return the name of the group that a parameter belongs to, as `WeightGroup` explains it.

    Muon takes the hidden matrices, by shape; each `gate_up_proj` counts as two. AdamW takes the embedding (a table of
    rarely seen rows, and the head), the routers (classifiers over a few experts: orthogonalising one would force all
    its logits to move equally) and the norms' gains.

    Args:
        name: The parameter's name in the model.
        weight: The parameter; only its shape counts.
    """
    if weight.ndim < 2:
        return "vector"
    if "embed_tokens" in name:
        return "embedding"
    if name.endswith("mlp.gate.weight"):
        return "router"

    out_features, in_features = weight.shape[-2:]
    if name.endswith("gate_up_proj"):
        out_features //= 2
    return f"{out_features}x{in_features}"


class MasterWeights:
    """fp32 weights for the optimizer beside a model that computes in half precision.

    The model's parameters are cast once per optimizer step, not at every forward pass. In fp32 both are the
    same tensors, and so are the routers' at any precision: routing needs the digits.

    Args:
        model: Its parameters become views of the groups' tensors and keep their values.
        dtype: Number format of forward and backward passes.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.groups: dict[str, WeightGroup] = {}
        self.weights: dict[str, Tensor] = {}
        self.grads: dict[str, Tensor] = {}
        self._copies: list[nn.Parameter] = []
        self._copy_grads: list[Tensor] = []

        named: dict[str, dict[str, nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            named.setdefault(group_of(name, parameter), {})[name] = parameter

        for group_name, parameters in named.items():
            self._add_group(group_name, parameters, dtype)

    def _add_group(self, group_name: str, parameters: Mapping[str, nn.Parameter], dtype: torch.dtype) -> None:
        """Move parameters into one tensor, and make them views of it or of its half-precision copy."""
        flat = torch.cat([parameter.detach().flatten() for parameter in parameters.values()]).float()
        shape = [-1]
        if "x" in group_name:
            shape += [int(size) for size in group_name.split("x")]
        weight = flat.view(shape)
        grad = torch.zeros_like(weight)

        has_copy = dtype != torch.float32 and group_name != "router"
        copy = weight.to(dtype) if has_copy else None
        self.groups[group_name] = WeightGroup(group_name, weight, grad, copy)
        published = weight if copy is None else copy

        start = 0
        for name, parameter in parameters.items():
            part = slice(start, start + parameter.numel())
            self.weights[name] = weight.view(-1)[part].view(parameter.shape)
            self.grads[name] = grad.view(-1)[part].view(parameter.shape)
            parameter.data = published.view(-1)[part].view(parameter.shape)
            parameter.grad_sum = self.grads[name]  # type: ignore[attr-defined] # fused operations add into it
            if has_copy:
                self._copies.append(parameter)
                self._copy_grads.append(self.grads[name])
            else:
                parameter.grad = self.grads[name]  # autograd adds into it
            start = part.stop

    @torch.no_grad()
    def collect(self) -> None:
        """Add the model's half-precision gradients to the fp32 gradients and clear them."""
        for parameter, grad in zip(self._copies, self._copy_grads, strict=True):
            if parameter.grad is None:
                continue
            if fused.available(grad):
                gradient_sums.add_(grad, parameter.grad)
            else:
                grad.add_(parameter.grad)
            parameter.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Cast the fp32 weights into the model's parameters."""
        for group in self.groups.values():
            if group.copy is not None:
                group.copy.copy_(group.weight)

    @torch.no_grad()
    def clear_gradients(self) -> None:
        """Set the accumulated gradients to zero."""
        for group in self.groups.values():
            group.grad.zero_()
