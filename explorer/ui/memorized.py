"""The Memorized page's parts: the headline, the quadrants with their examples, the classes, and the whole table to keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from explorer import memorization
from explorer.store import Run
from explorer.store.export import encode
from explorer.ui import answers, load, state, wire
from explorer.ui.views import examples, quadrant
from explorer.ui.views import memorization as views
from explorer.ui.views.examples import Example
from explorer.ui.views.jobs import standing
from explorer.ui.views.quadrant import Group

DRAWN = 5000
"""Points in the picture: SVG stays quick up to here."""
BEYOND = 0.05
"""Share of examples without any effect that lie outside the 95 % noise band."""
TILES = 24
POLL = 1.0
"""Seconds between two looks at a job that has not come here yet."""
VALUES = 3
"""Values shown of a table row, most unusual first."""
GROUPS = (
    Group(memorization.HARMFUL, "▼", "triangle-down", "away", strong=True),
    Group(memorization.USEFUL, "▲", "triangle-up", "towards", strong=True),
    Group(memorization.MEMORIZED_NEUTRAL, "◇", "diamond-open", "neutral", strong=True),
    Group(memorization.GENERALIZED, "●", "circle", "towards", strong=False),
    Group(memorization.REDUNDANT, "■", "square", "away", strong=False),
    Group(memorization.NEUTRAL, "○", "circle-open", "neutral", strong=False),
)
"""How each quadrant looks, in the order of the picker."""
ORDERS: dict[str, tuple[str, bool, str]] = {
    memorization.HARMFUL: ("percentile", False, "most suspect first"),
    memorization.USEFUL: ("held_out", False, "most helpful first"),
    memorization.MEMORIZED_NEUTRAL: ("self_influence", False, "highest self-influence first"),
    memorization.GENERALIZED: ("held_out", False, "most helpful first"),
    memorization.REDUNDANT: ("held_out", True, "most harmful first"),
    memorization.NEUTRAL: ("self_influence", True, "lowest self-influence first"),
}
"""Column, ascending, and the order in words, for each quadrant's tiles."""


def show(run: Run) -> None:
    """The page for a run, as far as it is computed."""
    if not (run.has("memorization.parquet") and run.has("summary.json")):
        _waiting(run)
        return
    state.write_address({"run": run.key})
    headline(run)
    _quadrants(run)
    _gallery(run)


def _waiting(run: Run) -> None:
    @st.fragment(key="waiting", run_every=POLL if load.state(run).active else None)
    def live() -> None:
        job = load.state(run)
        if job.active:
            st.info(f"Memorization is measured after the scores; this page fills by itself. The job: {standing(job)}")
        else:
            st.warning(f"This run is {job.state} before its memorization was measured. Press Resume above to go on.")

    live()


def headline(run: Run) -> None:
    """The answer in words, and beside it the check against planted flips where there are some."""
    table, numbers = load.train_table(run), load.summary(run) or {}
    if "flips_planted" not in numbers:
        st.html(views.headline(headline_facts(run, table, numbers)))
        return
    left, right = st.columns([1.15, 1], gap="medium")
    left.html(views.headline(headline_facts(run, table, numbers)))
    right.html(views.check(check_facts(numbers)))


def headline_facts(run: Run, table: pd.DataFrame, numbers: dict[str, Any]) -> views.Headline:
    """The headline's numbers."""
    counts, stats = table["quadrant"].value_counts(), load.evidence(run)
    high = table["self_influence_z"] > memorization.FLAG_Z
    epochs = len(list((run.path / "training").glob("epoch-*.safetensors"))) if numbers["basis"] == "csl" else 0
    return views.Headline(
        flagged=int(numbers["memorized"]),
        total=len(table),
        epochs=epochs,
        group="the median of its class" if load.meta(run).task == "classification" else "the median of all examples",
        high=int(high.sum()),
        useful=int(counts.get(memorization.USEFUL, 0)),
        harmful=int(counts.get(memorization.HARMFUL, 0)),
        both=int((high & table["memorized"]).sum()),
        chance=round(BEYOND * int(high.sum())),
        method=str(run.spec["method"]["name"]),
        damping=float(stats["damping"]) if "damping" in stats else None,
        damping_rule=str(stats.get("damping_rule", "")),
        own_by=str(numbers.get("self_influence_by", "")),
    )


