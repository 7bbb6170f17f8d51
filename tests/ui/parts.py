"""What the tests of the panel's parts share: a recorder in place of the clickable HTML, and a page that holds one part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from explorer.ui import scatter
from tests.ui.test_views import Tags

LIMIT_S = 60


@dataclass
class Screen:
    """What a part put on the screen as clickable HTML, by its key, in the run of the page that was last."""

    html: dict[str, str] = field(default_factory=dict)
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)

    def show_tiles(self, html: str, *, run: str, key: str, **callbacks: Any) -> None:
        self.html[key] = html
        self.callbacks[key] = callbacks

    def tags(self, key: str) -> Tags:
        return Tags(self.html[key])


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """Records what `scatter.show_tiles` is given."""
    recorder = Screen()
    monkeypatch.setattr(scatter, "show_tiles", recorder.show_tiles)
    return recorder


def page(part: Callable[[], None]) -> AppTest:
    """A page with only this part on it, run once without an exception."""

    def script(part):  # no annotations: it runs as a script of its own
        part()

    app = AppTest.from_function(script, default_timeout=LIMIT_S, kwargs={"part": part})
    app.run()
    assert [found.message for found in app.exception] == []
    return app


def nothing(*_: object) -> None:
    """A callback that nobody listens to."""


def buttons(tags: Tags, action: str) -> list[int]:
    """Rows of the elements that do `action` (inspect or query) when clicked; each can be reached by keyboard and has a name."""
    found = [attributes for _, attributes in tags.seen if f"data-{action}" in attributes]
    for attributes in found:
        assert (attributes["role"], attributes["tabindex"]) == ("button", "0")
        assert attributes["aria-label"]
        assert attributes["data-point"] is not None
    return [int(attributes[f"data-{action}"] or -1) for attributes in found]
