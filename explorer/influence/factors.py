"""The algebra of Kronecker factors: square roots of the loss curvature, covariances, eigenbases, corrected eigenvalues.

Pure tensor functions: no model, no hooks, no files. A layer's parameters are a matrix `[width_out, width_in]`; rows of
its inputs and pulls are `[b, t, width]` for b examples of t positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from explorer.contracts import Objective
from explorer.sequences import SequenceLogProbability

MOST_CLASSES = 64
"""Up to this many classes the Fisher is summed over all of them; beyond, labels are drawn."""
DRAWS = 16
"""Labels drawn for an example where there are too many classes to sum over."""
ELEMENTS = 2**21
"""Numbers in a block of per-example gradients (8 MB in float32)."""


def fisher_rule(objective: Objective, outputs: int) -> str:
    """How `fisher_columns` covers the model's own answers, in words."""
    if isinstance(objective, SequenceLogProbability):
        return objective.fisher_rule
    if objective.task == "regression":
        return "exact curvature of the loss"
    if outputs <= MOST_CLASSES:
        return "summed over classes"
    return f"{DRAWS} labels drawn for each example (seed 0), {outputs} classes"


def fewest_count(objective: Objective, outputs: int) -> int:
    """How many columns `fewest_columns` yields."""
    if isinstance(objective, SequenceLogProbability):
        return objective.columns
    if objective.task == "regression":
        return outputs
    return max(1, outputs - 1) if outputs <= MOST_CLASSES else DRAWS


def fisher_is_exact(objective: Objective, outputs: int) -> bool:
    """Whether the columns are all of the curvature, or right on average only."""
    if isinstance(objective, SequenceLogProbability):
        return objective.exact
    return objective.task == "regression" or outputs <= MOST_CLASSES


def fisher_columns(
    objective: Objective, outputs: Float[Tensor, "b k"], start: int = 0
) -> Iterator[Float[Tensor, "b k"]]:
    """Columns r_c `[b, k]` with Σ_c r_c r_cᵀ = the Hessian of the loss in the outputs, example by example.

    For classification, whose outputs are logits: √p_c ∇loss(c) for each class c, exactly the Fisher; above `MOST_CLASSES`
    its unbiased estimate from `DRAWS` labels drawn by a generator seeded with `start`, the place of the block. For
    regression, columns of the curvature's Cholesky factor. For sequences, what their objective says.
    """
    if isinstance(objective, SequenceLogProbability):
        yield from objective.fisher_columns(outputs, start)
        return
    b, k = outputs.shape
    if objective.task == "regression":
        root = torch.linalg.cholesky(objective.loss_curvature(outputs))
        yield from root.unbind(2)
        return
    p = outputs.softmax(1)
    if k <= MOST_CLASSES:
        for c in range(k):
            label = torch.full((b,), c, device=outputs.device)
            yield objective.loss_gradient(outputs, label) * p[:, c : c + 1].sqrt()
        return
    generator = torch.Generator().manual_seed(start)
    drawn = torch.multinomial(p.cpu(), DRAWS, replacement=True, generator=generator).to(outputs.device)
    for label in drawn.unbind(1):
        yield objective.loss_gradient(outputs, label) / DRAWS**0.5


def fewest_columns(
    objective: Objective, outputs: Float[Tensor, "b k"], start: int = 0, most: int | None = None
) -> Iterator[Float[Tensor, "b k"]]:
    """As `fisher_columns`, with one column less for classification: for sums over columns, whatever the columns are.

    Those of the Cholesky factor of diag(p) − p pᵀ with the likeliest class first, out of sums of probabilities: nothing
    cancels, however sure p is. Column c is √(p_c s' / s) (e_c − q): s and s' sum the probabilities from c on and after c, and q
    are those after c over s'. A k-th would be zero: what is taken from one class is given to another. Only the first `most`
    are made: later ones are quieter (`column_norms`).
    """
    k = outputs.shape[1]
    if not _few(objective, k):
        yield from fisher_columns(objective, outputs, start)
        return
    p, order = outputs.softmax(1).sort(dim=1, descending=True, stable=True)
    sums = _sums(p)
    least = torch.finfo(p.dtype).tiny
    for c in range(k - 1 if most is None else most):
        column = torch.zeros_like(p)
        column[:, c] = 1
        column[:, c + 1 :] = -p[:, c + 1 :] / sums[:, c + 1 : c + 2].clamp_min(least)
        column *= (p[:, c] * (sums[:, c + 1] / sums[:, c].clamp_min(least))).sqrt().unsqueeze(1)
        yield torch.zeros_like(p).scatter_(1, order, column)


