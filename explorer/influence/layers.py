"""Which layers of a model can be handled, and which are left out and why?

Looks at the modules and runs a few examples once to check what it assumes of each layer; it computes no influence and
keeps nothing of what went through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from explorer.errors import ModelError, SettingsError
from explorer.loading import ROUNDING, as_model_input

KINDS: dict[type[nn.Module], str] = {
    nn.LayerNorm: "layer norm",
    nn.GroupNorm: "group norm",
    nn.RMSNorm: "RMS norm",
    nn.BatchNorm1d: "batch norm",
    nn.BatchNorm2d: "batch norm",
    nn.BatchNorm3d: "batch norm",
    nn.Embedding: "embedding",
}
"""What people call the commonest modules that are left out; any other goes by the name of its class."""
PROBED = 4
"""Examples run once to see what each layer gets."""
SAME = 1e-3
"""Share of a gradient's norm: what two ways to sum it may differ by before it counts as another gradient (in half
precision `SAME_ROUNDINGS` of its own, which is more)."""
SAME_ROUNDINGS = 10
NAMED_AT_MOST = 12
"""How many layers a message lists before it counts the rest."""


@dataclass(frozen=True)
class Layer:
    """One linear or convolution layer as a matrix `[width_out, width_in]` applied to rows.

    `width_in` counts the columns of its input rows: the bias, where it has one, is folded in as a last column of ones,
    and a convolution's row is the patch under its kernel. `positions` is how many rows an example has: places times
    calls, as seen when the model was probed.
    """

    name: str
    module: nn.Linear | nn.Conv1d | nn.Conv2d
    width_in: int
    width_out: int
    positions: int

    @property
    def size(self) -> int:
        """Parameters."""
        return self.width_in * self.width_out

    def rows_in(self, seen: Tensor, examples: int) -> Float[Tensor, "b t i"]:
        """What one call got, as new rows `[examples, positions, width_in]` that later in-place changes cannot reach.

        In float32 at least: sums over rows of half precision would lose what is measured.
        """
        rows = _at_least_float32(seen.detach())
        if not isinstance(self.module, nn.Linear):
            return _patches(self.module, rows)
        rows = rows.reshape(examples, -1, seen.shape[-1])
        return rows.clone() if self.module.bias is None else functional.pad(rows, (0, 1), value=1.0)

    def rows_out(self, gradient: Tensor, examples: int) -> Float[Tensor, "b t o"]:
        """A gradient with respect to what one call returned, as rows `[examples, positions, width_out]`."""
        if not isinstance(self.module, nn.Linear):
            gradient = gradient.flatten(2).transpose(1, 2)
        return _at_least_float32(gradient).reshape(examples, -1, self.width_out)


@dataclass(frozen=True)
class Layers:
    """The handled layers in the model's own order, and the name of all else that has parameters with its reason."""

    layers: tuple[Layer, ...]
    left_out: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """Names for people: a model that is one layer has no name for it."""
        return tuple(layer.name or "the whole model" for layer in self.layers)

    @property
    def size(self) -> int:
        """Parameters in all handled layers."""
        return sum(layer.size for layer in self.layers)

    @property
    def elements(self) -> int:
        """Numbers that one example puts into and pulls out of all layers: `Σ positions (width_in + width_out)`."""
        return sum(layer.positions * (layer.width_in + layer.width_out) for layer in self.layers)


