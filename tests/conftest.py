"""One small wine run, computed in this process; the slow UMAP stage is replaced where it is not the subject."""

import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch: spinning threads stall on busy cores

import pytest
import torch

from explorer import maps
from explorer.contracts import Recipe
from explorer.jobs.pipeline import STAGES, run_pipeline
from explorer.jobs.planning import Request, ingredients_of, plan
from explorer.jobs.process import run_as_worker
from explorer.store import Run, create

SMALL = Request("wine", flip=0.1, duplicate=0.05, recipe=Recipe(epochs=5))


def compute(root: Path, request: Request) -> Run:
    """The run of a request, computed here and now; PCA stands in for UMAP, whose first call compiles for ten seconds."""
    run = create(root, plan(request))
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maps, "umap", lambda features, seed, progress: maps.pca(features))
        state = run_as_worker(run, len(STAGES), lambda writer: run_pipeline(run, ingredients_of(run), writer))
    torch.set_num_threads(threads)
    assert state.state == "done", state.reason
    return run


COMPILE = "import numpy; from explorer import maps; maps.umap(numpy.random.default_rng(0).normal(size=(60, 4)))"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Before several workers start: on a fresh machine one process compiles UMAP, or all of them would at once."""
    if session.config.getoption("numprocesses", None) and not hasattr(session.config, "workerinput"):
        subprocess.run([sys.executable, "-c", COMPILE], check=True)


LONGEST = (
    "test_process.py",
    "test_cli.py",
    "test_app.py",
    "test_access.py",
    "test_asking.py",
    "test_scatter.py",
    "test_helper.py",
    "test_sequence_runs.py",
    "test_texts_browser.py",
    "test_memorized_browser.py",
)
"""Files that take a minute or more: begun first, so that none of them is what all others wait for at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; the rest as they were collected."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def wine(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Wine with planted faults, explained in full; read it, do not write to it."""
    return compute(tmp_path_factory.mktemp("runs"), SMALL)
