"""How fast is EK-FAC over all layers, how true stays it when it is made faster, and how does it grow?

Run with `make bench`, or `python -m tests.bench.engine [--small] [--peers] [--json OUT]`. One thread each. Rounds go by turns
through everything that is compared, in one process; times are medians of rounds and ratios medians of a round's ratios.
The whole train x query matrix counts from the fitting to the last score. Exact is EK-FAC in float64.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from explorer.influence.ekfac import EKFAC
from tests.bench import engine_growth
from tests.bench.engine_growth import Grown
from tests.bench.engine_work import (
    Floor,
    Kronfluence,
    Result,
    checkpoint,
    layers_of,
    run_ours,
    spearman,
    spearman_of_rows,
)
from tests.bench.fidelity_problems import MissingDataError
from tests.bench.fidelity_trained import Trained

PEER, FROZEN = PEERS = "kronfluence", "kronfluence, no pauses"
EXACT, DEFAULT = "EKFAC(tolerance=0)", "EKFAC()"


@dataclass(frozen=True)
class Plan:
    """What to measure. `speed` problems are timed (the peer beside, if asked for), `ranks` scored at every rank."""

    speed: tuple[str, ...] = ("digits", "fashion")
    ranks: tuple[int, ...] = (8, 12, 16, 24)
    problems: tuple[str, ...] = ("digits", "digits-smooth", "fashion", "tabular", "text")
    repeats: int = 7
    peers: bool = False
    queries: tuple[int, ...] = (1_000, 10_000, 50_000)
    train: tuple[int, ...] = (3_000, 10_000, 30_000, 60_000)
    widths: tuple[int, ...] = (12, 110, 680, 2790)
    asked: int = 256


SMALL = Plan(("small",), (12,), ("small",), 1, False, (300, 600), (300, 600), (4, 8), 16)


@dataclass(frozen=True)
class Timed:
    """One row of the speed table: seconds of every round, stages of the median round, agreement with exact EK-FAC."""

    what: str
    seconds: tuple[float, ...]
    stages: dict[str, float]
    all_scores: float
    each_query: float
    ratios: tuple[float, ...]
    """The peer's seconds over this row's, round by round; empty without the peer."""
    frozen_ratios: tuple[float, ...] = ()
    """The same where the peer's calls of the garbage collector cost nothing."""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Speed:
    """One problem's table."""

    problem: str
    title: str
    passes: float
    products: float
    repeats_to_the_bit: bool
    rows: tuple[Timed, ...]


def speed(name: str, plan: Plan) -> Speed:
    """Times and agreement on one problem; meant for a process of its own."""
    torch.set_num_threads(1)
    found = checkpoint(name)
    exact = run_ours(found, EKFAC(tolerance=0.0), double=True).values
    floor = Floor.of(found, layers_of(found))
    work: dict[str, Callable[[], Result]] = {EXACT: partial(run_ours, found, EKFAC(tolerance=0.0))}
    work[DEFAULT] = partial(run_ours, found, EKFAC())
    work |= {f"EKFAC(rank={rank})": partial(run_ours, found, EKFAC(rank=rank)) for rank in plan.ranks}
    with ExitStack() as stack:
        if plan.peers:
            peer = stack.enter_context(Kronfluence(found))
            work = {PEER: peer, FROZEN: partial(peer, "frozen")} | work
        return compared(found, plan, floor, work, exact)


def compared(
    found: Trained, plan: Plan, floor: Floor, work: dict[str, Callable[[], Result]], exact: torch.Tensor
) -> Speed:
    """Everything by turns after a first run of each, which tells the agreement."""
    first = {what: run() for what, run in work.items()}
    same = torch.equal(first[EXACT].values, work[EXACT]().values)
    floor.passes(), floor.products()
    rounds, passes, products = [], [], []
    for _ in range(plan.repeats):
        rounds.append({what: run() for what, run in work.items()})
        passes.append(floor.passes())
        products.append(floor.products())
    rows = [_timed(what, rounds, first[what], exact) for what in work]
    title = found.problem.title
    return Speed(found.problem.name, title, statistics.median(passes), statistics.median(products), same, tuple(rows))


def _timed(what: str, rounds: list[dict[str, Result]], first: Result, exact: torch.Tensor) -> Timed:
    seconds = tuple(each[what].seconds for each in rounds)
    stages = {stage: statistics.median(each[what].stages[stage] for each in rounds) for stage in rounds[0][what].stages}
    ratios = [tuple(each[peer].seconds / each[what].seconds for each in rounds if peer in each) for peer in PEERS]
    agreement = spearman(first.values, exact), spearman_of_rows(first.values, exact)
    return Timed(what, seconds, stages, *agreement, *ratios)


def agreement(name: str, ranks: Sequence[int]) -> list[tuple[str, str, float, float, float]]:
    """For each rank: problem, setting, Spearman over all scores, mean over queries, and the error the method itself tells."""
    torch.set_num_threads(1)
    found = checkpoint(name)
    exact = run_ours(found, EKFAC(tolerance=0.0), double=True).values
    rows = []
    methods = {EXACT: EKFAC(tolerance=0.0), DEFAULT: EKFAC()} | {
        f"EKFAC(rank={rank})": EKFAC(rank=rank) for rank in ranks
    }
    for what, method in methods.items():
        values = run_ours(found, method).values
        error = float(((values - exact).norm(dim=1) / exact.norm(dim=1)).median())
        rows.append((name, what, spearman(values, exact), spearman_of_rows(values, exact), error))
    return rows


