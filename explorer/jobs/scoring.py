"""What of a block of scores is kept: the strongest of both signs, int8 rows, and how far a second method agrees.

Works on one block of queries at a time, so memory does not grow with their number. Knows no files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explorer.contracts import Fitted, Progress, Queries, silent
from explorer.fidelity import rank_agreement

TOP = 50
"""Training examples kept with exact influence, per query and sign."""
CLIP = 0.995
"""Quantile of |influence| that ±127 stands for."""
AGREEMENT_SAMPLE = 2000
"""Training examples over which the rank agreement of two methods is measured."""
OVERLAP = 10
"""Strongest examples of each sign compared between two methods."""
ELEMENTS = 32_000_000
"""Scores held at once (128 MB)."""


def score_block(
    fitted: Fitted, second: Fitted | None, queries: Queries, train: int, seed: int, progress: Progress = silent
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int8]]:
    """Top lists and evidence by name, and the int8 rows `[query, train]`; `train` is the number of training examples."""
    step = max(1, ELEMENTS // train)
    kept: list[dict[str, NDArray[Any]]] = []
    rows: list[NDArray[np.int8]] = []
    for start in range(0, len(queries.rows), step):
        part = Queries(queries.examples, queries.rows[start : start + step], queries.target)
        progress(start, len(queries.rows), "scores")
        values = fitted.score(part).values
        other = second.score(part).values if second is not None else None
        kept.append({**strongest(values), **_agreement(values, other, seed)})
        quantized, scale = quantize(values)
        kept[-1]["scale"] = scale
        rows.append(quantized)
    return {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}, np.concatenate(rows)


def strongest(values: Tensor) -> dict[str, NDArray[Any]]:
    """The `TOP` most helpful and most harmful training rows of each query; a row of the wrong sign is marked −1.

    `total` is Σ|influence|, the denominator of shares.
    """
    k = min(TOP, values.shape[1])
    up, up_rows = values.topk(k, dim=1)
    down, down_rows = values.topk(k, dim=1, largest=False)
    return {
        "towards": torch.where(up > 0, up_rows, -1).int().numpy(),
        "towards_influence": up.clamp(min=0).numpy(),
        "away": torch.where(down < 0, down_rows, -1).int().numpy(),
        "away_influence": down.clamp(max=0).numpy(),
        "total": values.abs().sum(1).numpy(),
    }


def quantize(values: Tensor) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """int8 rows and the |influence| that 127 stands for, per query; beyond it values are clipped."""
    magnitude = values.abs()
    beyond = max(1, round((1 - CLIP) * values.shape[1]))
    scale = magnitude.topk(beyond, dim=1).values[:, -1]
    scale = torch.where(scale > 0, scale, magnitude.amax(1))
    safe = torch.where(scale > 0, scale, 1.0)
    levels = (values * (127 / safe).unsqueeze(1)).round_().clamp_(-127, 127)
    return levels.to(torch.int8).numpy(), scale.numpy()


def _agreement(values: Tensor, other: Tensor | None, seed: int) -> dict[str, NDArray[Any]]:
    if other is None:
        nothing = np.full(len(values), np.nan, dtype=np.float32)
        return {"agreement": nothing, "overlap": nothing}
    n = values.shape[1]
    sample = np.sort(np.random.default_rng(seed).permutation(n)[:AGREEMENT_SAMPLE])
    agreement = rank_agreement(values[:, sample].numpy(), other[:, sample].numpy())
    return {
        "agreement": agreement.astype(np.float32),
        "overlap": _overlap(values, other),
    }


def _overlap(a: Tensor, b: Tensor) -> NDArray[np.float32]:
    """Share of the strongest examples of both signs that two methods have in common, `[query]`.

    The same number as `fidelity.top_overlap` where scores differ; by partial sorting, for long rows.
    """
    k = max(1, min(OVERLAP, a.shape[1] // 2))
    shared = torch.zeros(len(a))
    for largest in (True, False):
        ours, theirs = (values.topk(k, dim=1, largest=largest).indices for values in (a, b))
        shared += (ours.unsqueeze(2) == theirs.unsqueeze(1)).any(2).sum(1)
    return (shared / (2 * k)).numpy()
