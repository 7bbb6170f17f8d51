"""The panel's part "Classes": which class helps or hurts which, and a pair of classes opened."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from explorer.contracts import Target
from explorer.store import Run
from explorer.store.run import ClassInfluence
from explorer.ui import answers, load, scatter
from explorer.ui.parts import items
from explorer.ui.views import matrix
from explorer.ui.views import pair as views
from explorer.ui.views.heat import WRITTEN, Matrix, largest, power
from explorer.ui.views.tiles import Item

CLASSES = 60
"""Classes in the picture."""
SHOWN, WORST = 10, 10
"""Training examples of each sign, and test predictions, shown of a pair."""
TRAINING, TEST = "matrix-training", "matrix-test"
"""Session keys of the chosen pair: class names as the pickers have them."""
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
HOW = "Mean influence of a training example of one class (row) on the given label of a test example of another (column)"
Pick = Callable[[int, Target], None]


def show(
    run: Run,
    on_pick: Pick,
    on_inspect: Callable[[int], None],
    on_filter: Callable[[tuple[int, ...]], None],
) -> None:
    """The matrix, a picker of pairs, and the chosen pair."""
    meta = load.meta(run)
    if not meta.has_classes:
        st.info("This run has no classes to compare.")
        return
    found = run.class_influence()
    if found is None:
        st.info(_missing(run))
        return
    pair = _chosen(run, found)
    data = drawn(run, found, pair)
    clicked = matrix.show(data, alt=_alt(data), key=f"matrix-{run.key}-{pair}")  # a new chart: no cell stays selected
    if clicked is not None and clicked != pair:
        st.session_state[TRAINING], st.session_state[TEST] = clicked
        st.rerun(scope="fragment")
    _caption(data, len(meta.classes))
    _pickers(meta.classes)
    _pair(run, found, pair, on_pick, on_inspect, on_filter)
    with st.expander("The same as a table"):
        st.dataframe(as_table(data), hide_index=True, height="content" if len(data.classes) <= 12 else 420)


def drawn(run: Run, found: ClassInfluence, pair: tuple[int, int]) -> Matrix:
    """What is drawn: all classes, or the `CLASSES` that are most involved, in the order of the class numbers."""
    meta = load.meta(run)
    size = len(meta.classes)
    shown = most_involved(found.matrix, CLASSES)
    given, asked = np.asarray(load.train_columns(run).labels), load.table(run, "queries")["label"].to_numpy()
    return Matrix(
        classes=shown,
        names=[meta.classes[number] for number in shown],
        train=np.bincount(given, minlength=size)[shown],
        test=np.bincount(asked, minlength=size)[shown],
        values=found.matrix[np.ix_(shown, shown)].astype(np.float64),
        unit=answers.unit(run, "label"),
        chosen=pair,
    )


def most_involved(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The classes with the largest sum of |influence| on and by *other* classes, ascending; all of them if they fit."""
    if len(values) <= count:
        return np.arange(len(values), dtype=np.int64)
    sizes = np.abs(np.nan_to_num(values)).astype(np.float64)
    np.fill_diagonal(sizes, 0.0)
    involved = sizes.sum(0) + sizes.sum(1)
    return np.sort(np.argsort(-involved, kind="stable")[:count])


def first_pair(values: NDArray[np.float32]) -> tuple[int, int]:
    """The pair to open with: the class that hurts another one most, or what is strongest where none does."""
    other = np.where(np.eye(len(values), dtype=bool) | np.isnan(values), np.inf, values)
    if not (other < 0).any():
        other = -np.abs(np.nan_to_num(values))
    at = np.unravel_index(int(np.argmin(other)), other.shape)
    return int(at[0]), int(at[1])


def as_table(data: Matrix) -> pd.DataFrame:
    """The matrix as text can be read: a row for each training class, a column for each test class."""
    names = [f"{number}: {name}" for number, name in zip(data.classes, data.names, strict=True)]  # names may repeat
    table = pd.DataFrame(data.values, columns=names)
    table.insert(0, "training class", names)
    table.insert(1, "training examples", data.train)
    return table


