"""What JavaScript, CSS and HTML do the components consist of?

A Streamlit component takes one string of each, so the files beside this one are joined in order. They are written
to be joined: no imports, one scope, and only the last one has an `export default`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

SHARED_JS = ("bus.js", "common.js", "queries.js", "heard.js")
MAP_JS = (
    *SHARED_JS,
    "turns.js",
    "camera.js",
    "address.js",
    "points.js",
    "grid.js",
    "layouts.js",
    "influence.js",
    "explained.js",
    "shown.js",
    "polygon.js",
    "strong.js",
    "colors.js",
    "density.js",
    "shaders.js",
    "layers.js",
    "raster.js",
    "gl.js",
    "pace.js",
    "marks.js",
    "picture.js",
    "seen.js",
    "lasso.js",
    "gestures.js",
    "hand.js",
    "words.js",
    "legend.js",
    "passages.js",
    "face.js",
    "png.js",
    "map.js",
)
LIST_JS = (*SHARED_JS, "differs.js", "rows.js", "sorting.js", "list.js")
ANSWER_JS = (*SHARED_JS, "tiles.js", "answers.js", "answer.js")
PART_JS = (*SHARED_JS, "tiles.js", "part.js")
BAR_JS = (*SHARED_JS, "histogram.js", "picker.js", "help.js", "bar.js")


@dataclass(frozen=True)
class Assets:
    """What one component is made of."""

    html: str
    css: str
    js: str


def _joined(names: tuple[str, ...]) -> str:
    folder = files(__package__)
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


@cache
def map_assets() -> Assets:
    """The map: everything under `MAP_JS`."""
    return Assets(html=_joined(("map.html",)), css=_joined(("base.css", "map.css")), js=_joined(MAP_JS))


@cache
def list_assets() -> Assets:
    """The list: everything under `LIST_JS`."""
    return Assets(html=_joined(("list.html",)), css=_joined(("base.css", "list.css")), js=_joined(LIST_JS))


@cache
def bar_assets() -> Assets:
    """The filter bar: everything under `BAR_JS`."""
    return Assets(html=_joined(("bar.html",)), css=_joined(("base.css", "bar.css", "help.css")), js=_joined(BAR_JS))


@cache
def answer_assets() -> Assets:
    """The answer: everything under `ANSWER_JS`."""
    return Assets(html=_joined(("answer.html",)), css=_joined(("answer.css",)), js=_joined(ANSWER_JS))


@cache
def part_assets() -> Assets:
    """HTML of a part of the panel: everything under `PART_JS`."""
    return Assets(html=_joined(("part.html",)), css=_joined(("answer.css",)), js=_joined(PART_JS))
