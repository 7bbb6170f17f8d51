"""Which tensors of a model move when it is taught? All, those of some layers, or low-rank factors added to its matrices.

Turns stacked moving tensors into a call of the model, by one `vmap` or one after the other; the model itself never
changes. It takes no step and measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from explorer.errors import ModelError, SettingsError
from explorer.laboratory.settings import Teaching
from explorer.loading import as_model_input

Tensors = dict[str, Tensor]
LISTED = 6


class Movable:
    """A model as a function of what moves in it, in the precision of the settings, in evaluation mode.

    `start` has the moving tensors by name; `stacked` says whether several of them run under one `vmap`.

    Raises:
        SettingsError: layers that the model lacks.
        ModelError: nothing that is trained is among them.
    """

    def __init__(self, model: nn.Module, settings: Teaching) -> None:
        self.model = model
        self.dtype: torch.dtype = getattr(torch, settings.dtype)
        whole = dict(model.named_parameters()) | dict(model.named_buffers())
        self.base = {name: self._cast(tensor.detach()) for name, tensor in whole.items()}
        chosen = _chosen(model, settings.layers)
        self.scale = settings.alpha / settings.rank if settings.rank is not None else None
        if settings.rank is None:
            self.start = {name: self.base[name] for name in chosen}
        else:
            self.start = _factors(model, chosen, self.base, settings.rank, settings.seed)
        self.stacked = True

    @property
    def size(self) -> int:
        """How many numbers move."""
        return sum(tensor.numel() for tensor in self.start.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all that moves."""
        return sum(tensor.nbytes for tensor in self.start.values())

    @property
    def norm(self) -> float:
        """The norm of all the model's weights."""
        squares = [float(self.base[name].double().square().sum()) for name, _ in self.model.named_parameters()]
        return sqrt(max(sum(squares), torch.finfo(torch.float64).tiny))

    def inputs(self, batch: Tensor) -> Tensor:
        """Model inputs on the model's device, floats in the precision of the settings."""
        return self._cast(as_model_input(self.model, batch))

    def call(self, moved: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Outputs `[b, k]` where the moving tensors have these values."""
        outputs: Tensor = functional_call(self.model, self._weights(moved), (inputs,))
        return outputs

    def each(self, moved: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Outputs `[m, b, k]` of m models, each `[m, ...]` of `moved` on its own inputs `[m, b, ...]`."""
        if self.stacked:
            found: Tensor = torch.func.vmap(self.call)(dict(moved), inputs)
            return found
        rows = range(len(inputs))
        return torch.stack([self.call({n: t[row] for n, t in moved.items()}, inputs[row]) for row in rows])

    def pulled(self, inputs: Tensor, pulls: Tensor) -> Tensor:
        """J_iᵀ r_i of every example at the start, `[b, size]`, for pulls r `[b, k]` on the outputs, each run alone."""

        def one(moved: Tensors, x: Tensor, pull: Tensor) -> Tensor:
            return (self.call(moved, x.unsqueeze(0))[0] * pull).sum()

        if self.stacked:
            found = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0))(self.start, inputs, pulls)
            return self.flat(found)
        rows = []
        for x, pull in zip(inputs, pulls, strict=True):
            points = {name: tensor.detach().requires_grad_(True) for name, tensor in self.start.items()}
            with torch.enable_grad():
                said = one(points, x, pull)
                own = torch.autograd.grad(said, list(points.values()), materialize_grads=True)
            rows.append(torch.cat([gradient.flatten() for gradient in own]))
        return torch.stack(rows)

    def pushed(self, direction: Mapping[str, Tensor], inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs `[b, k]` at the start, and how fast they change when the moving tensors go in a direction.

        By going back twice: Jᵀr is linear in the pull r, and its slope along the direction d is J d.
        """

        points = [tensor.detach().requires_grad_(True) for tensor in self.start.values()]
        with torch.enable_grad():
            outputs = self.call(dict(zip(self.start, points, strict=True)), inputs)
            pull = torch.zeros_like(outputs, requires_grad=True)
            back = torch.autograd.grad(outputs, points, pull, create_graph=True, materialize_grads=True)
            along = [direction[name] for name in self.start]
            (tangent,) = torch.autograd.grad(back, pull, along, materialize_grads=True)
        return outputs.detach(), tangent

    def flat(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Tensors `[m, ...]` by name as rows `[m, size]`, in the order of `start`."""
        return torch.cat([tensors[name].flatten(1) for name in self.start], 1)

    def _weights(self, moved: Mapping[str, Tensor]) -> Tensors:
        if self.scale is None:
            return self.base | dict(moved)
        names = [name.removesuffix("/down") for name in moved if name.endswith("/down")]
        return self.base | {n: self.base[n] + self.scale * moved[f"{n}/up"] @ moved[f"{n}/down"] for n in names}

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor


def _chosen(model: nn.Module, layers: Sequence[str] | None) -> list[str]:
    """Names of the trained parameters in these layers."""
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if layers is not None:
        modules = dict(model.named_modules())
        unknown = [name for name in layers if name not in modules]
        if unknown:
            known = [name for name, module in modules.items() if name and any(True for _ in module.parameters())]
            more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
            raise SettingsError(
                f"Expected layers out of {', '.join(known[:LISTED])}{more}; found {unknown[0]!r}. Choose one of these."
            )
        trained = [name for name in trained if any(not layer or name.startswith(f"{layer}.") for layer in layers)]
    if not trained:
        where = "the model" if layers is None else f"the layers {', '.join(layers)}"
        raise ModelError(
            f"Expected a trained parameter in {where}; found none. Set requires_grad on what is to be taught."
        )
    return trained


def _factors(model: nn.Module, chosen: Sequence[str], base: Tensors, rank: int, seed: int) -> Tensors:
    """Factors "down" `[rank, in]` and "up" `[out, rank]` of every chosen matrix but those of embeddings."""
    embeddings = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
        for parameter in module.parameters(recurse=False)
    }
    own: dict[str, Any] = dict(model.named_parameters())
    matrices = [n for n in chosen if n.endswith("weight") and own[n].dim() == 2 and id(own[n]) not in embeddings]
    if not matrices:
        raise ModelError(
            "Expected a linear layer to add low-rank factors to; found none among the chosen layers. Choose other layers, "
            "or move whole matrices (rank None)."
        )
    draws = torch.Generator().manual_seed(seed)
    factors: Tensors = {}
    for name in matrices:
        out, into = base[name].shape
        down = torch.randn(rank, into, generator=draws, dtype=torch.float64) / into**0.5
        factors[f"{name}/down"] = down.to(base[name])
        factors[f"{name}/up"] = base[name].new_zeros(out, rank)
    return factors