def check_facts(numbers: dict[str, Any]) -> views.Check:
    """The planted flips, the flag's score first, and which score found them better on this run."""
    own = views.Finding("self-influence", **numbers["flips_self_influence"])
    findings: tuple[views.Finding, ...] = (own,)
    if numbers["basis"] == "csl":
        log = views.Finding("training log (CSL)", **numbers["flips_score"])
        findings = (log, own)
        verdict = (
            "The training log finds flips better than influence does, and costs nothing: look for wrong labels with it, "
            "and ask influence why a prediction was made."
            if (log.precision, log.auc) > (own.precision, own.auc)
            else "On this run self-influence finds flips as well as the training log does."
        )
    else:
        verdict = "A training log finds flips better than influence does; this run has none, its weights were given."
    return views.Check(
        int(numbers["flips_planted"]), int(numbers["flips_flagged"]), int(numbers["memorized"]), findings, verdict
    )


@st.fragment(key="quadrants")
def _quadrants(run: Run) -> None:
    left, right = st.columns([1.5, 1], gap="medium")
    with left:
        row = picture(run)
    with right:
        if row is not None and row < load.meta(run).train:
            st.html(examples.card(example(run, row)))
        by_class(run)


def picture(run: Run) -> int | None:
    """The quadrants, drawn; the training row that was clicked."""
    table, meta = load.train_table(run), load.meta(run)
    rows = drawn_rows(table)
    shown = table.iloc[rows]
    numbers = {group.name: number for number, group in enumerate(GROUPS)}
    known: dict[str, Any] = {
        name: shown[name].to_numpy(np.float64) for name in ("percentile", "self_influence", "held_out", "held_out_se")
    }
    group = np.asarray(shown["quadrant"].map(numbers), dtype=np.int64)
    cloud = quadrant.Cloud(rows=rows, ids=shown["id"].astype(str).tolist(), group=group, **known)
    chosen = quadrant.show(
        cloud,
        GROUPS,
        answers.unit(run, "label"),
        alt="Training examples by self-influence and mean held-out influence, marked by quadrant; the table below holds them all",
        key=f"quadrant-{run.key}",
    )
    flagged, kept = int(table["memorized"].sum()), int(shown["memorized"].sum())
    sample = "" if len(rows) == len(table) else f", with {kept:,} of the {flagged:,} flagged ones"
    border = " What counts as high self-influence depends on the class." if meta.task == "classification" else ""
    st.caption(
        f"{len(rows):,} of {len(table):,} shown{sample}. Hollow: the effect on held-out answers is inside the noise (95 % band over "
        f"test examples).{border} Click a point to see the example; double-click to let it go."
    )
    return chosen


