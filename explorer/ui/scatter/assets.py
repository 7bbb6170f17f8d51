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
    "camera.js",
    "points.js",
    "layouts.js",
    "influence.js",
    "gl.js",
    "marks.js",
    "picture.js",
    "gestures.js",
    "words.js",
    "face.js",
    "map.js",
)
LIST_JS = (*SHARED_JS, "rows.js", "list.js")


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