def of(model: nn.Module, inputs: Tensor, chosen: Sequence[str] | None = None, *, skip_frozen: bool = False) -> Layers:
    """The layers of `model` that can be handled: `nn.Linear`, and `nn.Conv1d` or `nn.Conv2d` in one group padded by zeros.

    `inputs` are a few examples (two or more show whether examples stay apart). `chosen` names layers or what their
    names begin with ("body" means "body.0" too). A module called several times has that many more positions. Frozen
    parameters count unless `skip_frozen`. Cost: four forward and two backward passes of a handful of examples; the model
    stays as it was.

    Raises:
        SettingsError: a chosen name does not exist, or is all left out.
        ModelError: no layer can be handled, the output is not `[batch, outputs]`, or the model is not `steady`.
    """
    check_steady(model, inputs[:PROBED])
    left_out = _unhandled(model, skip_frozen)
    found = {name: module for name, module in model.named_modules() if _is_handled(module) and name not in left_out}
    layers = []
    for name, result in _probed(model, found, inputs[:PROBED]).items():
        if isinstance(result, str):
            left_out[name] = result
        else:
            layers.append(result)
    if chosen is not None:
        _check_chosen(chosen, model, [layer.name for layer in layers], left_out)
        left_out |= {layer.name: "not chosen" for layer in layers if not _is_within(layer.name, chosen)}
        layers = [layer for layer in layers if _is_within(layer.name, chosen)]
    if not layers:
        raise ModelError(
            "Expected a model with an nn.Linear, or an nn.Conv1d or nn.Conv2d in one group padded by zeros; found "
            f"{_few([f'{name} ({reason})' for name, reason in left_out.items()])}. Build the model from such layers, "
            "each called as a module."
        )
    return Layers(tuple(layers), MappingProxyType(left_out))


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; every module's own training flag is put back on exit."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def check_steady(model: nn.Module, inputs: Tensor) -> None:
    """Proves on a few examples that in evaluation mode nothing is random and no example sees another.

    Outputs that are not finite are let through: the pass over all examples names the first. Cost: three forward passes.

    Raises:
        ModelError: a module stays in training mode, two passes differ, or an output depends on the rest of its batch.
    """
    with evaluation(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        training = [
            f"{name or 'the model'} ({type(module).__name__})"
            for name, module in model.named_modules()
            if module.training
        ]
        if training:
            raise ModelError(
                f"Expected every module in evaluation mode after model.eval(); found in training mode: {_few(training)}. "
                "Let their train() method set the mode, so that dropout is off and batch norm keeps its statistics."
            )
        few = as_model_input(model, inputs)
        first, again = (check_outputs(model(few), len(few)) for _ in range(2))
        half = check_outputs(model(few[: (len(few) + 1) // 2]), (len(few) + 1) // 2)
    finite = first.isfinite() & again.isfinite()
    largest = first[finite].abs().max() if bool(finite.any()) else first.new_zeros(())
    slack = largest * max(ROUNDING, SAME_ROUNDINGS * torch.finfo(first.dtype).eps)
    if bool(((first - again)[finite].abs() > slack).any()):
        raise ModelError(
            "Expected two passes over the same inputs to agree; found different outputs in evaluation mode. Take dropout "
            "or other randomness out of the model's forward."
        )
    if bool(((first[: len(half)] - half)[finite[: len(half)]].abs() > slack).any()):
        raise ModelError(
            "Expected the output of an example not to depend on the rest of its batch; found that it does. Use stored "
            "statistics in batch norm (track_running_stats=True) or another normalization."
        )


def on_call(module: nn.Module, hook: Callable[[Tensor, Tensor], None]) -> RemovableHandle:
    """Calls `hook(input, output)` whenever the module, a layer of one input, is called, until the handle is removed."""

    def call(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], out: Tensor) -> None:
        hook(args[0] if args else kwargs["input"], out)

    return module.register_forward_hook(call, with_kwargs=True)


def check_outputs(outputs: object, examples: int) -> Tensor:
    """The model's answer if it is `[examples, outputs]`, else a `ModelError`."""
    if not isinstance(outputs, Tensor) or outputs.dim() != 2 or len(outputs) != examples:
        found = f"shape {list(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ModelError(
            f"Expected the model to return one tensor [{examples}, outputs] for {examples} examples; found {found}. "
            "Wrap the model so that it returns its logits or regression values."
        )
    return outputs


def as_leaves(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters for `functional_call`: the same memory, each with a gradient, whatever its own flag says."""
    return {name: p.detach().requires_grad_(p.is_floating_point()) for name, p in model.named_parameters()}


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _patches(module: nn.Conv1d | nn.Conv2d, seen: Tensor) -> Float[Tensor, "b place patch"]:
    """Patches under the kernel, channels outermost, with a last one where there is a bias; copied once, into their place.

    A 1-d convolution is a 2-d one of height 1.
    """
    lift = (1,) * (2 - len(module.kernel_size))
    kernel, stride, dilation = (lift + tuple(x) for x in (module.kernel_size, module.stride, module.dilation))
    seen = seen.unsqueeze(2) if lift else seen
    if isinstance(module.padding, str):
        spans = [d * (k - 1) if module.padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
        sides = [(span // 2, span - span // 2) for span in spans]
    else:
        sides = [(p, p) for p in (0,) * len(lift) + tuple(module.padding)]
    (top, bottom), (left, right) = sides
    windows = functional.pad(seen, (left, right, top, bottom))
    for dim in (2, 3):
        k, d = kernel[dim - 2], dilation[dim - 2]
        windows = windows.unfold(dim, d * (k - 1) + 1, stride[dim - 2])[..., ::d]
    examples, channels, high, wide, *_ = windows.shape
    patch, biased = channels * kernel[0] * kernel[1], module.bias is not None
    rows = seen.new_empty(examples, high, wide, patch + biased)
    places = rows[..., :patch].view(examples, high, wide, channels, *kernel)
    places.copy_(windows.permute(0, 2, 3, 1, 4, 5))
    rows[..., patch:] = 1
    return rows.flatten(1, 2)


def _is_handled(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d))


def _unhandled(model: nn.Module, skip_frozen: bool) -> dict[str, str]:
    """Reasons that show without running the model, by name of the module or parameter."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    reasons: dict[str, str] = {}
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if not own:
            continue
        others = [owner for p in own.values() for owner in owners[id(p)] if owner != name]
        if _is_handled(module):
            reason = _refused(module)
            if reason is None and others:
                reason = f"weights tied with {_few(sorted(set(others)))}"
            if reason is None and skip_frozen and not any(p.requires_grad for p in own.values()):
                reason = "frozen (requires_grad is off)"
            if reason is not None:
                reasons[name] = reason
        elif any(True for _ in module.children()):
            prefix = f"{name}." if name else ""
            reasons |= {prefix + key: f"parameter of {type(module).__name__}: not handled" for key in own}
        else:
            reasons[name] = f"{KINDS.get(type(module), type(module).__name__)}: not handled"
    return reasons


def _refused(module: nn.Module) -> str | None:
    if not isinstance(module._parameters.get("weight"), nn.Parameter):
        return "weight computed from other parameters: not handled"
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        if module.groups != 1:
            return "grouped convolution: not handled"
        if module.padding_mode != "zeros":
            return f"convolution padded by {module.padding_mode}: not handled"
    return None


def _probed(model: nn.Module, modules: dict[str, nn.Module], inputs: Tensor) -> dict[str, Layer | str]:
    """Each module as a layer, or why it is none, from one run of a few examples."""
    calls: dict[str, list[tuple[Tensor, Tensor, GradientEdge | None]]] = {name: [] for name in modules}

    def hook(name: str, got: Tensor, out: Tensor) -> None:
        calls[name].append((got.detach().clone(), out, get_gradient_edge(out) if out.requires_grad else None))

    hooks = [on_call(module, partial(hook, name)) for name, module in modules.items()]
    leaves = as_leaves(model)
    try:
        with evaluation(model), torch.enable_grad():
            outputs = check_outputs(functional_call(model, leaves, (as_model_input(model, inputs),)), len(inputs))
    finally:
        for handle in hooks:
            handle.remove()
    draw = torch.Generator().manual_seed(0)
    pull = torch.randn(outputs.shape, generator=draw).to(outputs)
    return {name: _judged(name, module, calls[name], outputs, pull, leaves) for name, module in modules.items()}


def _judged(
    name: str,
    module: nn.Module,
    calls: list[tuple[Tensor, Tensor, GradientEdge | None]],
    outputs: Tensor,
    pull: Tensor,
    leaves: dict[str, Tensor],
) -> Layer | str:
    """What the calls of one module say of it: rows of examples apart, and all of its gradient in them."""
    assert isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d))
    examples = len(outputs)
    edges = [edge for _, _, edge in calls if edge is not None]
    if not calls or len(edges) < len(calls):
        return "not called as a module" if not calls else "called without gradients"
    if any(len(seen) % examples or out.dim() < 2 for seen, out, _ in calls):
        return "examples are not the first dimension of what it gets"
    if not isinstance(module, nn.Linear) and any(out.dim() != 2 + len(module.kernel_size) for _, out, _ in calls):
        return "called without a batch dimension"
    width_in = module.weight[0].numel() + (module.bias is not None)
    layer = Layer(name, module, width_in, len(module.weight), 0)
    parameters = [leaves[f"{name}.{key}" if name else key] for key, _ in module.named_parameters(recurse=False)]
    first = torch.zeros_like(pull)
    first[0] = pull[0]
    alone = torch.autograd.grad(outputs, edges, first, retain_graph=True, allow_unused=True)
    sought: list[Any] = [*edges, *parameters]
    found = torch.autograd.grad(outputs, sought, pull, retain_graph=True, allow_unused=True)
    if all(gradient is None for gradient in found):
        return "does not move the output"
    total = _at_least_float32(pull.new_zeros(layer.width_out, width_in))
    positions = 0
    for (seen, _, _), gradient, own in zip(calls, found, alone, strict=False):
        rows = layer.rows_in(seen, examples)
        positions += rows.shape[1]
        if own is not None and bool(layer.rows_out(own, examples)[1:].abs().gt(0).any()):
            return "examples are mixed in what it returns"
        if gradient is not None:
            total += torch.einsum("bto,bti->oi", layer.rows_out(gradient, examples), rows)
    whole = torch.cat([g.reshape(len(total), -1) for g in found[len(edges) :] if g is not None], 1)
    share = max(SAME, SAME_ROUNDINGS * torch.finfo(whole.dtype).eps)
    if whole.shape != total.shape or (whole - total).norm() > share * whole.norm():
        return "its weights are used elsewhere too"
    return Layer(name, module, width_in, len(module.weight), positions)


def _is_within(name: str, chosen: Sequence[str]) -> bool:
    return any(name == choice or name.startswith(f"{choice}.") for choice in chosen)


def _check_chosen(chosen: Sequence[str], model: nn.Module, handled: list[str], left_out: Mapping[str, str]) -> None:
    known = [*handled, *left_out, *(name for name, _ in model.named_modules())]
    for choice in chosen:
        if not any(_is_within(name, [choice]) for name in known):
            raise SettingsError(
                f"Expected layers out of {_few(handled)}, or what these names begin with; found {choice!r}. "
                "Choose one of these."
            )
        if not any(_is_within(name, [choice]) for name in handled):
            reasons = [f"{name}: {reason}" for name, reason in left_out.items() if _is_within(name, [choice])]
            raise SettingsError(
                f"Expected a layer that can be handled; found {choice!r} ({_few(reasons or ['no parameters'])}). "
                f"Choose out of {_few(handled)}."
            )


def _few(names: Sequence[str]) -> str:
    rest = len(names) - NAMED_AT_MOST
    shown = ", ".join(name or "the whole model" for name in names[:NAMED_AT_MOST]) or "nothing with parameters"
    return shown + (f" (+{rest})" if rest > 0 else "")
