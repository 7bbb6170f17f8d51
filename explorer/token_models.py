"""How does a token model come to the engine? Its sequences as examples, and itself with a mark beside every position.

Checks tokens, targets and model at the door. Trains nothing and shifts nothing: a target is what its position is to say.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor, nn

from explorer.contracts import Subject, TablePreview
from explorer.errors import DataError, ExplorerError, ModelError
from explorer.loading import as_model_input, check_model, weights_key
from explorer.sequences import IGNORED, Reduction, SequenceLogProbability

PREFIX = "network."
"""What stands before the names of a model's layers and parameters where it is one of sequences."""
PROBED = 8
"""Sequences that are run once to see what the model returns."""


@dataclass(frozen=True, eq=False)
class TokenExamples:
    """Sequences held in memory: `tokens` int64 `[n, T]`, and the token that each position is to say, `labels` `[n, T]`.

    `IGNORED` is the label of a position that is not asked. Nothing is shifted: a causal model's label at t is its token t + 1.

    Raises:
        DataError: other shapes or numbers, or a sequence that asks nothing.
    """

    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]
    prefix: str

    def __post_init__(self) -> None:
        tokens, labels, name = np.asarray(self.tokens), np.asarray(self.labels), self.prefix
        if tokens.dtype.kind not in "iu" or labels.dtype.kind not in "iu" or tokens.ndim != 2 or tokens.size == 0:
            raise DataError(
                f"Expected tokens and their targets as whole numbers [n, length] in {name}; found {tokens.dtype} "
                f"{list(tokens.shape)} and {labels.dtype} {list(labels.shape)}. Pad sequences to one length, with the target "
                f"{IGNORED} where nothing is asked."
            )
        if tokens.shape != labels.shape:
            raise DataError(
                f"Expected a target for every token in {name}; found tokens {list(tokens.shape)} and targets "
                f"{list(labels.shape)}. Give {IGNORED} where nothing is asked."
            )
        wrong = (labels < 0) & (labels != IGNORED)
        for bad, what in ((tokens < 0, "tokens of 0 or more"), (wrong, f"targets of 0 or more, or {IGNORED},")):
            if bad.any():
                row, place = np.argwhere(bad)[0]
                found = (tokens if what.startswith("tokens") else labels)[row, place]
                raise DataError(f"Expected {what} in {name}; found {found} in row {row} at position {place}. Mend it.")
        silent = np.flatnonzero((labels == IGNORED).all(1))
        if len(silent):
            raise DataError(
                f"Expected a target to ask about in every sequence of {name}; found none in {len(silent)} of {len(labels)} "
                f"(first: row {silent[0]}). Leave these out."
            )
        object.__setattr__(self, "tokens", np.ascontiguousarray(tokens, dtype=np.int64))
        object.__setattr__(self, "labels", np.ascontiguousarray(labels, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def key(self) -> str:
        """Hash of tokens, targets and ids."""
        parts = (repr(self.tokens.shape).encode(), self.tokens.tobytes(), self.labels.tobytes(), self.prefix.encode())
        return hashlib.sha256(b"".join(parts)).hexdigest()

    @property
    def ids(self) -> NDArray[np.str_]:
        """Such as "train-17", `[n]`."""
        return np.array([f"{self.prefix}-{row}" for row in range(len(self))])

    def batch(self, rows: NDArray[np.int64]) -> Int[Tensor, "b 2 t"]:
        """Tokens, and marks: 1 where a position is asked, else 0."""
        chosen = np.asarray(rows, dtype=np.int64)
        return torch.from_numpy(np.stack([self.tokens[chosen], self.labels[chosen] != IGNORED], 1))

    def preview(self, row: int) -> TablePreview:
        """Token numbers by position."""
        values = self.tokens[row].astype(np.float32)
        names = tuple(f"position {place}" for place in range(len(values)))
        return TablePreview(names, values, np.zeros_like(values))


class TokenModel(nn.Module):
    """A user's `network`, tokens `[b, T]` to logits `[b, T, V]`, with the inputs of `TokenExamples` and outputs `[b, T (V + 1)]`.

    What the network says where nothing is asked becomes 0 and moves nothing.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, marked: Int[Tensor, "b 2 t"]) -> Tensor:
        """Logits and mark of each position, in one row."""
        tokens, asked = marked.unbind(1)
        try:
            found = self.network(tokens)
        except IndexError as error:
            raise DataError(
                f"Expected tokens that the model has; found {int(tokens.min())}..{int(tokens.max())} in a batch, and the model "
                f"says: {str(error).splitlines()[0]}. Use the tokens that it was trained on."
            ) from error
        logits = _as_logits(found, tokens)
        marks = asked.to(logits).unsqueeze(2)
        return torch.cat([logits.masked_fill(marks == 0, 0.0), marks], 2).flatten(1)


def sequence_subject(
    network: nn.Module, train: TokenExamples, weight_decay: float, reduction: Reduction = "tokens"
) -> Subject:
    """Bind a network and its training sequences, after one batch has shown that they fit each other.

    Raises:
        ModelError: outputs of another shape, not finite, or different in two passes.
        DataError: a target that the model cannot say.
    """
    few = np.arange(min(PROBED, len(train)), dtype=np.int64)
    model, marked = TokenModel(network), train.batch(few)
    length = train.tokens.shape[1]
    vocabulary = _vocabulary(model, marked)
    check_tokens(train.labels, length * (vocabulary + 1))
    check_model(model, marked, length * (vocabulary + 1))
    counts = (train.labels != IGNORED).sum(1)
    objective = SequenceLogProbability(vocabulary, int(counts.max()), float(counts.mean()), reduction)
    key = hashlib.sha256(f"{weights_key(model)} {train.key} {objective}".encode()).hexdigest()
    return Subject(model, train, objective, weight_decay, key)


def check_tokens(labels: NDArray[Any], outputs: int) -> None:
    """Raises `DataError` unless targets `[b, T]` are among the tokens of a `TokenModel` of so many outputs."""
    length = labels.shape[1]
    vocabulary = outputs // length - 1
    if outputs % length or vocabulary < 2 or labels.dtype.kind not in "iu":
        raise DataError(
            f"Expected targets [b, T] as whole numbers, each for one of T positions of a model of sequences; found "
            f"{labels.dtype} {list(labels.shape)} and a model of {outputs} outputs. Give one target an example, or bind both "
            "by `token_models.sequence_subject`."
        )
    if labels.max() >= vocabulary:
        raise DataError(
            f"Expected targets 0..{vocabulary - 1} for a model of {vocabulary} tokens; found {labels.max()}. Use the tokens "
            f"that the model was trained on, and {IGNORED} where nothing is asked."
        )


def _vocabulary(model: TokenModel, marked: Tensor) -> int:
    """How many tokens the network tells apart, from one run."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = model(as_model_input(model, marked))
    except ExplorerError:
        raise
    except Exception as error:
        raise ModelError(
            f"Expected the model to take tokens [{len(marked)}, {marked.shape[2]}]; it raised {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'} Give tokens that the model has."
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
    return int(outputs.shape[1]) // int(marked.shape[2]) - 1


def _as_logits(found: Any, tokens: Tensor) -> Tensor:
    if isinstance(found, Tensor) and found.dim() == 3 and found.shape[:2] == tokens.shape and found.shape[2] >= 2:
        return found
    what = f"shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
    b, length = tokens.shape
    raise ModelError(
        f"Expected the model to return logits [{b}, {length}, tokens] for tokens [{b}, {length}]; found {what}. Wrap the "
        "model so that it returns its logits; for one label a sequence, give targets [n]."
    )
