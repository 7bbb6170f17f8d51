"""The Explore page's parts: list, map and panel, each a fragment of its own so that a click reruns the panel alone."""

from __future__ import annotations

import streamlit as st

from explorer import jobs
from explorer.contracts import Target
from explorer.store import Run
from explorer.store.export import encode
from explorer.ui import answers, fallback, load, scatter, state
from explorer.ui.views import card, gallery
from explorer.ui.views.words import as_markdown, percent

HEIGHT = 640
PARTS = ("Examples", "Table", "About these numbers")


def show(run: Run) -> None:
    """The page for a run, as far as it is computed."""
    if not run.browsable:
        _waiting(run)
        return
    _follow_link(run)
    left, middle, right = st.columns([1.05, 2.15, 2.3], gap="small")
    with left:
        _list(run)
    with middle:
        _map(run)
    with right:
        _panel(run)


def _waiting(run: Run) -> None:
    job = load.state(run)
    if job.active:
        st.info(
            "The first answers appear here by themselves as soon as the model is trained and the worst mistakes are scored."
        )
    else:
        st.warning(
            f"This run is {job.state} before its first answer. {as_markdown(job.reason)} Press Resume above to go on."
        )


def _follow_link(run: Run) -> None:
    """Take query and target from the address where it changed by other means than our own clicks."""
    if state.get("shown-run") == run.key and not state.came_from_outside():
        return
    link = state.link()
    if link.run is None and state.get("shown-run") == run.key:  # back from another page: as it was left
        state.raise_revision()
        select(run, state.get("query"), state.get("target"))
        return
    row = None if link.query is None else answers.query_by_id(run, link.query)
    if link.query is not None and row is None:
        examples = ", ".join(load.table(run, "queries")["id"].head(3))
        st.warning(
            as_markdown(f"This run has no test example {link.query!r}; ids look like {examples}.")
            + " Showing the worst confident mistake."
        )
    state.put("shown-run", run.key)
    state.put("inspected", None)
    state.raise_revision()
    select(run, answers.first_query(run) if row is None else row, link.target)


def select(run: Run, query: int, target: Target) -> None:
    """Make a test row and a target the selection, and put them into the address."""
    state.put("query", query)
    state.put("target", target)
    state.write_link(run.key, str(answers.query_row(run, query)["id"]), target)


def _picked(run: Run, query: int, target: Target) -> None:
    select(run, query, target)
    state.put("inspected", None)
    st.rerun("panel" if state.get("webgl", True) else ["panel", "map"])


def _inspected(row: int) -> None:
    state.put("inspected", row)
    st.rerun("panel")


@st.fragment(key="list")
def _list(run: Run) -> None:
    ready = len(run.ready())
    data = scatter.ListData(
        run.key,
        state.token(),
        state.get("query"),
        state.get("target"),
        revision=state.get("revision", 0),
        version=ready,
    )
    scatter.show_list(data, key="queries", on_pick=lambda query, target: _picked(run, query, target), height=HEIGHT)


@st.fragment(key="map")
def _map(run: Run) -> None:
    layouts, meta = run.layouts(), load.meta(run)
    if state.get("layout-run") != run.key:
        state.put("layout-run", run.key)
        st.session_state["layout"] = layouts[-1]
    waiting = "" if "umap" in layouts else " (UMAP comes when ready)"
    layout = st.segmented_control(
        "Map" + waiting, layouts, format_func=str.upper, key="layout", required=True, label_visibility="collapsed"
    )
    if not state.get("webgl", True):
        fallback.show(
            run,
            str(layout),
            state.get("query"),
            state.get("target"),
            lambda query: _picked(run, query, state.get("target")),
        )
        return
    data = scatter.MapData(
        run=run.key,
        token=state.token(),
        layout="umap" if layout == "umap" else "pca",
        n_train=meta.train,
        n_test=meta.test,
        query=state.get("query"),
        target=state.get("target"),
        classes=meta.classes,
        task=meta.task,
        unit=answers.unit(run, "label"),
        revision=state.get("revision", 0),
    )
    scatter.show(
        data,
        key="map-view",
        on_pick=lambda query, target: _picked(run, query, target),
        on_inspect=_inspected,
        on_webgl=_told_webgl,
        height=HEIGHT - 70,
    )


