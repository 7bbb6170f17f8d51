"""The Explore page's parts: list, bar, map and panel, each a fragment of its own so that a click reruns as little as can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from explorer.contracts import Layout, Target
from explorer.store import Run
from explorer.ui import answers, facets, fallback, load, offers, scatter, selected, state
from explorer.ui.parts import about, compare, contrast, drawer, edit, exact, matrix, methods, special, table
from explorer.ui.views.words import as_markdown

LIST_HEIGHT, MAP_HEIGHT = 830, 640


def show(run: Run) -> None:
    """The page for a run, as far as it is computed."""
    if not run.browsable:
        _waiting(run)
        return
    for missing in selected.follow(run):
        st.warning(as_markdown(missing) + " Showing what is there.")
    left, middle, right = st.columns([1.05, 2.15, 2.3], gap="small")
    with left.container(key="ix-list"):
        _list(run)
    with middle:
        _bar(run)
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


def _picked(run: Run, query: int, target: Target) -> None:
    traced = any(exact.concerns(run, *at) for at in ((state.get("query"), state.get("target")), (query, target)))
    traced |= state.get(selected.WHY) is not None  # the panel's galleries are not those that the browser draws
    selected.select(run, query, target)
    answered = state.get("part") == offers.PARTS[0] and state.get("inspected") is None and not traced
    if state.get("webgl", True) and answered:
        return  # the browser has drawn the answer itself
    st.rerun("panel" if state.get("webgl", True) else ["panel", "map"])


def _inspected(run: Run, row: int | None) -> None:
    selected.inspect(run, row)
    st.rerun("panel")


def _closed(run: Run) -> None:
    """Close the drawer, on the map too."""
    selected.inspect(run, None)
    state.raise_revision()
    st.rerun(["panel", "list", "bar", "map"])


def _taught(run: Run, row: int | None) -> None:
    """Color the map by a lesson, or by influence again."""
    selected.teach(run, row)
    state.raise_revision()
    st.rerun(["map", "bar", "panel"])  # the map first: it fetches the lesson while the panel waits for it


def _viewed(run: Run, said: dict[str, Any]) -> None:
    """The reader filtered, colored, selected, inspected or pinned something: does the panel show it?"""
    changed = selected.viewed(run, said)
    shown = {"Selection": {"filter", "selection"}, "Table": {"filter", "selection"}, "Compare": {"pinned"}}
    behind = ["panel"] if changed & (shown.get(state.get("part"), set()) | {"inspected", "lesson"}) else []
    if "filter" in changed and not state.get("webgl", True):
        behind.append("map")  # the smaller map is drawn here, not in the browser
    if behind:
        st.rerun(behind)


@st.fragment(key="list")
def _list(run: Run) -> None:
    data = scatter.ListData(
        run.key,
        state.token(),
        state.get("query"),
        state.get("target"),
        revision=state.get("revision", 0),
        version=len(run.ready()),
        classes=load.meta(run).classes,
        view=selected.as_data(),
    )
    scatter.show_list(
        data, key="queries", on_pick=lambda query, target: _picked(run, query, target), height=LIST_HEIGHT
    )


@st.fragment(key="bar")
def _bar(run: Run) -> None:
    meta = load.meta(run)
    data = scatter.BarData(
        run=run.key,
        token=state.token(),
        task=meta.task,
        classes=meta.classes,
        unit=answers.unit(run, "label"),
        revision=state.get("revision", 0),
        view=selected.as_data(),
        counts=facets.counts(run),
        drawn=state.get("webgl", True),
    )
    scatter.show_bar(data, key="bar", on_view=lambda said: _viewed(run, said))


@st.fragment(key="map")
def _map(run: Run) -> None:
    layouts, meta = run.layouts(), load.meta(run)
    if not state.get("webgl", True):
        fallback.show(
            run,
            state.get("layout"),
            state.get("query"),
            state.get("target"),
            lambda query: _picked(run, query, state.get("target")),
            state.get("lesson"),
            state.get("filter"),
        )
        return
    data = scatter.MapData(
        run=run.key,
        token=state.token(),
        layout=state.get("layout"),
        n_train=meta.train,
        n_test=meta.test,
        query=state.get("query"),
        target=state.get("target"),
        classes=meta.classes,
        task=meta.task,
        unit=answers.unit(run, "label"),
        revision=state.get("revision", 0),
        pictures=meta.preview == "image",
        texts=meta.preview == "text",
        layouts=tuple(layouts),
        view=selected.as_data(),
    )
    scatter.show(
        data,
        key="map-view",
        on_pick=lambda query, target: _picked(run, query, target),
        on_inspect=lambda row: _inspected(run, row),
        on_webgl=_told_webgl,
        on_layout=lambda layout: _laid_out(run, layout),
        height=MAP_HEIGHT,
    )


def _laid_out(run: Run, layout: Layout) -> None:
    state.put("layout", layout)
    selected.write(run)
    if state.get("part") in ("Selection", "Table"):
        st.rerun(["map", "panel"])
    st.rerun("map")


def _told_webgl(works: bool) -> None:
    state.put("webgl", works)
    st.rerun(["map", "bar"])


@st.fragment(key="panel")
def _panel(run: Run) -> None:
    query, target = state.get("query"), state.get("target")

    def picked(query: int, target: Target) -> None:
        _picked(run, query, target)

    def inspected(row: int) -> None:
        _inspected(run, row)

    _answer(run, ("card", "trust"))
    if state.get("inspected") is not None:
        drawer.show(
            run,
            state.get("inspected"),
            query,
            target,
            picked,
            inspected,
            lambda: _closed(run),
            (lambda row: _taught(run, row)) if offers.lessons(load.meta(run)) else None,
        )
    part = st.segmented_control(
        "Show",
        offers.parts(load.meta(run)),
        key="part",
        required=True,
        label_visibility="collapsed",
        on_change=selected.write,
        args=(run,),
    )
    chosen, shown, layout = state.get("selection"), state.get("filter"), state.get("layout")
    if part == "Selection":
        special.show(run, query, target, chosen, shown, layout, picked, inspected)
    elif part == "Compare":
        compare.show(run, state.get("pinned"), query, target, picked, inspected)
    elif part == "Edit":
        edit.show(run, query, target, picked, inspected)
    elif part == "Classes":
        matrix.show(run, picked, inspected, lambda chosen: _filtered(run, chosen))
    elif part == "Methods":
        methods.show(
            run, state.get("against"), query, target, picked, inspected, lambda name: selected.oppose(run, name)
        )
    elif part == "Table":
        table.show(run, query, target, shown, chosen)
    elif part == "About":
        about.show(run, target)
    else:
        _answers(run, query, target, picked, inspected)


def _answers(
    run: Run, query: int, target: Target, picked: Callable[[int, Target], None], inspected: Callable[[int], None]
) -> None:
    """The galleries, or what was asked for in their place."""
    if contrast.show(run, query, target, picked, inspected):
        return
    with st.container(horizontal=not exact.concerns(run, query, target)):
        contrast.offer(run)
        if exact.show(run, query, target, picked, inspected):
            return
    _answer(run, ("galleries",))


def _filtered(run: Run, classes: tuple[int, ...]) -> None:
    """Show only these classes on the map and in the list."""
    selected.show_classes(run, classes)
    state.raise_revision()
    st.rerun(["list", "bar", "map"])


def _answer(run: Run, sections: tuple[scatter.Section, ...]) -> None:
    """Parts of the answer to what is selected; the browser fetches and changes them without this fragment."""
    meta = load.meta(run)
    data = scatter.AnswerData(
        run=run.key,
        token=state.token(),
        query=state.get("query"),
        n_train=meta.train,
        n_test=meta.test,
        target=state.get("target"),
        task=meta.task,
        version=load.seen(run),
        sections=sections,
    )
    scatter.show_answer(
        data,
        key=f"answer-{'-'.join(sections)}",
        on_pick=lambda query, target: _picked(run, query, target),
        on_inspect=lambda row: _inspected(run, row),
    )
