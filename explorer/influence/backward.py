"""What went into each layer for each example, and what pulls on what came out?

One forward pass and as many backward passes as are asked for, over a batch or, in blocks, over a set of examples; no
curvature, no scores. The gradient of an example with respect to a layer is the sum over its positions of pull ⊗ input.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call

from explorer.contracts import Examples, Progress, silent
from explorer.errors import ModelError
from explorer.influence import blocks
from explorer.influence.blocks import Need
from explorer.influence.layers import Layers, as_leaves, check_outputs, evaluation, on_call
from explorer.loading import as_model_input

T = TypeVar("T")

ELEMENTS = 2**24
"""Numbers that a block of examples may put into and pull out of its layers (64 MB in float32)."""
BATCH = 1024
"""Examples in a block at most."""


@dataclass
class Trace:
    """One batch on its way through the model: `outputs [b, k]` and, for each layer, `inputs [b, t, width_in]`.

    Positions t are places times calls; the rows of a layer with a bias end in a one.
    """

    outputs: Tensor
    inputs: list[Tensor]
    _layers: Layers
    _calls: list[list[tuple[GradientEdge, int]]] = field(repr=False)

    def pulls(self, gradient: Float[Tensor, "b k"]) -> list[Tensor]:
        """For each layer `[b, t, width_out]`, how `(gradient * outputs).sum()` moves with what it returned.

        Row by row in the order of `inputs`, float32 or wider. May be asked again with another gradient; cost one backward pass.
        """
        assert self._calls, "pulls() was called after the trace had ended"
        edges = [edge for calls in self._calls for edge, _ in calls]
        found = iter(torch.autograd.grad(self.outputs, edges, gradient, retain_graph=True, allow_unused=True))
        pulls = []
        for layer, rows, calls in zip(self._layers.layers, self.inputs, self._calls, strict=True):
            parts = []
            for _, positions in calls:
                part = next(found)
                if part is None:
                    parts.append(rows.new_zeros(len(gradient), positions, layer.width_out))
                else:
                    parts.append(layer.rows_out(part, len(gradient)))
            pulls.append(parts[0] if len(parts) == 1 else torch.cat(parts, 1))
        return pulls

    def end(self) -> None:
        """Free what the backward passes needed."""
        self._calls = []
        self.outputs = self.outputs.detach()


@contextmanager
def traced(model: nn.Module, layers: Layers, inputs: Tensor) -> Iterator[Trace]:
    """Run `inputs` in evaluation mode and keep what the layers got; the trace can be pulled until the block ends.

    The model's mode, hooks and gradients are as before from the moment the block is entered.

    Raises:
        ModelError: the output is not `[batch, outputs]`, or a layer is not called as when the model was probed.
    """
    seen: list[list[tuple[Tensor, GradientEdge]]] = [[] for _ in layers.layers]
    examples = len(inputs)

    def hook(index: int, got: Tensor, out: Tensor) -> None:
        if len(got) % examples or not out.requires_grad:
            raise ModelError(
                f"Expected {layers.names[index]} to get {examples} examples and to keep their gradients; found "
                f"{len(got)} rows{'' if out.requires_grad else ' without gradients'}. Let the model treat every batch alike."
            )
        seen[index].append((layers.layers[index].rows_in(got, examples), get_gradient_edge(out)))

    hooks = [on_call(layer.module, partial(hook, index)) for index, layer in enumerate(layers.layers)]
    try:
        with evaluation(model), torch.enable_grad():
            outputs = check_outputs(
                functional_call(model, as_leaves(model), (as_model_input(model, inputs),)), examples
            )
    finally:
        for handle in hooks:
            handle.remove()
    for layer_name, calls in zip(layers.names, seen, strict=True):
        if not calls:
            raise ModelError(
                f"Expected {layer_name} to be called for every example, as when the model was probed; found a batch "
                "that does not reach it. Leave it out by choosing other layers."
            )
    rows = [calls[0][0] if len(calls) == 1 else torch.cat([part for part, _ in calls], 1) for calls in seen]
    edges = [[(edge, part.shape[1]) for part, edge in calls] for calls in seen]
    trace = Trace(outputs, rows, layers, edges)
    try:
        yield trace
    finally:
        trace.end()


def block_size(layers: Layers, elements: int = ELEMENTS) -> int:
    """How many examples to run at once: at most `elements` numbers in the layers' inputs and pulls, and at most `BATCH`."""
    return max(1, min(BATCH, elements // layers.elements))


def traces(
    model: nn.Module,
    layers: Layers,
    examples: Examples,
    rows: NDArray[np.int64],
    progress: Progress = silent,
    note: str = "gradients",
    step: int | None = None,
    cuts: Sequence[int] = (),
) -> Iterator[tuple[int, Trace]]:
    """A trace of each block of `rows` with the place where the block starts; memory does not grow with `rows`.

    Blocks have `step` rows, `block_size` of them by default, and none goes across one of the places `cuts`. `progress`
    counts rows under `note`. Raises `ModelError` for an output that is not finite.
    """
    step = step or block_size(layers)
    for first, last in itertools.pairwise((0, *cuts, len(rows))):
        for start in range(first, last, step):
            progress(start, len(rows), note)
            block = rows[start : min(start + step, last)]
            with traced(model, layers, examples.batch(block)) as trace:
                check_finite(trace.outputs.detach(), block, len(rows), "outputs", examples)
                yield start, trace
    progress(len(rows), len(rows), note)


def each_block(
    model: nn.Module,
    layers: Layers,
    examples: Examples,
    rows: NDArray[np.int64],
    work: Callable[[slice, Trace], T],
    progress: Progress = silent,
    note: str = "gradients",
    relieve: Callable[[], None] | None = None,
) -> Iterator[tuple[int, T]]:
    """What `work` makes of a trace of each block of `rows`, with the place where the block starts.

    `work` gets the places of the block among `rows`. Where memory does not suffice blocks are halved, and `work` is called
    again; `relieve` lets go of what is kept for speed alone (see `blocks.in_blocks`). Otherwise as `traces`.

    Raises:
        ResourceError: a single example does not fit.
    """

    def traced_work(part: slice) -> T:
        progress(part.start, len(rows), note)
        with traced(model, layers, examples.batch(rows[part])) as trace:
            check_finite(trace.outputs.detach(), rows[part], len(rows), "outputs", examples)
            return work(part, trace)

    for part, found in blocks.in_blocks(len(rows), block_size(layers), traced_work, need_of(layers), relieve):
        yield part.start, found
    progress(len(rows), len(rows), note)


def need_of(layers: Layers) -> Need:
    """What the gradients of one example take in memory, layer by layer, as far as that is known (float32)."""
    pairs = zip(layers.names, layers.layers, strict=True)
    sizes = {name: 4 * layer.positions * (layer.width_in + layer.width_out) for name, layer in pairs}
    return Need(f"the gradients of one example over {len(sizes)} layers", sizes)


def check_finite(
    values: Float[Tensor, "b ..."], block: NDArray[np.int64], total: int, name: str, examples: Examples | None = None
) -> None:
    """Raises `ModelError` with the first row, by its id where `examples` are given, whose `values` are not all finite."""
    if bool(torch.isfinite(values.sum())):  # one reading: what is not finite stays so in any sum
        return
    good = torch.isfinite(values).flatten(1).all(1)
    if not bool(good.all()):
        row = int(block[int((~good).nonzero()[0, 0])])
        first = f"row {row}" if examples is None else repr(str(examples.ids[row]))
        raise ModelError(
            f"Expected finite {name} from the model; found NaN or infinity for {int((~good).sum())} of {len(block)} "
            f"examples in a block of {total} (first: {first}). Check the weights and the scale of the inputs."
        )
