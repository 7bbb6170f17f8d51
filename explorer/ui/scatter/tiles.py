"""How does Python put an answer, or any HTML with examples in it, on the page, and hear which of them was chosen?

The answer itself does not pass here: the browser fetches it from the server's route. Both components live in the page
itself, without a root of their own, so that one style sheet serves everything views draw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import streamlit as st

from explorer.contracts import Target, Task
from explorer.errors import SettingsError
from explorer.ui.scatter.assets import Assets, answer_assets, part_assets
from explorer.ui.scatter.doors import Pick, _check_target, _deliver_pick, _row, _said

if TYPE_CHECKING:
    from streamlit.components.v2.types import ComponentRenderer

Section = Literal["card", "trust", "galleries"]
SECTIONS: tuple[Section, ...] = ("card", "trust", "galleries")


@dataclass(frozen=True)
class AnswerData:
    """What the answer component needs to follow the selection by itself.

    `query` and `target` count only until another component has said what is selected. `version` says how far the run
    is computed (`load.stamp`): when it changes, answers are fetched again. Several components may share one answer, each
    with its own `sections`; the one with the card speaks (errors, screen readers, the probe).
    """

    run: str
    token: str
    query: int
    n_train: int
    n_test: int
    target: Target = "label"
    task: Task = "classification"
    version: str = ""
    base: str = ""
    sections: tuple[Section, ...] = SECTIONS

    def __post_init__(self) -> None:
        _check_target(self.target)
        unknown = [name for name in self.sections if name not in SECTIONS]
        if unknown or not self.sections:
            raise SettingsError(f"Expected some of {', '.join(SECTIONS)} as sections; found {self.sections!r}.")


def show_answer(data: AnswerData, *, key: str, on_pick: Pick, on_inspect: Callable[[int], None]) -> None:
    """Draw the answer to the selected prediction, now and after every pick without Python's help.

    `on_pick(query, target)` when a test prediction in it was chosen, `on_inspect(row)` when a training example was.
    """
    _mounted("influence_answer", answer_assets(), key, asdict(data), (data.n_train, data.n_test), on_pick, on_inspect)


def show_tiles(html: str, *, run: str, key: str, on_pick: Pick, on_inspect: Callable[[int], None]) -> None:
    """Draw HTML that views made; elements with `data-query`, `data-inspect` and `data-point` act as tiles.js says.

    What is not on its list of harmless elements and attributes is left out. Rows come back unchecked against the run.
    """
    _mounted("influence_part", part_assets(), key, {"html": html, "run": run}, (None, None), on_pick, on_inspect)


def _mounted(
    name: str,
    assets: Assets,
    key: str,
    data: dict[str, object],
    sizes: tuple[int | None, int | None],
    on_pick: Pick,
    on_inspect: Callable[[int], None],
) -> None:
    def picked() -> None:
        _deliver_pick(_said(key, "pick"), on_pick, sizes[1])

    def inspected() -> None:
        row = _row(_said(key, "inspect"), "row", sizes[0])
        if row is not None:
            on_inspect(row)

    _component(name, assets)(key=key, data=data, on_pick_change=picked, on_inspect_change=inspected)


@cache
def _component(name: str, assets: Assets) -> ComponentRenderer:
    return st.components.v2.component(name, html=assets.html, css=assets.css, js=assets.js, isolate_styles=False)
