"""Where do examples come from: the kinds of source by name, and sources from specs and from command-line words.

Importing this loads neither scikit-learn nor torch; a source brings what it needs when it loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from explorer.contracts import Source, Task
from explorer.errors import SettingsError
from explorer.sources.array_file import ArrayFile
from explorer.sources.digits import Digits
from explorer.sources.planted import Planted
from explorer.sources.tables import BreastCancer, Wine
from explorer.sources.texts import TextLines

SOURCES: dict[str, type[Source]] = {
    source.kind: source for source in (Digits, BreastCancer, Wine, ArrayFile, TextLines, Planted)
}
"""Every kind of source by the `kind` in its spec."""

BUILT_IN: dict[str, type[Source]] = {source.kind: source for source in (Digits, BreastCancer, Wine)}
"""The sources that need no settings: what `--data` takes by name."""


def from_spec(spec: Mapping[str, Any]) -> Source:
    """The source that wrote `spec`. Raises SettingsError for an unknown kind and for unknown or missing settings."""
    if not isinstance(spec, Mapping):
        raise SettingsError(f"Expected a source's settings as a mapping with `kind`; found {spec!r}.")
    settings = dict(spec)
    kind = settings.pop("kind", None)
    if kind not in SOURCES:
        raise SettingsError(f"Expected a kind of source among {', '.join(SOURCES)}; found {kind!r}.")
    described = fields(SOURCES[kind])  # type: ignore[arg-type]  # every source is a dataclass
    unknown = sorted(set(settings) - {field.name for field in described})
    missing = [field.name for field in described if field.default is MISSING and field.name not in settings]
    if unknown or missing:
        raise SettingsError(
            f"Expected the settings {', '.join(field.name for field in described) or 'none'} for the source {kind!r}; "
            f"found unknown: {', '.join(unknown) or 'none'}, missing: {', '.join(missing) or 'none'}."
        )
    if "source" in settings:
        settings["source"] = from_spec(settings["source"])
    return SOURCES[kind](**settings)


def from_name(text: str) -> Source:
    """The source that `explorer run --data TEXT` means: a name in `BUILT_IN`, or the path of an .npz or .jsonl file.

    Raises SettingsError for anything else, DataError if the file is not there.
    """
    if text in BUILT_IN:
        return BUILT_IN[text]()
    for ending, source in ((".npz", ArrayFile), (".jsonl", TextLines)):
        if text.lower().endswith(ending):
            return source(text)
    raise SettingsError(
        f"Expected data to be one of {', '.join(BUILT_IN)} or a path ending in .npz or .jsonl; found {text!r}."
    )


def task_hint(source: Source) -> Task:
    """What a source's examples look like before they are loaded: "sequence" for texts and token numbers, else a task of one
    target an example (called "classification", whichever it is)."""
    if isinstance(source, Planted):
        return task_hint(source.source)
    sequences = isinstance(source, TextLines) or (isinstance(source, ArrayFile) and source.asks_sequences())
    return "sequence" if sequences else "classification"
