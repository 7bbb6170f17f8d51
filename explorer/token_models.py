"""How does a token model come to the engine? Bound to its sequences, with a mark beside every position.

Checks targets and model at the door. Trains nothing; the sequences themselves are checked by `tokens`.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor, nn

from explorer.contracts import Examples, Subject
from explorer.errors import DataError, ExplorerError, ModelError
from explorer.loading import as_model_input, check_model, weights_key
from explorer.sequences import Reduction, SequenceLogProbability
from explorer.tokens import IGNORED

PREFIX = "network."
"""What stands before the names of a model's layers and parameters where it is one of sequences."""
PROBED = 8
"""Sequences that are run once to see what the model returns."""


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
    network: nn.Module, train: Examples, weight_decay: float, reduction: Reduction = "tokens"
) -> Subject:
    """Bind a network, or a `TokenModel` of it, and its training sequences, after one batch has shown that they fit.

    `train` are `TokenExamples`, or rows of them.

    Raises:
        ModelError: outputs of another shape, not finite, or different in two passes.
        DataError: a target that the model cannot say.
    """
    few = np.arange(min(PROBED, len(train)), dtype=np.int64)
    model, marked = network if isinstance(network, TokenModel) else TokenModel(network), train.batch(few)
    length = marked.shape[2]
    vocabulary = _vocabulary(model, marked)
    check_tokens(train.labels, length * (vocabulary + 1))
    check_model(model, marked, length * (vocabulary + 1))
    counts = (np.asarray(train.labels) != IGNORED).sum(1)
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
