"""fp32 weights side by side in one tensor per update rule, with their gradients and half-precision copies.

The model's parameters are views of these tensors, so that one kernel updates all matrices of a shape.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.ops import fused


@dataclass(frozen=True)
class WeightGroup:
    """Weights that one rule updates together.

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
    """Return the name of the group a parameter belongs to.

    Muon takes the hidden matrices, by shape; gate and up are two matrices each. AdamW takes the embedding (a
    table of rarely seen rows, and the head), the routers (classifiers over a few experts: orthogonalising one
    would force all its logits to move equally) and the norms' gains.
    """
    if weight.ndim < 2:
        return "vector"
    if "embed_tokens" in name:
        return "embedding"
    if name.endswith("mlp.gate.weight"):
        return "router"
    out_features, in_features = weight.shape[-2:]
    return f"{out_features // 2 if name.endswith('gate_up_proj') else out_features}x{in_features}"


class MasterWeights:
    """fp32 weights for the optimizer beside a model that computes in half precision.

    The model's parameters are cast once per optimizer step, not at every forward pass. In fp32 both are the
    same tensors, and so are the routers' at any precision: routing needs the digits.

    Args:
        model: Its parameters become views of the groups' tensors, with the values they have.
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
        flat = torch.cat([parameter.detach().flatten() for parameter in parameters.values()]).float()
        shape = (-1, *map(int, group_name.split("x"))) if "x" in group_name else (-1,)
        weight = flat.view(shape)
        grad = torch.zeros_like(weight)
        has_copy = dtype != torch.float32 and group_name != "router"
        copy = weight.to(dtype) if has_copy else None
        self.groups[group_name] = WeightGroup(group_name, weight, grad, copy)
        start = 0
        for name, parameter in parameters.items():
            end = start + parameter.numel()
            views = [
                tensor.view(-1)[start:end].view(parameter.shape)
                for tensor in (weight, grad, weight if copy is None else copy)
            ]
            self.weights[name], self.grads[name], parameter.data = views
            parameter.grad_sum = self.grads[name]  # type: ignore[attr-defined] # fused operations add into it
            if has_copy:
                self._copies.append(parameter)
                self._copy_grads.append(self.grads[name])
            else:
                parameter.grad = self.grads[name]  # autograd adds into it
            start = end

    @torch.no_grad()
    def collect(self) -> None:
        """Add the model's half-precision gradients to the fp32 gradients and clear them."""
        for parameter, grad in zip(self._copies, self._copy_grads, strict=True):
            if parameter.grad is None:
                continue
            if fused.available(grad):
                fused.add_(grad, parameter.grad)
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
        """Forget the accumulated gradients."""
        for group in self.groups.values():
            group.grad.zero_()