def column_norms(outputs: Float[Tensor, "b k"]) -> Float[Tensor, "b c"]:
    """Square norms of the columns that `fewest_columns` makes for classification; none where labels are drawn.

    That of column c is p_c s'/s + p_c/(s s') Σ p² over the classes after it.
    """
    k = outputs.shape[1]
    if not 1 < k <= MOST_CLASSES:
        return outputs.new_zeros(len(outputs), 0)
    p = outputs.softmax(1).sort(dim=1, descending=True)[0]
    sums, squares = _sums(p), _sums(p.square())
    least = torch.finfo(p.dtype).tiny
    here, after = sums[:, :-1].clamp_min(least), sums[:, 1:]
    return p[:, :-1] * (after + squares[:, 1:] / after.clamp_min(least)) / here


def _few(objective: Objective, outputs: int) -> bool:
    return objective.task == "classification" and 1 < outputs <= MOST_CLASSES


def _sums(p: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
    """From each class on."""
    return p.flip(1).cumsum(1).flip(1)


def curvature_product(
    objective: Objective, outputs: Float[Tensor, "b k"]
) -> Callable[[Float[Tensor, "q b k"]], Float[Tensor, "q b k"]]:
    """The Hessian of the loss in the outputs, times q vectors an example: never written out for sequences."""
    if isinstance(objective, SequenceLogProbability):
        return partial(objective.curvature_product, outputs)
    L = objective.loss_curvature(outputs.double()).to(outputs.dtype)
    return partial(torch.einsum, "bkl,qbl->qbk", L)


def add_covariance(total: Float[Tensor, "w w"], rows: Float[Tensor, "b t w"]) -> None:
    """Adds Σ_b Σ_t row rowᵀ to `total`, float64; the product itself in the rows' dtype. Cost b·t·w²."""
    flat = rows.flatten(0, 1)
    total += flat.T @ flat


def eigenbasis(covariance: Float[Tensor, "w w"]) -> tuple[Float[Tensor, " w"], Float[Tensor, "w w"]]:
    """Eigenvalues, none below zero, in ascending order, and eigenvectors as columns, in float64. Cost about 10 w³."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    return values.clamp_min(0), vectors


def add_squares(total: Float[Tensor, "o i"], pulls: Float[Tensor, "b t o"], inputs: Float[Tensor, "b t i"]) -> None:
    """Adds Σ_b (Σ_t pull ⊗ input)², entry by entry, to `total`, float64. Cost b·t·o·i.

    With rows counted along eigenvectors of the factors these are n times EK-FAC's corrected eigenvalues (George et al.
    2018, eq. 7). An example's gradient is summed over positions before it is squared.
    """
    for part in _parts(len(inputs), total.numel()):
        total += torch.bmm(pulls[part].transpose(1, 2), inputs[part]).square_().sum(0)


def weighted_squares(
    weights: Float[Tensor, "o i"], pulls: Float[Tensor, "b t o"], inputs: Float[Tensor, "b t i"]
) -> Float[Tensor, " b"]:
    """Σ_oi weights (Σ_t pull ⊗ input)² of each example. Cost b·t·o·i."""
    found = [
        torch.bmm(pulls[part].transpose(1, 2), inputs[part]).square_().flatten(1) @ weights.flatten()
        for part in _parts(len(inputs), weights.numel())
    ]
    return torch.cat(found)


def _parts(examples: int, size: int) -> Iterator[slice]:
    """Blocks of examples whose gradients of `size` numbers stay within `ELEMENTS`."""
    step = max(1, ELEMENTS // size)
    return (slice(start, start + step) for start in range(0, examples, step))
