"""What does the user call a layer of a model of sequences? Names with and without what the bound model puts before them.

Turns settings, stats and messages to and fro; knows no method in particular.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from explorer.contracts import Method, Task
from explorer.errors import ExplorerError
from explorer.jobs.settings import checked
from explorer.token_models import PREFIX

_PREFIXED = re.compile(rf"(?<![\w.]){re.escape(PREFIX)}")


def method_for(task: Task, asked: Mapping[str, Any]) -> Method:
    """The method of a spec (`name`, `settings`) for data of that task.

    Raises:
        SettingsError: as `checked`.
    """
    given = asked["settings"]
    return checked(asked["name"], prefixed(given) if task == "sequence" else given)[0]


def prefixed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the names of layers as the bound model has them, also those of a method within a method."""
    found = dict(settings)
    if isinstance(layers := found.get("layers"), str):
        layers = [name.strip() for name in layers.split(",")]
    if isinstance(layers, list | tuple):
        found["layers"] = tuple(f"{PREFIX}{name}" for name in layers)
    if isinstance(inner := found.get("settings"), Mapping):
        found["settings"] = prefixed(inner)
    return found


def named(found: Any) -> Any:
    """Stats with the names of layers as the user's model has them."""
    if isinstance(found, str):
        return _PREFIXED.sub("", found)
    if isinstance(found, Mapping):
        return {named(key): named(value) for key, value in found.items()}
    return [named(value) for value in found] if isinstance(found, list | tuple) else found


@contextmanager
def own_names() -> Iterator[None]:
    """Messages name layers as the user's model does."""
    try:
        yield
    except ExplorerError as error:
        error.args = tuple(named(part) for part in error.args)
        raise