def shown(found: Speed) -> str:
    """A problem's table and its stages, as markdown."""
    floor = found.passes + found.products
    lines = [
        f"\n### {found.title}",
        f"Floor: one forward and backward pass {1000 * found.passes:.1f} ms + bare products {1000 * found.products:.0f} ms = "
        f"{1000 * floor:.0f} ms. Twice the same to the bit: {'yes' if found.repeats_to_the_bit else 'NO'}.\n",
        f"| | seconds (least to most) | x floor | {PEER} / this | without its pauses | Spearman, all scores | each query |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found.rows:
        spread = f"{row.median:.3f} ({min(row.seconds):.3f} to {max(row.seconds):.3f})"
        ratios = [f"{statistics.median(some):.1f}" if some else "" for some in (row.ratios, row.frozen_ratios)]
        lines.append(
            f"| {row.what} | {spread} | {row.median / floor:.2f} | {ratios[0]} | {ratios[1]} "
            f"| {row.all_scores:.5f} | {row.each_query:.5f} |"
        )
    stages = list(dict.fromkeys(stage for row in found.rows for stage in row.stages))
    lines += ["", f"| ms | {' | '.join(stages)} |", "|---" * (len(stages) + 1) + "|"]
    for row in found.rows:
        cells = [f"{1000 * row.stages[stage]:.1f}" if stage in row.stages else "" for stage in stages]
        lines.append(f"| {row.what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shown_growth(title: str, rows: Sequence[Grown]) -> str:
    """Rows of seconds and memory, as markdown."""
    lines = [
        f"\n### {title}\n",
        "| n | parameters | queries | rank | fit, CPU s | score, CPU s | peak MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        rank = "exact" if row.rank is None else str(row.rank or "default")
        lines.append(
            f"| {row.train:,} | {row.parameters:,} | {row.queries:,} | {rank} "
            f"| {row.fit:.2f} | {row.score:.2f} | {row.megabytes:.0f} |"
        )
    return "\n".join(lines)


def shown_agreement(rows: Sequence[tuple[str, str, float, float, float]]) -> str:
    """Rows of `agreement`, as markdown."""
    lines = ["\n### Agreement with exact EK-FAC in float64\n"]
    lines += ["| problem | | Spearman, all scores | each query | median error of a row |", "|---|---|---|---|---|"]
    lines += [
        f"| {name} | {what} | {every:.5f} | {each:.5f} | {error:.1e} |" for name, what, every, each, error in rows
    ]
    return "\n".join(lines)


class _Apart:
    """Runs a function in a process of its own."""

    def __call__(self, work: Callable[..., Any], *what: Any) -> Any:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(work, what)


def main(words: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.engine", description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a few seconds, to see that it works")
    parser.add_argument("--peers", action="store_true", help="kronfluence beside it, which must be installed")
    parser.add_argument("--only", choices=("speed", "agreement", "queries", "train", "parameters"), action="append")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    asked = parser.parse_args(words)
    plan = SMALL if asked.small else Plan(peers=asked.peers)
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"one thread; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; torch {torch.__version__}", flush=True)
    found = measure(plan, asked.only or ("speed", "agreement", "queries", "train", "parameters"))
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=1))


def measure(plan: Plan, parts: Sequence[str]) -> dict[str, Any]:
    """Every part asked for, printed as it is done."""
    apart, found = _Apart(), dict[str, Any]()
    if "speed" in parts:
        found["speed"] = [asdict(some) for name in plan.speed for some in _told(apart, name, speed, plan, shown)]
    if "agreement" in parts:
        rows = [row for name in plan.problems for some in _told(apart, name, agreement, plan.ranks) for row in some]
        print(shown_agreement(rows), flush=True)
        found["agreement"] = rows
    growths = {
        "queries": [(engine_growth.digits_with, count) for count in plan.queries],
        "train": [(engine_growth.network_with, n, (64, 64), plan.asked) for n in plan.train],
        "parameters": [
            (engine_growth.network_with, plan.train[0], (width, width), max(1, plan.asked // 32))
            for width in plan.widths
        ],
    }
    for part, works in growths.items():
        if part in parts:
            grown = [apart(*work, how) for work in works for how in (None, 0)]
            print(shown_growth(f"Growth with {part}", grown), flush=True)
            found[part] = [asdict(row) for row in grown]
    return found


def _told(
    apart: _Apart, name: str, work: Callable[..., Any], how: Any, tell: Callable[[Any], str] | None = None
) -> list[Any]:
    try:
        made = apart(work, name, how)
    except MissingDataError as error:
        print(f"\n{name}: left out, {error}", flush=True)
        return []
    if tell is not None:
        print(tell(made), flush=True)
    return [made]


if __name__ == "__main__":
    main()