def _chosen(run: Run, found: ClassInfluence) -> tuple[int, int]:
    """The pair in the session, or the first one of this run."""
    size = len(found.matrix)
    if st.session_state.get("matrix-run") != run.key:
        st.session_state["matrix-run"] = run.key
        st.session_state[TRAINING], st.session_state[TEST] = first_pair(found.matrix)
    pair = st.session_state.get(TRAINING), st.session_state.get(TEST)
    if not all(isinstance(one, int) and 0 <= one < size for one in pair):  # the part was away: widgets forget
        pair = st.session_state.get("matrix-pair", first_pair(found.matrix))
        st.session_state[TRAINING], st.session_state[TEST] = pair
    chosen = st.session_state["matrix-pair"] = (int(st.session_state[TRAINING]), int(st.session_state[TEST]))
    return chosen


def _pickers(classes: tuple[str, ...]) -> None:
    numbers = range(len(classes))
    left, right = st.columns(2)
    left.selectbox("Training class", numbers, key=TRAINING, format_func=lambda number: classes[number])
    right.selectbox("Test class", numbers, key=TEST, format_func=lambda number: classes[number])


def _pair(
    run: Run,
    found: ClassInfluence,
    pair: tuple[int, int],
    on_pick: Pick,
    on_inspect: Callable[[int], None],
    on_filter: Callable[[tuple[int, ...]], None],
) -> None:
    facts = opened(run, found, pair)
    both = tuple(sorted(set(pair)))
    st.html(views.heading(facts))
    label = "Show only this class" if len(both) == 1 else "Show only these two classes"
    st.button(label, key="matrix-filter", on_click=on_filter, args=(both,))
    scatter.show_tiles(views.opened(facts), run=run.key, key="matrix-tiles", on_pick=on_pick, on_inspect=on_inspect)


def opened(run: Run, found: ClassInfluence, pair: tuple[int, int]) -> views.Pair:
    """A pair of classes: who of the first helps and hurts the second most, and the second's worst predictions."""
    meta, (given, asked) = load.meta(run), pair
    members = np.flatnonzero(np.asarray(load.train_columns(run).labels) == given)
    queries = load.table(run, "queries")
    worst = queries[(queries["label"] == asked).to_numpy()]
    shown = worst.head(WORST)
    values = np.asarray(found.examples[asked])[members] if found.examples is not None else np.zeros(0, dtype=np.float32)
    kept = found.examples is not None
    return views.Pair(
        a=meta.classes[given],
        b=meta.classes[asked],
        mean=float(found.matrix[pair]),
        train=len(members),
        test=len(worst),
        unit=answers.unit(run, "label"),
        helping=_strongest(run, members, values) if kept else None,
        hurting=_strongest(run, members, values, sign=-1) if kept else None,
        helps=int((values > 0).sum()),
        hurts=int((values < 0).sum()),
        worst=tuple((item, card.confidence, card.loss) for item, card in items.predictions(run, shown["row"])),
    )


def _strongest(
    run: Run, members: NDArray[np.int64], values: NDArray[np.float32], sign: int = 1
) -> tuple[tuple[Item, float], ...]:
    order = np.argsort(-sign * values, kind="stable")[:SHOWN]
    order = order[sign * values[order] > 0]
    return tuple(zip(items.training(run, members[order].tolist()), values[order].tolist(), strict=True))


def _caption(data: Matrix, total: int) -> None:
    shown = len(data.classes)
    some = (
        "" if shown == total else f" {shown} of {total} classes are shown, those with the largest influence on others."
    )
    scale = power(largest(data.values))
    numbers = f" The numbers are in 10{str(scale).translate(RAISED)} {data.unit}." if scale and shown <= WRITTEN else ""
    st.caption(
        f"{HOW}, in {data.unit}. Blue helps, orange hurts.{numbers}{some} Click a cell, or choose the two classes below, to open the pair."
    )


def _alt(data: Matrix) -> str:
    return f"Mean influence between {len(data.classes)} classes as a heat map; the same numbers are in the table below"


def _missing(run: Run) -> str:
    if load.state(run).active:
        return "The matrix of classes is computed after the scores; it appears here when it is done."
    return (
        "This run holds no matrix of classes: it was computed before this was part of a run, or its job stopped early. "
        f"Move the folder {run.key} away and compute the run again, or resume its job."
    )