def drawn_rows(table: pd.DataFrame) -> NDArray[np.int64]:
    """Rows to draw, ascending: all if they fit, else the flagged ones and a seeded sample of the others.

    A fifth of the points stays for the others: beyond that, the flagged ones with the highest scores are drawn.
    """
    if len(table) <= DRAWN:
        return np.arange(len(table), dtype=np.int64)
    flagged = table["memorized"].to_numpy()
    suspects = np.flatnonzero(flagged)[np.argsort(-table["z"].to_numpy()[flagged], kind="stable")][: DRAWN * 4 // 5]
    others = np.random.default_rng(0).permutation(np.flatnonzero(~flagged))[: DRAWN - len(suspects)]
    return np.sort(np.concatenate([suspects, others]))


@st.fragment(key="examples")
def _gallery(run: Run) -> None:
    """The picker of quadrants, what the chosen one means, and its first examples."""
    table = load.train_table(run)
    counts = table["quadrant"].value_counts()
    marks = {group.name: group.mark for group in GROUPS}
    if state.get("quadrant-run") != run.key:
        state.put("quadrant-run", run.key)
        st.session_state["quadrant"] = next((name for name in marks if counts.get(name, 0)), GROUPS[0].name)
    name = st.segmented_control(
        "Quadrant",
        list(marks),
        format_func=lambda option: f"{marks[option]} {option} · {counts.get(option, 0):,}",
        key="quadrant",
        required=True,
        wrap=True,
        persist_state="session",
    )
    column, ascending, order = ORDERS[str(name)]
    members = table[table["quadrant"] == name].sort_values(column, ascending=ascending, kind="stable")
    shown = [example(run, int(row)) for row in members["row"].head(TILES)]
    counted = f" :small[{len(shown)} of {len(members):,} shown, {order}.]" if shown else ""
    st.markdown(memorization.QUADRANTS[str(name)] + counted)
    st.html(examples.tiles(shown, str(name)))


def example(run: Run, row: int) -> Example:
    """One training example with its measurements."""
    meta, known = load.meta(run), load.train_table(run).iloc[row]
    label, said = wire.names(pd.Series([known["label"], known["prediction"]]), meta)
    return Example(
        id=str(known["id"]),
        face=answers.face(run, "train", row, VALUES),
        label=label,
        prediction=said,
        right=None if meta.task == "regression" else not bool(known["wrong"]),
        percentile=float(known["percentile"]),
        self_influence=float(known["self_influence"]),
        held_out=float(known["held_out"]),
        held_out_se=float(known["held_out_se"]),
        neutral=bool(known["neutral"]),
        memorized=bool(known["memorized"]),
        quadrant=str(known["quadrant"]),
        meaning=memorization.QUADRANTS[str(known["quadrant"])],
        planted=answers.planted(known, meta),
    )


def by_class(run: Run) -> None:
    """Where the flags are, by class, and all rows as a file."""
    classes = load.meta(run).task == "classification"
    st.markdown("**By class**" if classes else "**By quarter of the true value**")
    st.dataframe(
        grouped(run),
        hide_index=True,
        height="auto",
        column_config={
            "n": st.column_config.NumberColumn(width=45),
            "flagged": st.column_config.NumberColumn(width=65),
            "share": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1, width=95),
            "median self-influence": st.column_config.NumberColumn(format="%.3g", width=150),
        },
    )
    st.download_button(
        f"Save all {load.meta(run).train:,} rows as CSV",
        lambda: encode(whole_table(run), "csv"),
        f"{run.key}-memorization.csv",
        "text/csv",
        on_click="ignore",
    )


def grouped(run: Run) -> pd.DataFrame:
    """Examples, flags and median self-influence of each class, or of each quarter of the true values."""
    table, meta = load.train_table(run), load.meta(run)
    if meta.task == "classification":
        groups: Any = table["label"].map(dict(enumerate(meta.classes)))
    else:
        groups = pd.qcut(table["label"], 4, duplicates="drop").map(lambda part: f"{part.left:.3g} to {part.right:.3g}")
    order = table["label"].groupby(groups).median().sort_values().index
    parts = table.groupby(groups)
    found = pd.DataFrame(
        {
            "n": parts.size(),
            "flagged": parts["memorized"].sum(),
            "share": parts["memorized"].mean(),
            "median self-influence": parts["self_influence"].median(),
        }
    ).loc[order]
    return found.rename_axis("class" if meta.task == "classification" else "true value").reset_index()


def whole_table(run: Run) -> pd.DataFrame:
    """Everything known of every training example, with class names in place of numbers."""
    table, meta = load.train_table(run).copy(), load.meta(run)
    for name in ("label", "prediction", "true_label"):
        if name in table and meta.task == "classification":
            table[name] = wire.names(table[name], meta)
    return table