def _told_webgl(works: bool) -> None:
    state.put("webgl", works)
    st.rerun("map")


@st.fragment(key="panel")
def _panel(run: Run) -> None:
    query, target = state.get("query"), state.get("target")
    st.html(card.query_card(answers.query(run, query, target)))
    top = run.top(query, target)
    if top is None:
        _not_computed(run)
        return
    st.html(card.trust_line(answers.trust(run, query, target, top)))
    if state.get("inspected") is not None:
        _inspection(run, state.get("inspected"))
    part = st.segmented_control(
        "Show", PARTS, default=PARTS[0], key="part", required=True, label_visibility="collapsed"
    )
    if part == PARTS[1]:
        _table(run, query, target)
    elif part == PARTS[2]:
        _about(run, target)
    else:
        towards, away = answers.tiles(run, top)
        meta = load.meta(run)
        st.html(gallery.galleries(towards, away, answers.unit(run, target), meta.train))


def _not_computed(run: Run) -> None:
    if load.state(run).state in jobs.ACTIVE:
        st.info("The influence on this prediction is being computed; the page shows it as soon as it is there.")
    else:
        st.info(
            "The influence on this prediction was not asked for (--queries), or its job stopped before it. Resume the job "
            "above, or start a run over more queries."
        )


def _inspection(run: Run, row: int) -> None:
    query, target = state.get("query"), state.get("target")
    influence, top = run.row(query, target), run.top(query, target)
    if influence is None or top is None:
        return
    value = float(influence.values[row]) / 127 * influence.scale
    tile = answers.tile(run, row, value, top.total)
    known = load.train_table(run).iloc[row]
    rank = (
        f", percentile {known['percentile']:.0f} of memorization: {known['quadrant']}" if "percentile" in known else ""
    )
    with st.container(border=True):
        text, close = st.columns([5, 1], vertical_alignment="center")
        text.html(card.inspected(tile.id, tile.face, tile.label, tile.prediction, value, percent(tile.share) + rank))
        close.button("Close", key="close-inspected", on_click=lambda: state.put("inspected", None))


def _table(run: Run, query: int, target: Target) -> None:
    top = run.top(query, target)
    if top is None:
        return
    table = answers.top_table(run, top)
    st.caption(f"{len(table)} strongest of {load.meta(run).train:,} training examples")
    st.dataframe(
        table, hide_index=True, height=420, column_config={"share": st.column_config.NumberColumn(format="percent")}
    )
    name = str(answers.query_row(run, query)["id"])
    st.download_button("Save these rows as CSV", encode(table, "csv"), f"{run.key}-{name}.csv", "text/csv")
    st.caption("All training examples, ranked, from a terminal:")
    st.code(f"explorer export {run.key} --query {name} --target {target} --format csv", language="bash")


def _about(run: Run, target: Target) -> None:
    meta, stats = load.meta(run), load.evidence(run)
    layer = stats.get("layer", "")
    seen = (
        "the whole model"
        if stats.get("whole_model")
        else f"the last layer ({layer}) on fixed features; what the layers below would do is not in it"
    )
    damping = (
        f"- **Damping** λ = {stats['damping']:.3g} ({stats['damping_rule']}), weight decay {stats['weight_decay']:.3g}; the solve leaves a residual of {stats['residual']:.1e}.\n"
        if "damping" in stats
        else ""
    )
    st.markdown(
        f"""
- **Influence** of a training example: how much {answers.unit(run, target)} of the explained quantity this prediction has
  because the example was in the training set. ▲ towards: without it the answer would be worse; ▼ away: better.
- It is a first-order estimate through {seen}. A deep model trained again differs by more than this.
{damping}- **Share**: |influence| over its sum over all {meta.train:,} training examples.
- **Rank agreement**: Spearman correlation with a second method (plain gradient products, no curvature).
- **Noise**: how much this prediction still moved per epoch at the end of training.
- **Memorized**: the example's loss summed over training (or, without a log, its self-influence) is more than three robust
  deviations above its class. A high score says *memorized*, not *wrong*.
"""
    )
