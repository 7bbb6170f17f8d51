"""What does a user call from Python? `explain` for a table, `show` for the page, `open_run` for a finished run.

Takes models, arrays, tensors and torch Datasets as they are; converts and checks them at the door. Imports nothing
heavy until it is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer.contracts import TARGETS, Dataset, RunSpec, Scores, Target
from explorer.errors import DataError, ModelError, SettingsError
from explorer.questions import Classes, question

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from explorer.sequences import Reduction
    from explorer.sources.token_arrays import Pair
    from explorer.store import Run


def explain(
    model: nn.Module,
    train: Any,
    test: Any,
    query: int | Iterable[int] = 0,
    *,
    weight_decay: float = 0.0,
    damping: float | None = None,
    target: Target = "label",
    classes: Classes = None,
    method: str = "last-layer",
    settings: Mapping[str, Any] | None = None,
    reduction: Reduction | None = None,
    pretrained: tuple[nn.Module, Any] | None = None,
) -> pd.DataFrame:
    """All training examples ranked by their influence on one or several test predictions, most helpful first.

    Args:
        model: trained network that ends in an `nn.Linear` (raw logits, or one regression value).
        train: `(inputs, targets)` arrays or tensors, or a torch Dataset of such pairs; integer targets are classes
            0..C-1, real ones are regression. Inputs reach the model as they are, in float32. Token numbers `[n, T]` with
            as many integer targets are sequences: the model returns logits `[n, T, tokens]`, and the target of a position
            is the token it is to say (a causal model's: the next one), -100 where it is not asked (prompt, padding).
        test: the same, held out.
        query: row or rows of `test`.
        weight_decay: coefficient wd of (wd/2)‖θ‖² in the training objective (mean loss).
        damping: λ >= 0 added to the curvature; None lets the method choose. Short for a setting of this name.
        target: "label" explains the log-probability of the given label (−½ squared error), "prediction" that of the
            model's own answer (the output itself), "margin" one class against all others, "contrast" one against another.
        classes: of the same for every query: the class of a margin (None: the given label), or P and Q of a contrast,
            "why P rather than Q?". By number, or as text.
        method: a name that `explorer methods` lists, such as "last-layer".
        settings: the method's settings by name; what is left out has its default, which `explorer methods` shows.
        reduction: what training took of a sequence's tokens: "tokens" their mean over all sequences together (default; as
            `cross_entropy` over a flattened batch), "mean" the mean of each sequence, "sum" their sum. A query asks about
            the summed log-probability of its asked tokens in any case.
        pretrained: for "two-stage" the network that fine-tuning began from and what that was trained on, `(model, (inputs,
            targets))`: these examples are ranked instead. `weight_decay` is then that of both trainings.

    Returns:
        One row per query and training example: `query, rank, row, id, influence, share, label, prediction,
        self_influence, memorized`. `influence` estimates measure(trained with the example) − measure(without it), in
        the unit of the measure; `share` is |influence| over its sum; `memorized` is a self-influence with a robust z
        above 3 within its class. `attrs` holds method, target, classes, unit and the method's stats (damping, residual, ...).

    Raises:
        ExplorerError: data, model or settings that do not fit, in words.
    """
    from explorer.jobs.sequences import explained
    from explorer.jobs.settings import check_of_one_training, checked, with_shortcuts
    from explorer.jobs.subject import make_subject, predictions
    from explorer.sources.token_arrays import are_sequences

    _check_decay(weight_decay)
    given = with_shortcuts(method, settings or {}, {"damping": damping}, option="")
    chosen, _ = checked(method, given)
    outputs = _outputs_of(model)
    pairs = _pair(train, "train"), _pair(test, "test")
    check_of_one_training(method, given, pretrained, sequences=are_sequences(*pairs[0]))
    if are_sequences(*pairs[0]):
        asked_rows = _query_rows(query, len(pairs[1][0]))
        with _unchanged(model):
            return explained(
                model, *pairs, asked_rows, method, given, weight_decay, target, classes, reduction or "tokens"
            )
    _check_no_reduction(reduction)
    data = _dataset(*pairs, outputs, keep_seen=True)
    rows = _query_rows(query, len(data.test))
    asked = question(data.classes, target, classes)
    first, learned = (model, data) if pretrained is None else (pretrained[0], _learned(*pretrained))
    with _unchanged(model), _unchanged(first):
        subject = make_subject(model, data, weight_decay)
        about = subject if pretrained is None else make_subject(first, learned, weight_decay)
        fitted = chosen.fit(subject if about is subject else replace(subject, pretrained=about))
        scores = fitted.score(asked.about(data.test, rows))
        own = fitted.self_influence().numpy()
        predicted = predictions(about)
    table = _ranked(learned, rows, scores, own, predicted)
    table.attrs.update(method=method, target=target, classes=asked.named(data.classes), unit=scores.unit)
    table.attrs["stats"] = dict(scores.stats)
    return table


def _ranked(
    data: Dataset, rows: NDArray[np.int64], scores: Scores, own: NDArray[np.float32], predicted: Tensor
) -> pd.DataFrame:
    """All training examples for each of the rows, with what else is known of them."""
    import numpy as np
    import pandas as pd
    import torch

    from explorer import memorization
    from explorer.jobs.query import ranking

    groups = np.asarray(data.train.labels) if data.task == "classification" else None
    columns = {
        "id": data.train.ids,
        "label": np.asarray(data.train.labels),
        "prediction": predicted.numpy() if groups is not None else predicted.to(torch.float32).numpy(),
        "self_influence": own,
        "memorized": memorization.flag(own, groups).memorized,
    }
    return pd.concat(
        [ranking(int(row), scores.values[k].numpy(), columns) for k, row in enumerate(rows)], ignore_index=True
    )


def show(
    model: nn.Module,
    train: Any,
    test: Any,
    query: int | None = None,
    *,
    weight_decay: float = 0.0,
    damping: float | None = None,
    target: Target = "label",
    method: str = "last-layer",
    settings: Mapping[str, Any] | None = None,
    vocabulary: Sequence[str] | None = None,
    runs: str | Path | None = None,
    port: int | None = None,
    browser: bool = True,
    block: bool = True,
) -> Run:
    """Compute a run on the same arguments as `explain` and open the page on it.

    Test rows that are also training rows are left out of the queries, as in every run. `query` (a row of `test`)
    is shown first. Serves in the foreground until interrupted; `block=False` only computes and returns the run,
    for `explorer open`. `target` is one that a run stores: "label" or "prediction". `vocabulary` is the text of each token
    of sequences, which are shown as numbers without it; their loss is the mean over all tokens ("tokens").
    """
    from explorer import serving
    from explorer.jobs.pipeline import STAGES, run_pipeline
    from explorer.jobs.process import run_as_worker
    from explorer.jobs.settings import check_of_one_training, checked, with_shortcuts
    from explorer.jobs.subject import InMemory, make_subject
    from explorer.store import create, runs_root

    _check_decay(weight_decay)
    _check_stored(target)
    _, given = checked(method, with_shortcuts(method, settings or {}, {"damping": damping}, option=""))
    check_of_one_training(method, given)
    pairs = _pair(train, "train"), _pair(test, "test")
    data = _dataset(*pairs, _outputs_of(model), keep_seen=False, vocabulary=vocabulary)
    with _unchanged(model):
        key = make_subject(model, data, weight_decay).key
        root = runs_root(runs)
        chosen_port = serving.free_port(port, "127.0.0.1") if block else None
        spec = RunSpec(
            source={"kind": "memory", "train": data.train.key, "test": data.test.key},
            model={"kind": "memory", "subject": key},
            recipe={"weight_decay": weight_decay},
            method={"name": method, "settings": given},
        )
        run = create(root, spec)
        state = run_as_worker(run, len(STAGES), lambda writer: run_pipeline(run, InMemory(data, model), writer))
    if state.state != "done":
        raise ModelError(f"Expected the run to be computed; found it {state.state}: {state.reason}")
    if block:
        place = run.key if query is None else f"{run.key}&query=test-{query}&target={target}"
        serving.serve(root, place, port=chosen_port, browser=browser)
    return run


def open_run(name: str = "latest", runs: str | Path | None = None) -> Run:
    """A run by its name, a beginning of it, its path, or "latest", for reading its tables and scores.

    Raises:
        RunError: no such run, or one of another format version.
    """
    from explorer.store import find, runs_root

    return find(runs_root(runs), name)


def table(
    run: Run | str,
    query: str,
    *,
    target: Target = "label",
    filter: str = "",  # noqa: A002 - the word of the page and its address
    select: str = "",
    strongest: bool = False,
    runs: str | Path | None = None,
) -> pd.DataFrame:
    """The training examples that the page shows for a test example, most helpful first.

    Args:
        run: a run, or what `open_run` takes.
        query: id of a test example whose influence is stored in the run.
        target: "label" or "prediction".
        filter: as in the page's address, such as "classes:3.7,wrong,suspect,towards,from:-0.1,to:0.2".
        select: a lasso or box as in the page's address, such as "umap:0.1,0.2;0.3,0.4;0.5,0".
        strongest: the examples whose influence was kept exactly, whatever filter and selection say.
        runs: folder of runs.

    Returns:
        `row, id, influence, exact, share, label, prediction` and what is known of memorization. Influence that is not
        `exact` is in 127 steps to each side and clipped at the run's scale; `export` computes all of it exactly.

    Raises:
        RunError: no such run or test example, or its influence is not stored.
        SettingsError: a filter or selection that reads as none, or a target that runs do not store.
    """
    from explorer import shown

    _check_stored(target)
    found = open_run(run, runs) if isinstance(run, str) else run
    kept, chosen = shown.Filter.parse(filter), shown.Selection.parse(select)
    if filter and not kept:
        raise SettingsError(
            f"Expected a filter such as 'classes:3.7,wrong,towards'; found {filter!r}. Copy it from the page's address."
        )
    if select and chosen is None:
        raise SettingsError(
            f"Expected a selection such as 'umap:0.1,0.2;0.3,0.4;0.5,0'; found {select!r}. Copy it from the page's address."
        )
    return shown.table(found, found.test_row(query), target, kept, chosen, strongest=strongest)


def query(
    run: Run | str, query: str, *, target: Target = "label", classes: Classes = None, runs: str | Path | None = None
) -> pd.DataFrame:
    """All training examples ranked for a test example of a run, computed exactly: also what the run does not store.

    Args:
        run: a run, or what `open_run` takes.
        query: id of a test example.
        target: "label", "prediction", "margin" or "contrast", as in `explain`.
        classes: the class of a margin (None: the given label), or P and Q of a contrast; by name or number.
        runs: folder of runs.

    Returns:
        The columns of `explain`; `attrs` holds method, target, classes and unit.

    Raises:
        RunError: no such run or test example, or the run is not done.
        SettingsError: no such target, or classes that the run does not know.
    """
    from explorer.jobs.query import rank_from_run

    return rank_from_run(open_run(run, runs) if isinstance(run, str) else run, query, target, classes)


def compare_methods(
    run_a: Run | str, run_b: Run | str, query: str, target: Target = "label", *, runs: str | Path | None = None
) -> pd.DataFrame:
    """What two methods say of the same prediction: two runs that differ in nothing but the method, side by side.

    Args:
        run_a: a run, or what `open_run` takes.
        run_b: another run of the same data, model, training and seed.
        query: id of a test example whose influence both runs hold.
        target: "label" or "prediction".
        runs: folder of runs.

    Returns:
        One row per training example, most helpful by `run_a` first: `row, id, label`, then of each run (`_a`, `_b`)
        `influence`, whether it is `exact` (as in `table`), and `rank` (1 = most helpful; ties share their mean rank).
        `attrs` holds both methods and units (where these differ only ranks compare), the `rank_agreement` (Spearman over
        all training examples, as stored in 127 steps a side), and the shares of the 20 most helpful and the 20 most
        harmful examples of `run_a` that are among those of `run_b` (`shared_helpful`, `shared_harmful`).

    Raises:
        RunError: no such run or test example, runs of different subjects, or influence that is not stored.
    """
    from explorer import shown

    first, second = (open_run(run, runs) if isinstance(run, str) else run for run in (run_a, run_b))
    return shown.compare(first, second, first.test_row(query), target)


def _check_stored(target: str) -> None:
    if target not in TARGETS:
        raise SettingsError(
            f"Expected a target that runs store, {' or '.join(TARGETS)}; found {target!r}. Use explorer.explain or "
            "explorer.query for a margin or a contrast."
        )


def _check_decay(weight_decay: float) -> None:
    if not 0 <= weight_decay < float("inf"):
        raise SettingsError(
            f"Expected weight_decay >= 0 and finite; found {weight_decay}. Give the one of the training."
        )


def _check_no_reduction(reduction: str | None) -> None:
    if reduction is not None:
        raise SettingsError(
            f"Expected no reduction for examples with one target each; found {reduction!r}. It is for sequences, whose "
            "targets are whole numbers in the shape of their tokens. Leave it out."
        )


def _dataset(
    train: Pair, test: Pair, outputs: int | None, *, keep_seen: bool, vocabulary: Sequence[str] | None = None
) -> Dataset:
    from explorer.sources.given import dataset_as_given
    from explorer.sources.token_arrays import are_sequences, dataset_from_tokens

    if are_sequences(*train):
        return dataset_from_tokens("your data", train, test, vocabulary=vocabulary, keep_seen=keep_seen)
    if vocabulary is not None:
        raise SettingsError(
            "Expected no vocabulary for examples with one target each; found one. It is for sequences, whose targets are whole "
            "numbers in the shape of their tokens. Leave it out."
        )
    (x_train, y_train), (x_test, y_test) = train, test
    classes = outputs if y_train.dtype.kind in "iub" else None
    return dataset_as_given(x_train, y_train, x_test, y_test, n_classes=classes, keep_seen=keep_seen)


def _learned(model: nn.Module, train: Any) -> Dataset:
    pair = _pair(train, "the examples of pretrained")
    return _dataset(pair, pair, _outputs_of(model), keep_seen=True)


def _outputs_of(model: nn.Module) -> int | None:
    """Outputs of the last linear layer: how many classes there are, even where the data shows fewer."""
    from torch import nn

    if not isinstance(model, nn.Module):
        raise ModelError(f"Expected a torch.nn.Module; found {type(model).__name__}. Pass the trained network itself.")
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return linear[-1].out_features if linear else None


def _pair(data: Any, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    import numpy as np

    if isinstance(data, tuple | list) and len(data) == 2 and all(hasattr(part, "__len__") for part in data):
        return _array(data[0]), _array(data[1])
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        pairs = [data[row] for row in range(len(data))]
        if pairs and all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
            return np.stack([_array(x) for x, _ in pairs]), np.stack([_array(y) for _, y in pairs])
    raise DataError(
        f"Expected {name} as (inputs, targets) arrays or tensors, or a torch Dataset of (input, target) pairs; found "
        f"{type(data).__name__}. Pass two arrays of equal length."
    )


def _array(values: Any) -> NDArray[Any]:
    import numpy as np

    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def _query_rows(query: int | Iterable[int], size: int) -> NDArray[np.int64]:
    import numpy as np

    rows = np.atleast_1d(np.asarray(query if not isinstance(query, Iterable) else list(query)))
    if rows.size == 0 or not np.issubdtype(rows.dtype, np.integer) or rows.min() < 0 or rows.max() >= size:
        raise DataError(f"Expected query as rows of test, 0 to {size - 1}; found {query!r}. Choose existing rows.")
    return rows.astype(np.int64)


class _unchanged:  # noqa: N801 - reads as a phrase where it is used
    """Puts every module's training flag back."""

    def __init__(self, model: nn.Module) -> None:
        self._flags = {module: module.training for module in model.modules()}

    def __enter__(self) -> None:
        return

    def __exit__(self, *exc: object) -> None:
        for module, flag in self._flags.items():
            module.training = flag
