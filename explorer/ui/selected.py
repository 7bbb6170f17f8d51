"""What is the reader looking at on the Explore page? Taken from the address, put into it, and shared with the browser.

Query, target, map, color, filter, selection, the inspected training example, the pinned prediction, the lesson that colors the map, the panel's part,
the two classes compared and the run of another method that it compares with. Examples are named by id in the address and by row in the session. Nothing from an address or a browser is
trusted: what does not fit the run is left out, and `follow` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast

from explorer.contracts import TARGETS, Target
from explorer.shown import Filter, Selection
from explorer.store import Run, same_subject
from explorer.ui import answers, load, offers, state
from explorer.ui.offers import PARTS

Name = TypeVar("Name", bound=str)
VIEW = {
    "filter": Filter(),
    "color": offers.COLORS[0],
    "selection": None,
    "inspected": None,
    "pinned": None,
    "lesson": None,
}
"""What the browser may change besides query and target, as it is in a fresh session."""


WHY = "why"
"""The two classes that the Answer part compares, (P, Q) or None: in the address as numbers, such as why=8-3."""


def follow(run: Run) -> list[str]:
    """Take the state from the address where it changed by other means than our own clicks; what could not be found."""
    if state.get("shown-run") == run.key and not state.came_from_outside():
        return []
    said = state.address()
    state.raise_revision()
    if "run" not in said and state.get("shown-run") == run.key:  # back from another page: as it was left
        write(run)
        return []
    missing: list[str] = []
    row = _test_row(run, said.get("query"), missing)
    state.put("query", answers.first_query(run) if row is None else row)
    state.put("target", _one_of(TARGETS, said.get("target")))
    meta = load.meta(run)
    state.put("color", _one_of(offers.colors(meta), said.get("color")))
    state.put("filter", Filter.parse(said.get("filter"), len(meta.classes)))
    state.put("selection", Selection.parse(said.get("select")))
    state.put("inspected", _train_row(run, said.get("row"), missing))
    state.put("lesson", _train_row(run, said.get("taught"), missing) if offers.lessons(meta) else None)
    pinned = _test_row(run, said.get("pin"), missing)
    state.put("pinned", None if pinned is None else (pinned, _one_of(TARGETS, said.get("pin-target"))))
    state.put("part", _one_of(offers.parts(meta), said.get("part")))
    state.put(WHY, _two_classes(run, said.get(WHY)))
    state.put("against", _against(run, said.get("against"), missing))
    layouts = run.layouts()
    state.put("layout", said["map"] if said.get("map") in layouts else layouts[-1])
    state.put("shown-run", run.key)
    write(run)
    return missing


def write(run: Run) -> None:
    """Put the state into the address; what is as in a fresh session is not written."""
    wanted = {"run": run.key, "query": _test_id(run, state.get("query")), "target": state.get("target")}
    layouts = run.layouts()
    optional = {
        "map": "" if state.get("layout") == layouts[-1] else str(state.get("layout")),
        "color": "" if state.get("color") == offers.COLORS[0] else state.get("color"),
        "filter": state.get("filter").text(),
        "select": "" if state.get("selection") is None else state.get("selection").text(),
        "part": "" if state.get("part") == PARTS[0] else state.get("part"),
        "against": state.get("against") or "",
        WHY: "-".join(str(number) for number in state.get(WHY) or ()),
    }
    if state.get("inspected") is not None:
        optional["row"] = load.train_columns(run).ids.at([state.get("inspected")])[0]
    if state.get("lesson") is not None:
        optional["taught"] = load.train_columns(run).ids.at([state.get("lesson")])[0]
    if state.get("pinned") is not None:
        query, target = state.get("pinned")
        optional |= {"pin": _test_id(run, query), "pin-target": "" if target == TARGETS[0] else target}
    state.write_address(wanted | {name: value for name, value in optional.items() if value})


def select(run: Run, query: int, target: Target) -> None:
    """Make a test row and a target the selection; which classes are compared is a question about one prediction, and who
    asks about one wants to see its influence rather than a lesson."""
    if query != state.get("query"):
        state.put(WHY, None)
    if (query, target) != (state.get("query"), state.get("target")):
        state.put("lesson", None)
    state.put("query", query)
    state.put("target", target)
    write(run)


def inspect(run: Run, row: int | None) -> None:
    """Open the drawer on a training row, or close it."""
    state.put("inspected", row)
    write(run)


def teach(run: Run, row: int | None) -> None:
    """Color the map by what teaching a training row once changes, or by influence again."""
    state.put("lesson", row)
    if row is not None:
        state.put("color", offers.COLORS[0])
    write(run)


def oppose(run: Run, other: str) -> None:
    """Compare with the run of this name; None in the state stands for the newest that fits."""
    state.put("against", other)
    write(run)


def compare_classes(run: Run, why: tuple[int, int] | None) -> None:
    """Ask why the first class rather than the second; None stops comparing."""
    state.put(WHY, why)
    write(run)


def show_classes(run: Run, classes: tuple[int, ...]) -> None:
    """Filter map and list to these classes."""
    state.put("filter", replace(state.get("filter"), classes=classes))
    write(run)


def viewed(run: Run, said: Mapping[str, Any]) -> set[str]:
    """Take over what the browser says of filter, color, selection, inspected row, pin and lesson; the names that changed."""
    meta = load.meta(run)
    pinned = said.get("pinned")
    pinned = pinned if isinstance(pinned, dict) and _fits(pinned.get("query"), meta.test) else None
    found = {
        "filter": Filter.from_data(said.get("filter"), len(meta.classes)),
        "color": _one_of(offers.colors(meta), said.get("color")),
        "selection": Selection.from_data(said.get("selection")),
        "inspected": said.get("inspected") if _fits(said.get("inspected"), meta.train) else None,
        "pinned": None if pinned is None else (pinned["query"], _one_of(TARGETS, pinned.get("target"))),
        "lesson": said.get("lesson") if offers.lessons(meta) and _fits(said.get("lesson"), meta.train) else None,
    }
    changed = {name for name, value in found.items() if state.get(name, VIEW[name]) != value}
    for name in changed:
        state.put(name, found[name])
    if changed:
        write(run)
    return changed


def as_data() -> dict[str, Any]:
    """Filter, color, selection, inspected row, pin and lesson as the components take them."""
    selection, pinned = state.get("selection"), state.get("pinned")
    return {
        "filter": state.get("filter", VIEW["filter"]).as_data(),
        "color": state.get("color", offers.COLORS[0]),
        "selection": None if selection is None else selection.as_data(),
        "inspected": state.get("inspected"),
        "pinned": None if pinned is None else {"query": pinned[0], "target": pinned[1]},
        "lesson": state.get("lesson"),
    }


def _one_of(names: tuple[Name, ...], said: object) -> Name:
    return next((name for name in names if name == said), names[0])


def _fits(row: object, size: int) -> bool:
    return isinstance(row, int) and not isinstance(row, bool) and 0 <= row < size


def _two_classes(run: Run, said: str | None) -> tuple[int, int] | None:
    """Two different classes of the run by number, as in the address."""
    parts = (said or "").split("-")
    if len(parts) != 2 or not all(part.isdecimal() and len(part) < 10 for part in parts):
        return None
    first, second = (int(part) for part in parts)
    return (first, second) if first != second and max(first, second) < len(load.meta(run).classes) else None


def _test_row(run: Run, name: str | None, missing: list[str]) -> int | None:
    row = None if name is None else answers.query_by_id(run, name)
    if name is not None and row is None:
        examples = ", ".join(load.table(run, "queries")["id"].astype(str).head(3))
        missing.append(f"This run has no test example {name!r}; ids look like {examples}.")
    return row


def _train_row(run: Run, name: str | None, missing: list[str]) -> int | None:
    if name is None:
        return None
    ids = load.train_table(run)["id"].astype(str)
    found = ids[ids == name]
    if found.empty:
        missing.append(f"This run has no training example {name!r}; ids look like {', '.join(ids.head(3))}.")
        return None
    return int(cast(int, found.index[0]))


def _against(run: Run, name: str | None, missing: list[str]) -> str | None:
    if name is None or any(other.key == name for other in same_subject(run)):
        return name
    missing.append(f"No run {name!r} here explains the same model and data by another method.")
    return None


def _test_id(run: Run, query: int) -> str:
    return str(answers.query_row(run, query)["id"])
