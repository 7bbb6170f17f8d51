"""How does Python put the filter bar on the page, and hear what the page looks at now?

The bar is the one component that tells of filter, color, selection, inspected example and pinned prediction, also of
those that the map or the list changed. What it says is untrusted: a message whose types do not fit is dropped here,
and what its values mean is for `Filter.from_data`, `Selection.from_data` and the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from explorer.contracts import Task
from explorer.ui.scatter.assets import bar_assets
from explorer.ui.scatter.doors import _component, _row, _said

COLORS = ("influence", "label", "prediction", "outcome", "self-influence", "split")
"""What the points' color may say; label and prediction only of classes, outcome of what is right or wrong."""
LONGEST = 10_000
"""Items in all that a filter or a selection may hold: more is not from this page."""


@dataclass(frozen=True)
class Counts:
    """How many examples each choice of the bar is about. `suspect` and `retrained` are None while that is not computed."""

    train: int
    test: int
    classes_train: tuple[int, ...]
    classes_test: tuple[int, ...]
    wrong_train: int
    wrong_test: int
    suspect: int | None
    retrained: int | None = None


@dataclass(frozen=True)
class BarData:
    """What the bar offers.

    `view` is what Python wants shown, taken over whenever `revision` was raised: a dict of any of filter (as
    `Filter.as_data()`), color, selection (as `Selection.as_data()` or None), inspected (training row or None) and
    pinned ({"query", "target"} or None). `unit` is the unit of influence, `classes` the names of the class numbers,
    `token` and `base` as in `MapData`. Without `counts` the choices show no numbers. Where the map is
    not `drawn` by the browser there is nothing to color, and no row of influence to limit.
    """

    run: str
    token: str
    task: Task = "classification"
    classes: tuple[str, ...] = ()
    unit: str = ""
    revision: int = 0
    view: Mapping[str, Any] | None = None
    base: str = ""
    counts: Counts | None = None
    drawn: bool = True


def counted(
    classes: int,
    labels: tuple[NDArray[Any], NDArray[Any]] | None,
    wrong: tuple[NDArray[Any], NDArray[Any]],
    suspect: NDArray[Any] | None,
    retrained: NDArray[Any] | None = None,
    *,
    outcomes: bool = True,
) -> Counts:
    """Count the examples of each choice, from label and outcome of the (training, test) examples.

    `labels` are class numbers, None where a label is no class; without `outcomes` nothing is right or wrong.
    """
    by_class = [
        tuple(np.bincount(np.asarray(part, dtype=np.int64), minlength=classes).tolist()) for part in labels or ()
    ]
    return Counts(
        train=len(wrong[0]),
        test=len(wrong[1]),
        classes_train=by_class[0] if by_class else (),
        classes_test=by_class[1] if by_class else (),
        wrong_train=int(np.count_nonzero(wrong[0])) if outcomes else 0,
        wrong_test=int(np.count_nonzero(wrong[1])) if outcomes else 0,
        suspect=None if suspect is None else int(np.count_nonzero(suspect)),
        retrained=None if retrained is None else int(np.count_nonzero(retrained)),
    )


def show_bar(
    data: BarData,
    *,
    key: str,
    on_view: Callable[[dict[str, Any]], None],
    height: int | Literal["content"] = "content",
) -> None:
    """Draw the bar; `on_view(view)` with all five parts of the view once a change of any of them has rested."""

    def looked() -> None:
        view = _view(_said(key, "view"))
        if view is not None:
            on_view(view)

    _component("influence_bar", bar_assets())(key=key, data=asdict(data), height=height, on_view_change=looked)


def _view(said: Any) -> dict[str, Any] | None:
    """The message, if it has the shape of a view."""
    if not isinstance(said, dict):
        return None
    view = {name: said.get(name) for name in ("filter", "color", "selection", "inspected", "pinned")}
    inspected, pinned = view["inspected"], view["pinned"]
    fits = (
        isinstance(view["filter"], dict)
        and _size(view["filter"]) <= LONGEST
        and view["color"] in COLORS
        and (view["selection"] is None or isinstance(view["selection"], dict))
        and _size(view["selection"]) <= LONGEST
        and (inspected is None or _row(view, "inspected", None) is not None)
        and (pinned is None or (_row(pinned, "query", None) is not None and isinstance(pinned.get("target"), str)))
    )
    return view if fits else None


def _size(value: Any) -> int:
    """Items in a nest of lists and dicts, counted no further than is too many."""
    rest, items = [value], 0
    while rest and items <= LONGEST:
        inner = rest.pop()
        items += 1
        rest.extend(inner.values() if isinstance(inner, dict) else inner if isinstance(inner, list) else ())
    return items
