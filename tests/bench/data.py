"""Which runs are measured? The one given, MNIST computed once, or a made-up one; kept in a folder of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from explorer.jobs.planning import Request, plan
from explorer.jobs.state import read_state
from explorer.store import Run, create
from tests.bench import synthetic_run
from tests.bench.servers import BenchError

MNIST = "images/mnist.npz"
QUERIES = 512


def cache() -> Path:
    """The folder of these runs: $EXPLORER_BENCH, else below ~/.cache."""
    return Path(os.environ.get("EXPLORER_BENCH") or "~/.cache/influence-explorer-bench").expanduser().absolute()


def given(path: Path) -> Run:
    """The run of a directory, which must be done."""
    run = Run.at(path.expanduser().absolute())
    state = read_state(run.path)
    if state.state != "done":
        raise BenchError(f"Expected a run that is done in {path}; found it {state.state}. {state.reason}")
    return run


def mnist() -> Run | None:
    """60,000 + 10,000 digits, computed where they are not yet; None without the data (EXPLORER_DATA)."""
    source = Path(os.environ.get("EXPLORER_DATA") or "/nowhere", MNIST)
    if not source.is_file():
        return None
    run = create(cache(), plan(Request(str(source))))
    if read_state(run.path).state != "done":
        print(f"Computing the run of {MNIST} once, in {run.path}: minutes.", flush=True)
        command = [sys.executable, "-P", "-m", "explorer", "run", "--data", str(source), "--runs", str(cache())]
        if subprocess.run(command).returncode != 0:
            raise BenchError(
                f"Expected the run of {source} to be computed; its error is above. Give another with --run."
            )
    return given(run.path)


def synthetic(train: int, test: int, queries: int = QUERIES) -> Run:
    """A made-up run of this size, written where it is not yet."""
    spec = synthetic_run.spec(train, test, queries, seed=0)
    if read_state(create(cache(), spec).path).state != "done":
        print(f"Writing a made-up run of {train:,} + {test:,} points once, in {cache()}.", flush=True)
    return synthetic_run.write(cache(), train, test, queries)
