"""How does Python put the map and the list on the page, and hear what was picked?

What the browser sends is read as untrusted: a pick that does not fit the run is dropped. What a pick means is the
page's business; callbacks may end in `st.rerun("panel")`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import streamlit as st

from explorer.contracts import TARGETS, Layout, Target, Task
from explorer.errors import SettingsError
from explorer.ui.scatter.assets import Assets, list_assets, map_assets

if TYPE_CHECKING:
    from streamlit.components.v2.types import ComponentRenderer

Pick = Callable[[int, Target], None]


@dataclass(frozen=True)
class MapData:
    """What the map shows. None of it changes on a click, so a click neither reruns nor rebuilds the map.

    `query` and `target` are what Python wants shown: on the first mount, whenever they differ from what Python said
    before (unless that is only the user's own last pick coming back), and always when `revision` was raised (a deep
    link, the back button). `base` is "" or the URL prefix the app is served under; `unit` is the unit of influence;
    `classes` names the class numbers of the points. `token` opens the server's routes, among them pictures of single
    examples where `pictures` says so, or their texts where `texts` does; `layouts` are the maps to choose from. `view` is what else Python wants shown when `revision` was raised: any of filter,
    color, selection, inspected and pinned, as in `BarData`.
    """

    run: str
    token: str
    layout: Layout
    n_train: int
    n_test: int
    query: int | None
    target: Target = "label"
    base: str = ""
    classes: tuple[str, ...] = ()
    task: Task = "classification"
    unit: str = ""
    revision: int = 0
    pictures: bool = False
    texts: bool = False
    layouts: tuple[Layout, ...] = ()
    view: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("n_train", "n_test"):
            if getattr(self, name) < 0:
                raise SettingsError(f"Expected {name} >= 0; found {getattr(self, name)}. Pass the size of the run.")
        _check_target(self.target)


@dataclass(frozen=True)
class ListData:
    """What the list shows: the predictions of queries.json. `version` is raised when that file has changed.

    `query`, `target`, `classes`, `revision` and `view` are as in `MapData`; give both components the same.
    """

    run: str
    token: str
    query: int | None
    target: Target = "label"
    base: str = ""
    revision: int = 0
    version: int = 0
    classes: tuple[str, ...] = ()
    view: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        _check_target(self.target)


def show(
    data: MapData,
    *,
    key: str,
    on_pick: Pick,
    on_inspect: Callable[[int], None],
    on_webgl: Callable[[bool], None],
    on_layout: Callable[[Layout], None],
    height: int = 600,
) -> bool:
    """Draw the map; False once the browser has said that it has no WebGL2 (then draw the Plotly map instead).

    `on_pick(query, target)` when a test point or the other target was chosen, `on_inspect(row)` when a training
    point was, `on_webgl(False)` when the browser cannot draw, `on_layout(layout)` when another map was chosen. `key` is the widget's key in session state.
    """

    def picked() -> None:
        _deliver_pick(_said(key, "pick"), on_pick, data.n_test)

    def inspected() -> None:
        row = _row(_said(key, "inspect"), "row", data.n_train)
        if row is not None:
            on_inspect(row)

    def laid_out() -> None:
        said = _said(key, "layout")
        chosen = next((name for name in data.layouts if isinstance(said, dict) and said.get("layout") == name), None)
        if chosen is not None:
            on_layout(chosen)

    def told() -> None:
        on_webgl(_said(key, "webgl") is not False)

    result = _component("influence_map", map_assets())(
        key=key,
        data={**asdict(data), "height": height},
        height=height,
        on_pick_change=picked,
        on_inspect_change=inspected,
        on_webgl_change=told,
        on_layout_change=laid_out,
    )
    return result.get("webgl") is not False


def show_list(data: ListData, *, key: str, on_pick: Pick, height: int = 600) -> None:
    """Draw the list of test predictions; `on_pick(query, target)` when one was chosen by click or key."""

    def picked() -> None:
        _deliver_pick(_said(key, "pick"), on_pick, None)

    _component("influence_list", list_assets())(
        key=key, data={**asdict(data), "height": height}, height=height, on_pick_change=picked
    )


@cache
def _component(name: str, assets: Assets) -> ComponentRenderer:
    return st.components.v2.component(name, html=assets.html, css=assets.css, js=assets.js)


def _check_target(target: str) -> None:
    if target not in TARGETS:
        raise SettingsError(f"Expected target to be one of {', '.join(TARGETS)}; found {target!r}.")


def _said(key: str, name: str) -> Any:
    """What the component under `key` last said under `name`."""
    state = st.session_state.get(key)
    return state.get(name) if isinstance(state, dict) else None


def _row(said: Any, name: str, size: int | None) -> int | None:
    """The row number `said[name]`, if it is one of this run."""
    row = said.get(name) if isinstance(said, dict) else None
    fits = isinstance(row, int) and not isinstance(row, bool) and row >= 0 and (size is None or row < size)
    return row if fits else None


def _deliver_pick(said: Any, on_pick: Pick, size: int | None) -> None:
    query = _row(said, "query", size)
    if query is not None and said.get("target") in TARGETS:
        on_pick(query, said["target"])
