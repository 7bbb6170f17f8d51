"""What does a language model make of new facts and rules? Experiments on worlds of invented things, below the folder of runs.

Reads and writes small files and starts workers; `explorer.jobs.world_stage` teaches. Loads nothing heavy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from explorer.errors import ModelError, RunError, SettingsError
from explorer.jobs import process
from explorer.jobs.requests import key_of
from explorer.jobs.state import JobState, read_state
from explorer.laboratory.settings import OptimizerName, Precision, Teaching
from explorer.laboratory.world import World, generated, parse, rendered
from explorer.store import bundle, read_json, write_json

FOLDER, COMMAND = "worlds", "work-world"
SCORECARD, MATRIX = "scorecard.json", "matrix.safetensors"
TINY = "tiny"
"""The model that is trained on the world itself."""
STAGES = ("language model", "facts", "conclusions")


@dataclass(frozen=True)
class Asked:
    """One experiment: the `text` of a world, and "tiny" or a folder that `transformers` reads as `model`.

    What follows is that of `explorer.laboratory.settings.Teaching`; `seed` draws the tiny transformer and intervals too.

    Raises:
        DataError: a world that cannot be read, with the line.
        SettingsError: a world without anything new, or settings out of range.
    """

    text: str
    model: str = TINY
    optimizer: OptimizerName = "sgd"
    steps: int = 1
    rate: float | None = None
    layers: tuple[str, ...] | None = None
    rank: int | None = None
    dtype: Precision = "float64"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", None if self.layers is None else tuple(self.layers))
        if not self.world.new:
            raise SettingsError(
                "Expected a world with something new to teach; found nothing below 'new:'. Write facts or rules there."
            )
        self.teaching  # noqa: B018 - checks the rest

    @property
    def world(self) -> World:
        """The world of the text."""
        return parse(self.text)

    @property
    def teaching(self) -> Teaching:
        """How each fact is taught."""
        return Teaching(self.optimizer, self.steps, self.rate, self.layers, self.rank, seed=self.seed, dtype=self.dtype)


@dataclass(frozen=True)
class Experiment:
    """One experiment: its name, what it is, how far its worker is, its scorecard (None before it is done), and its folder."""

    key: str
    asked: Asked
    state: JobState
    found: dict[str, Any] | None
    folder: Path


def default(seed: int = 0) -> str:
    """The text of a world that is made up: the one to begin with, and to edit."""
    return rendered(generated(seed=seed))


def ask(root: Path, asked: Asked) -> str:
    """Lay the experiment out below the folder of runs, and its name; the same one has the same name. Starts nothing.

    Raises:
        ModelError: no folder of a model there.
        StorageError: the folder cannot be written.
    """
    told: dict[str, Any] = asdict(asked)
    if asked.model != TINY:
        folder = Path(asked.model).expanduser().absolute()
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"Expected 'tiny' or the folder of a language model, with a config.json; found none at {folder}. Give the "
                "folder that save_pretrained wrote."
            )
        told["model"] = str(folder)
        told["files"] = _files(folder)
    key = key_of(told)
    file = root / FOLDER / key / "asked.json"
    if not file.exists():
        write_json(file, told)
    return key


def listed(root: Path) -> list[Experiment]:
    """All experiments below the folder of runs, the one asked last coming first."""
    asked = (root / FOLDER).glob("*/asked.json")
    found = sorted(asked, key=lambda file: (file.stat().st_mtime_ns, file.parent.name), reverse=True)
    return [read(file.parent) for file in found]


def find(root: Path, key: str) -> Experiment:
    """The experiment of this name.

    Raises:
        RunError: there is none.
    """
    folder = root / FOLDER / key
    if not key or folder.parent != root / FOLDER or not (folder / "asked.json").is_file():
        raise RunError(f"Expected the name of a world in {root / FOLDER}; found {key!r}. Ask for the experiment first.")
    return read(folder)


def read(folder: Path) -> Experiment:
    """The experiment in a folder."""
    told: Mapping[str, Any] = read_json(folder / "asked.json")
    asked = Asked(**{name: value for name, value in told.items() if name != "files"})
    card = read_json(folder / SCORECARD) if (folder / SCORECARD).exists() else None
    return Experiment(folder.name, asked, read_state(folder), card, folder)


def start(root: Path, key: str) -> JobState:
    """See that a worker is at the experiment, and return its state; what is done or being worked on is left alone."""
    experiment = find(root, key)
    if experiment.state.active or experiment.state.state == "done":
        return experiment.state
    return process.launch(experiment.folder, COMMAND)


def cancel(root: Path, key: str) -> None:
    """Ask its worker to stop at the next block; `start` goes on from there."""
    process.cancel_at(find(root, key).folder)


def matrices(experiment: Experiment) -> dict[str, NDArray[Any]] | None:
    """The arrays of an experiment, None before they are there; statements and questions are those of its scorecard.

    `values` (in the weights), `prompt` and `first_order` `[i, j]` float64, nats: what statement i does to statement j;
    `asked_values` and `asked_prompt` `[i, a]` the same for further questions; `distance` `[i, j]` of words; `own_loss` `[i, 2]`;
    `before` `[j]` log p of each statement.
    """
    file = experiment.folder / MATRIX
    return bundle(file) if file.exists() else None


def _files(folder: Path) -> str:
    """Sizes and times of the model's files: another model in the same folder is another experiment."""
    files = sorted(file for pattern in ("*.safetensors", "*.json") for file in folder.glob(pattern))
    return json.dumps([[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files])
