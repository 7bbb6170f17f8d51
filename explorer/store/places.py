"""Which directory is which run? Names from content, a root folder, and finding a run by what a person types.

A run's name is the hash of its spec, so the same question always leads to the same directory; nothing is overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from explorer.contracts import RunSpec
from explorer.errors import RunError
from explorer.store.files import storage_error, write_json
from explorer.store.run import Run

ENVIRONMENT = "EXPLORER_RUNS"
KEY_LENGTH = 12
SUBJECT = ("source", "model", "recipe", "seed")
"""Parts of a spec that say what is explained; the others say how, and how much of it."""


def runs_root(folder: str | Path | None = None) -> Path:
    """The folder of all runs: `folder`, else the environment variable EXPLORER_RUNS, else `runs` here."""
    return Path(folder or os.environ.get(ENVIRONMENT) or "runs").expanduser().absolute()


def key_of(spec: RunSpec) -> str:
    """The run's name: 12 hex digits of the hash of the canonical JSON. File paths do not count, file contents do."""
    canonical = json.dumps(_without_paths(_told(spec)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:KEY_LENGTH]


def create(root: Path, spec: RunSpec) -> Run:
    """The run directory of `spec`, made if it is not there.

    Raises:
        StorageError: the folder cannot be written.
        RunError: a directory of this name holds another format version.
    """
    path = root / key_of(spec)
    if (path / "spec.json").exists():
        return Run.at(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, path) from error
    write_json(path / "spec.json", _told(spec))
    return Run.at(path)


def list_runs(root: Path) -> list[Path]:
    """All run directories under `root`, newest first; directories of other programs are ignored."""
    if not root.is_dir():
        return []
    found = [entry for entry in root.iterdir() if (entry / "spec.json").is_file()]
    return sorted(found, key=lambda path: (path / "spec.json").stat().st_mtime, reverse=True)


def find(root: Path, name: str, *, paths: bool = True) -> Run:
    """A run by its name, an unambiguous beginning of it, its path (unless `paths` is False), or "latest".

    Raises:
        RunError: no run or several runs fit, or the run was written by another format version.
    """
    as_path = Path(name).expanduser()
    if paths and (as_path / "spec.json").is_file():
        return Run.at(as_path.absolute())
    runs = list_runs(root)
    if name == "latest" and runs:
        return Run.at(runs[0])
    matches = [path for path in runs if path.name.startswith(name)] if name else []
    if len(matches) == 1:
        return Run.at(matches[0])
    if len(matches) > 1:
        raise RunError(
            f"Expected one run whose name begins with {name!r}; found {len(matches)}: "
            f"{', '.join(path.name for path in matches[:5])}. Type more of the name."
        )
    known = f"{len(runs)} others ({', '.join(path.name for path in runs[:3])}, ...)" if runs else "no runs at all"
    raise RunError(
        f"Expected a run named {name!r} in {root}; found {known}. See `explorer runs`, or make one with `explorer demo`."
    )


def subject_of(run: Run) -> str:
    """What a run explains, as a hash: equal for runs that agree in source, model, recipe and seed, whatever their method.

    File paths do not count, file contents do. For objects in memory the model's part is the key of the subject.
    """
    asked = {name: run.spec.get(name) for name in SUBJECT}
    canonical = json.dumps(_without_paths(asked), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def same_subject(run: Run) -> list[Run]:
    """Other runs in the folder of `run` that explain the same subject by another method (or settings), newest first.

    Reads the spec of every run there; what cannot be read as a run of this format is left out.
    """
    subject, found = subject_of(run), []
    for path in list_runs(run.path.parent):
        try:
            other = Run.at(path)
        except RunError:
            continue
        if other.spec.get("method") != run.spec.get("method") and subject_of(other) == subject:
            found.append(other)
    return found


def _told(spec: RunSpec) -> dict[str, Any]:
    """A spec as JSON; evidence that is not asked for is left out, so that runs keep the names they had before it."""
    told = asdict(spec)
    return told if spec.evidence else {name: value for name, value in told.items() if name != "evidence"}


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_paths(inner) for key, inner in value.items() if key != "path"}
    if isinstance(value, list | tuple):
        return [_without_paths(inner) for inner in value]
    return value
