"""How long does the job's longest stage take beside the bare matrix products that it cannot do without?

Run with `make bench`, or `python -m tests.bench.scores [--small] [--run DIR] [--json OUT]`. Times are medians of three, the
bare products and ours by turns in one process with the threads of a job; memory is taken in a process for each row.

The bare products of q queries, n training examples and a head of k outputs x p features (a bias counts as a feature), for
256 queries at a time, as a block of the job has, into memory that is there already, nothing done with the result:

- last layer: float32 [256, k·p] x [k·p, n], the gradients (k·p numbers for each training example) built beforehand;
- second opinion (gradient dot): float32 [256, k] x [k, n] and [256, p] x [p, n].

Ours is `jobs.scoring.score_blocks` with what the pipeline does with a block: the network over the queries, the solves, the
scores, top lists, int8 rows, trust, and both files flushed to the disk.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch, as `jobs.process` starts its workers

import numpy as np
import psutil
import safetensors.torch
import torch

from explorer.contracts import Dataset, Fitted, Queries
from explorer.influence import LastLayer, method_from
from explorer.jobs.pipeline import second_opinion, write_block
from explorer.jobs.planning import ingredients_of
from explorer.jobs.process import usable_cores
from explorer.jobs.scoring import score_blocks
from explorer.jobs.subject import make_subject
from explorer.sources.arrays import dataset_from_arrays
from explorer.store import Run, read_json
from explorer.store.run import BLOCK

FILES = 40
"""Blocks kept on the disk at once (10,240 queries): more queries overwrite the first."""
MEGABYTE = 2**20


@dataclass(frozen=True)
class Plan:
    """What to measure: a run, or a synthetic problem of `train` examples; queries of the time and of the memory rows."""

    run: Path | None = None
    train: int = 60_000
    queries: int = 10_000
    memory: tuple[int, ...] = (1_000, 10_000, 50_000)
    repeats: int = 3


SMALL = Plan(train=20_000, queries=300, memory=(300, 3_000), repeats=1)


@dataclass(frozen=True)
class Timed:
    """Median seconds of the bare products and of ours."""

    what: str
    bare: float
    ours: float
    ratio: float


@dataclass(frozen=True)
class Measured:
    """Peak growth of resident memory (MB) while so many queries are scored, and the seconds that took."""

    queries: int
    megabytes: float
    seconds: float


@dataclass(frozen=True)
class Problem:
    """What both sides work on."""

    data: Dataset
    fitted: Fitted
    second: Fitted

    @classmethod
    def of(cls, plan: Plan) -> Problem:
        torch.set_num_threads(max(1, usable_cores() - 1))
        data, fitted = _synthetic(plan.train) if plan.run is None else _stored(Run.at(plan.run))
        second = second_opinion(fitted, fitted.subject)
        if second is None:
            raise SystemExit(f"Expected a run with a second opinion; found none in {plan.run}. Choose another run.")
        return cls(data, fitted, second)


def _synthetic(train: int) -> tuple[Dataset, Fitted]:
    """Ten clouds in 64 dimensions and a short training of a network 64-64-10: the head of the project's MNIST network."""
    draw = np.random.default_rng(0)
    centers, labels = draw.normal(size=(10, 64)), draw.integers(10, size=train + 10_000)
    x = (centers[labels] + 1.5 * draw.normal(size=(len(labels), 64))).astype(np.float32)
    data = dataset_from_arrays("clouds", x[:train], labels[:train], x[train:], labels[train:])
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for start in range(0, min(train, 20_000), 200):
        rows = np.arange(start, min(start + 200, train))
        loss = torch.nn.functional.cross_entropy(model(data.train.batch(rows)), torch.from_numpy(labels[rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return data, LastLayer().fit(make_subject(model, data, 5e-4))


def _stored(run: Run) -> tuple[Dataset, Fitted]:
    ingredients = ingredients_of(run)
    data = ingredients.dataset()
    model = ingredients.model(data)
    model.load_state_dict(safetensors.torch.load((run.path / "model.safetensors").read_bytes()))
    subject = make_subject(model, data, float(run.spec["recipe"]["weight_decay"]))
    method = method_from(run.spec["method"]["name"], run.spec["method"]["settings"])
    tensors = safetensors.torch.load((run.path / "fitted.safetensors").read_bytes())
    return data, method.restore(subject, tensors, read_json(run.path / "fitted.json"))


def ours(problem: Problem, queries: int, *, alone: bool) -> float:
    """Seconds of the job's stage; test rows repeat where there are fewer than `queries`."""
    rows = np.arange(queries, dtype=np.int64) % len(problem.data.test)
    with tempfile.TemporaryDirectory() as folder:

        def blocks() -> Iterator[tuple[Queries, partial[None]]]:
            for number, start in enumerate(range(0, queries, BLOCK)):
                write = partial(write_block, Path(folder), "label", number % FILES * BLOCK)
                yield Queries(problem.data.test, rows[start : start + BLOCK]), write

        began = time.perf_counter()
        second = None if alone else problem.second
        score_blocks(problem.fitted, second, blocks(), len(problem.data.train), 0)
        return time.perf_counter() - began


def bare(problem: Problem, queries: int) -> tuple[float, float]:
    """Seconds of the bare products of the last layer, and of the second opinion."""
    tensors = problem.second.tensors()
    h, e = tensors["features"], tensors["errors"]
    gradients = (e.unsqueeze(2) * h.unsqueeze(1)).flatten(1)
    left = [torch.randn(BLOCK, right.shape[1]) for right in (gradients, e, h)]
    out = torch.zeros(BLOCK, len(h))
    seconds = []
    for some, right in zip(left, (gradients, e, h), strict=True):
        began = time.perf_counter()
        for start in range(0, queries, BLOCK):
            count = min(BLOCK, queries - start)
            torch.mm(some[:count], right.T, out=out[:count])
        seconds.append(time.perf_counter() - began)
    return seconds[0], seconds[1] + seconds[2]


def timed(plan: Plan) -> list[Timed]:
    """The time rows, ours and the bare products by turns after one warm-up block of each."""
    problem = Problem.of(plan)
    bare(problem, BLOCK)
    ours(problem, BLOCK, alone=False)
    rounds = []
    for _ in range(plan.repeats):
        one, two = bare(problem, plan.queries)
        rounds.append(
            (one, ours(problem, plan.queries, alone=True), one + two, ours(problem, plan.queries, alone=False))
        )
    medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
    ratios = [statistics.median(row[at + 1] / row[at] for row in rounds) for at in (0, 2)]
    return [
        Timed("last layer", medians[0], medians[1], ratios[0]),
        Timed("last layer and second opinion", medians[2], medians[3], ratios[1]),
    ]


def measured(plan: Plan, queries: int) -> Measured:
    """One memory row; meant for a process of its own."""
    problem = Problem.of(plan)
    process, done = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    seconds = ours(problem, queries, alone=False)
    done.set()
    watcher.join()
    return Measured(queries, (peak - before) / MEGABYTE, seconds)


def main(words: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scores", description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a few seconds, to see that it works")
    parser.add_argument("--run", type=Path, help="folder of a finished run to take instead of the synthetic problem")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    asked = parser.parse_args(words)
    plan = SMALL if asked.small else Plan()
    plan = Plan(asked.run, plan.train, plan.queries, plan.memory, plan.repeats)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        times = pool.apply(timed, (plan,))
        memory = [pool.apply(measured, (plan, queries)) for queries in plan.memory]
    where = f"run {plan.run.name}" if plan.run else f"synthetic, {plan.train:,} training examples, head 10 x 65"
    print(f"{where}; {max(1, usable_cores() - 1)} threads; load {os.getloadavg()[0]:.1f}; torch {torch.__version__}")
    print(f"\n{plan.queries:,} queries                  bare s   ours s   ratio")
    for row in times:
        print(f"{row.what:<30} {row.bare:6.1f}   {row.ours:6.1f}   {row.ratio:5.2f}")
    print("\nqueries   peak growth MB   seconds")
    for line in memory:
        print(f"{line.queries:7,}   {line.megabytes:14.0f}   {line.seconds:7.1f}")
    if asked.json is not None:
        found = {"times": [asdict(row) for row in times], "memory": [asdict(line) for line in memory]}
        asked.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
