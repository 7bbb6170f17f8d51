"""How does every training sequence rank for one prediction of a token model? For `explain`, whose table it fills.

Names the user's layers as they do; keeps no run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from explorer import memorization
from explorer.contracts import Queries, Subject, Target
from explorer.errors import SettingsError
from explorer.influence.layers import evaluation
from explorer.jobs.layer_names import named, own_names, prefixed
from explorer.jobs.query import ranking
from explorer.jobs.settings import checked
from explorer.loading import as_model_input
from explorer.questions import Classes
from explorer.sequences import Reduction, SequenceLogProbability, check_target
from explorer.sources.token_arrays import Pair
from explorer.token_models import check_tokens, sequence_subject
from explorer.tokens import IGNORED, TokenExamples

ELEMENTS = 2**24
"""Outputs that exist at once where the model's own tokens are found (64 MB in float32)."""


def explained(
    model: torch.nn.Module,
    train: Pair,
    test: Pair,
    rows: NDArray[np.int64],
    method: str,
    settings: Mapping[str, Any],
    weight_decay: float,
    target: Target,
    classes: Classes,
    reduction: Reduction,
) -> pd.DataFrame:
    """The table of `explain` for test sequences `rows`; `label` and `prediction` are tuples of the asked tokens.

    `settings` are the method's, its `layers` named as the user's model names them.

    Raises:
        ExplorerError: data, model or settings that do not fit, in words.
    """
    check_target(target)
    if classes is not None:
        raise SettingsError(
            f"Expected no classes for the target {target} of sequences; found {classes!r}. Leave them out."
        )
    learned, held_out = TokenExamples(*train, "train"), TokenExamples(*test, "test")
    with own_names():
        chosen, _ = checked(method, prefixed(settings))
        subject = sequence_subject(model, learned, weight_decay, reduction)
        objective = subject.objective
        assert isinstance(objective, SequenceLogProbability)
        check_tokens(held_out.labels, held_out.labels.shape[1] * (objective.vocabulary + 1))
        fitted = chosen.fit(subject)
        scores = fitted.score(Queries(held_out, rows, target))
        own = fitted.self_influence().numpy()
        columns = {
            "id": learned.ids,
            "label": _tuples(learned.labels),
            "prediction": _tuples(_predicted(subject, objective)),
            "self_influence": own,
            "memorized": memorization.flag(own, None).memorized,
        }
    parts = [ranking(int(row), scores.values[k].numpy(), columns) for k, row in enumerate(rows)]
    table = pd.concat(parts, ignore_index=True)
    table.attrs.update(method=scores.method, target=target, classes=(), unit=scores.unit, stats=named(scores.stats))
    return table


def _predicted(subject: Subject, objective: SequenceLogProbability) -> NDArray[np.int64]:
    """The model's most probable token of every asked position of the training set, `[n, T]`."""
    n, length = subject.train.labels.shape
    step = max(1, ELEMENTS // (length * (objective.vocabulary + 1)))
    found = []
    with evaluation(subject.model), torch.no_grad():
        for start in range(0, n, step):
            block = np.arange(start, min(start + step, n), dtype=np.int64)
            outputs = subject.model(as_model_input(subject.model, subject.train.batch(block)))
            found.append(objective.predict(outputs).cpu().numpy())
    return np.concatenate(found)


def _tuples(tokens: NDArray[np.int64]) -> NDArray[Any]:
    """The asked tokens of each sequence as a tuple, `[n]`."""
    found = np.empty(len(tokens), dtype=object)
    for row, own in enumerate(tokens):
        found[row] = tuple(own[own != IGNORED].tolist())
    return found
