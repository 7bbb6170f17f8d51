"""What is the inner product of two examples' gradients, for many pairs at once and without their gradients?

Pure tensor functions on the factors of gradients (`directional.Rows`): layers with one position cost two small products
a pair; the gradients of other layers are built in blocks. Knows no model and no curvature.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from explorer.influence.directional import Rows, outer

ELEMENTS = 2**24
"""Numbers in the gradients of a block, where a layer has several positions (64 MB in float32)."""
PAIRS = 2**21
"""Pairs in a block of products (8 MB in float32: written once, read twice)."""


def products(left: Rows, right: Rows) -> Float[Tensor, "a b"]:
    """Σ over layers of ⟨gradient a, gradient b⟩, in the rows' dtype.

    Cost a·b·(width_out + width_in) for a layer with one position, a·b·width_out·width_in for another.
    """
    values = left.inputs[0].new_zeros(len(left), len(right))
    for a, d, a2, d2 in zip(left.inputs, left.pulls, right.inputs, right.pulls, strict=True):
        if a.shape[1] == 1 and a2.shape[1] == 1:
            _add_single(values, (a[:, 0], d[:, 0]), (a2[:, 0], d2[:, 0]))
        else:
            _add_built(values, (a, d), (a2, d2))
    return values


def squares(rows: Rows) -> Float[Tensor, " a"]:
    """‖gradient‖² of each example. Cost as one pair with itself."""
    total = rows.inputs[0].new_zeros(len(rows))
    for a, d in zip(rows.inputs, rows.pulls, strict=True):
        if a.shape[1] == 1:
            total += a[:, 0].square().sum(1) * d[:, 0].square().sum(1)
        else:
            for part in _parts(len(rows), a.shape[2] * d.shape[2]):
                total[part] += outer(d[part], a[part]).flatten(1).square().sum(1)
    return total


def joined(parts: list[Rows]) -> Rows:
    """Rows one after the other."""
    layers = range(len(parts[0].inputs))
    return Rows(
        [torch.cat([part.inputs[i] for part in parts]) for i in layers],
        [torch.cat([part.pulls[i] for part in parts]) for i in layers],
    )


def chosen(rows: Rows, which: Tensor) -> Rows:
    """The rows of these places, copied, in memory as files have them: another order takes other routines."""
    return Rows([a[which].contiguous() for a in rows.inputs], [d[which].contiguous() for d in rows.pulls])


def _add_single(values: Tensor, left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> None:
    (a, d), (a2, d2) = left, right
    step = max(1, min(len(a2), PAIRS // max(1, len(a))))
    for start in range(0, len(a2), step):
        part = slice(start, start + step)
        values[:, part].addcmul_(a @ a2[part].T, d @ d2[part].T)


def _add_built(values: Tensor, left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> None:
    (a, d), (a2, d2) = left, right
    size = a.shape[2] * d.shape[2]
    for rows in _parts(len(a), size):
        built = outer(d[rows], a[rows]).flatten(1)
        for columns in _parts(len(a2), size):
            values[rows, columns].addmm_(built, outer(d2[columns], a2[columns]).flatten(1).T)


def _parts(count: int, size: int) -> list[slice]:
    step = max(1, ELEMENTS // size)
    return [slice(start, start + step) for start in range(0, count, step)]
