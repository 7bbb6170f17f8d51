"""How is fidelity told? One markdown table of agreement and one of planted flips per problem, with where it was measured."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import torch

from tests.bench.fidelity_measure import Measured
from tests.bench.fidelity_methods import Candidate
from tests.bench.fidelity_numbers import SURE, Estimate

PEERS = ("kronfluence", "curvlinops-for-pytorch", "captum", "dattri", "traker")


@dataclass(frozen=True)
class Row:
    """One method on one problem: its agreement with each truth, and what its suspicions of flips are worth."""

    candidate: Candidate
    measured: Measured
    agreement: tuple[Estimate, ...] = ()
    against: Estimate | None = None
    own: tuple[Estimate, Estimate] | None = None
    harm: tuple[Estimate, Estimate] | None = None

    def as_json(self) -> dict[str, object]:
        def pair(both: tuple[Estimate, Estimate] | None) -> object:
            return None if both is None else {"auc": both[0].as_json(), "precision": both[1].as_json()}

        return {
            "by": self.candidate.by,
            "method": self.candidate.label,
            "lds": [one.as_json() for one in self.agreement],
            "minus_kronfluence": None if self.against is None else self.against.as_json(),
            "seconds": list(self.measured.seconds),
            "megabytes": None if math.isnan(self.measured.megabytes) else self.measured.megabytes,
            "self_influence": pair(self.own),
            "harm": pair(self.harm),
            "note": self.measured.note,
            "left_out": self.measured.left_out,
        }


@dataclass(frozen=True)
class Report:
    """Everything measured on one problem; `ceilings` beside the truths, None where one seed decides alone."""

    name: str
    title: str
    sizes: str
    truths: tuple[str, ...]
    ceilings: tuple[tuple[float, float] | None, ...]
    rows: tuple[Row, ...]
    asked: str
    seconds: float = 0.0
    trainings: int = 0
    notes: tuple[str, ...] = field(default_factory=tuple)

    def as_json(self) -> dict[str, object]:
        return {
            "problem": self.name,
            "title": self.title,
            "truths": list(self.truths),
            "ceilings": [None if c is None else {"lds": c[0], "halves": c[1]} for c in self.ceilings],
            "rows": [row.as_json() for row in self.rows],
        }


def place() -> dict[str, str]:
    """Commit, machine, versions."""
    top = Path(__file__).parents[2]
    git = ["git", "-C", str(top)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "explorer"], capture_output=True, text=True).stdout.strip()
    versions = []
    for name in PEERS:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    return {
        "commit": f"{commit or 'unknown'}{' and changes' if changed else ''}",
        "machine": f"{_processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "peers": ", ".join(versions),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.is_file()
        else []
    )
    return names[0] if names else platform.machine()


def markdown(report: Report) -> str:
    """The tables of one problem."""
    parts = [f"## {report.title}", report.sizes, _agreement(report)]
    oracles = [row for row in report.rows if row.candidate.by == "oracle" and row.agreement]
    if oracles:
        parts.append(_sweep(report, oracles))
    flips = [row for row in report.rows if row.own or row.harm]
    if flips:
        parts.append(_flips(report, flips))
    out = [row for row in report.rows if row.measured.left_out]
    if out:
        parts.append("Left out: " + "; ".join(f"{_name(row)} ({row.measured.left_out})" for row in out) + ".")
    return "\n\n".join(parts)


def _agreement(report: Report) -> str:
    head = ["method", "by", *report.truths, "minus kronfluence", "seconds", "extra MB", "note"]
    lines = [
        [
            "**ceiling**",
            "",
            *("" if c is None else f"{c[0]:.3f} (halves {c[1]:.3f})" for c in report.ceilings),
            "",
            "",
            "",
            "",
        ]
    ]
    shown = [row for row in report.rows if row.agreement and row.candidate.by != "oracle"]
    for row in sorted(shown, key=lambda row: -row.agreement[0].mean):
        name = f"**{row.candidate.label}**" if row.candidate.by == "ours" else row.candidate.label
        against = "" if row.against is None else f"{row.against.mean:+.3f} ± {SURE * (row.against.subsets_se or 0):.3f}"
        cost = [_short(row.measured.median), _short(row.measured.megabytes)]
        cells = [_estimate(one) for one in row.agreement]
        lines.append([name, row.candidate.by, *cells, against, *cost, row.measured.note])
    return table(head, lines)


def _sweep(report: Report, rows: Sequence[Row]) -> str:
    """The best setting of each method for each truth, known only to who knows the truth."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row.candidate.settings["name"]), []).append(row)
    lines = []
    for name, some in groups.items():
        cells = []
        for at in range(len(report.truths)):
            best = max(some, key=lambda row: row.agreement[at].mean)
            worst = min(some, key=lambda row: row.agreement[at].mean)
            setting = best.candidate.label.removeprefix(f"{name}, ")
            cells.append(f"{best.agreement[at].mean:.3f} ({setting}); worst {worst.agreement[at].mean:.3f}")
        lines.append([name, *cells])
    return "Damping chosen by the truth (an oracle):\n\n" + table(["method", *report.truths], lines)


def _flips(report: Report, rows: Sequence[Row]) -> str:
    head = ["8 % flipped labels", "by", "AUC self-influence", "precision at k", "AUC harm", "precision at k"]
    lines = []

    def best(row: Row) -> float:
        return max(both[0].mean for both in (row.own, row.harm) if both)

    for row in sorted(rows, key=best, reverse=True):
        cells = []
        for both in (row.own, row.harm):
            cells += ["", ""] if both is None else [_plain(both[0]), _plain(both[1])]
        lines.append([row.candidate.label, row.candidate.by, *cells])
    return f"Planted flips, {report.trainings} noisy training(s):\n\n" + table(head, lines)


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A markdown table whose source is aligned too."""
    every = [list(head), *(list(line) for line in lines)]
    wide = [max(len(line[k]) for line in every) for k in range(len(head))]
    texts = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, wide, strict=True)) + " |" for line in every]
    rule = "|" + "|".join("-" * (w + 2) for w in wide) + "|"
    return "\n".join([texts[0], rule, *texts[1:]])


def _estimate(one: Estimate) -> str:
    """Mean ± 95 % over the queries, and 95 % over another draw of subsets."""
    low, high = (one.mean + sign * SURE * (one.subsets_se or 0) for sign in (-1, 1))
    return f"{one.mean:.3f} ± {SURE * one.se:.3f} ({low:.2f} to {high:.2f})"


def _plain(one: Estimate) -> str:
    return f"{one.mean:.3f} ± {SURE * one.se:.3f}"


def _short(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _name(row: Row) -> str:
    return f"{row.candidate.by} {row.candidate.label}"
