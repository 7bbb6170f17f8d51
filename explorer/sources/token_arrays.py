"""How do sequences of tokens become a data set? Arrays of token numbers, with the words that they stand for where these are known.

The way from arrays to a `Dataset` of the task "sequence"; it reads no file and splits no text into tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explorer.contracts import Dataset
from explorer.errors import DataError
from explorer.sources import validation as check
from explorer.tokens import IGNORED, TokenExamples, Words

Pair = tuple[NDArray[Any], NDArray[Any]]


def are_sequences(inputs: NDArray[Any], targets: NDArray[Any]) -> bool:
    """Whether inputs and targets are token numbers `[n, T]` alike, T > 1: a target for every token."""
    parts = (inputs, targets)
    return all(part.dtype.kind in "iu" and part.ndim == 2 and part.shape[1] > 1 for part in parts) and (
        inputs.shape == targets.shape
    )


def dataset_from_tokens(
    name: str,
    train: Pair,
    test: Pair,
    *,
    ids: Sequence[object] | NDArray[Any] | None = None,
    vocabulary: Sequence[str] | None = None,
    silent: frozenset[int] = frozenset(),
    notes: tuple[str, ...] = (),
    keep_seen: bool = False,
) -> Dataset:
    """A checked data set of sequences from (tokens, targets) `[n, T]`; training and test sequences may differ in length.

    `ids` names the training rows, or training rows and then test rows. `vocabulary` is the text of each token; those in
    `silent` are not shown. Test rows whose tokens and targets are those of a training row are left out, or kept in their
    places with `keep_seen`; `notes` says so either way.

    Raises:
        DataError: arrays that are no sequences, tokens beyond the vocabulary, ids that repeat, or no test row that is left.
    """
    words = Words(tuple(map(str, vocabulary or ())), silent)
    every_id = check.as_ids(ids, len(train[0]), len(test[0]))
    learned = TokenExamples(*train, "train", every_id[: len(train[0])], words)
    held_out = TokenExamples(*test, "test", every_id[len(train[0]) :], words)
    count = _vocabulary(learned, held_out, len(words.pieces))
    repeated = _repeats(learned, held_out)
    seen = int(repeated.sum())
    if seen == len(held_out) and not keep_seen:
        raise DataError(
            f"Expected test examples that the model was not trained on; found that all {seen} ask what a training row asks, "
            "after the same tokens. Give held-out examples, such as the same questions in other words."
        )
    verb = "asks" if seen == 1 else "ask"
    left = "" if keep_seen else f" and {'is' if seen == 1 else 'are'} left out of the queries"
    told = (f"{seen} of {len(held_out)} test rows {verb} what a training row asks, after the same tokens,{left}",)
    keep = np.ones(len(held_out), dtype=np.bool_) if keep_seen else ~repeated
    test_kept = TokenExamples(held_out.tokens[keep], held_out.labels[keep], "test", held_out.ids[keep], words)
    return Dataset(name, "sequence", learned, test_kept, notes=(*notes, *(told if seen else ())), vocabulary=count)


def _vocabulary(train: TokenExamples, test: TokenExamples, named: int) -> int:
    """How many tokens there are: those that are named, else up to the largest one.

    Raises:
        DataError: a token without a name where tokens have names.
    """
    for examples in (train, test):
        for part, what in ((examples.tokens, "tokens"), (examples.labels, "targets")):
            beyond = np.argwhere(part >= named)
            if named and len(beyond):
                row, place = beyond[0]
                raise DataError(
                    f"Expected {what} 0..{named - 1} in {examples.prefix}, one for each of {named} pieces of the "
                    f"vocabulary; found {part[row, place]} in row {row} at position {place}. Name every token."
                )
    return named or 1 + max(int(part.max()) for one in (train, test) for part in (one.tokens, one.labels))


def _repeats(train: TokenExamples, test: TokenExamples) -> NDArray[np.bool_]:
    """Which test rows ask the same after the same tokens as a training row, `[n_test]`; what follows is padding."""
    known = {_asked(train, row) for row in range(len(train))}
    return np.array([_asked(test, row) in known for row in range(len(test))], dtype=np.bool_)


def _asked(examples: TokenExamples, row: int) -> bytes:
    end = int(np.flatnonzero(examples.labels[row] != IGNORED)[-1]) + 1
    return examples.tokens[row, :end].tobytes() + examples.labels[row, :end].tobytes()
