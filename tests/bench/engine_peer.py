"""How long does kronfluence take for the same work? Run as a process of its own that imports nothing but what it needs.

Its pauses grow with the number of Python objects in the process (it calls the garbage collector ten times), so it
must not share one with the benchmark. Knows neither the product nor the benchmark: `python engine_peer.py WORK` takes a
file of tensors and a network, and for each line it reads works once and answers with one line of JSON.
"""

from __future__ import annotations

import gc
import io
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

STAGES = {
    "Fit Covariance": "factors",
    "Perform Eigendecomposition": "eigenvectors",
    "Fit Lambda": "eigenvalues",
    "Compute Pairwise Score": "pairs",
}


@dataclass
class Stages:
    """Takes the place of its profiler, which is told its stages the same way."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def profile(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def summary(self) -> str:
        return ""


def run(work: dict[str, Any]) -> tuple[Tensor, float, dict[str, float]]:
    """Its EK-FAC at its own damping rule (a tenth of each layer's mean eigenvalue), labels sampled: scores `[q, n]`,
    seconds of everything and of its stages; the rest of the whole is its files, its pauses and its start."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task
    from torch.utils.data import TensorDataset

    class Explained(Task):  # type: ignore[misc]
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            outputs, targets = model(batch[0]), batch[1]
            if sample:
                targets = torch.multinomial(outputs.detach().softmax(1), 1)[:, 0]
            return nn.functional.cross_entropy(outputs, targets, reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")

    torch.manual_seed(0)
    network = torch.load(io.BytesIO(work["network"]), weights_only=False)
    train, test, batch = TensorDataset(*work["train"]), TensorDataset(*work["test"]), work["batch"]
    stages = Stages()
    with redirect_stderr(io.StringIO()), tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        task = Explained()
        analyzer = Analyzer("bench", prepare_model(network, task), task, cpu=True, disable_tqdm=True, output_dir=folder)
        analyzer.profiler = stages
        analyzer.fit_all_factors("f", train, batch, FactorArguments(strategy="ekfac"))
        how = ScoreArguments(damping_factor=None)
        analyzer.compute_pairwise_scores("s", "f", test, train, batch, batch, score_args=how)
        values = analyzer.load_pairwise_scores("s")["all_modules"]
        seconds = time.perf_counter() - began
    return values, seconds, {name: stages.seconds[theirs] for theirs, name in STAGES.items()}


def main(path: str) -> None:
    """Answer every line with the seconds of one run as it comes, or, for "frozen", without pauses for garbage."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    work = torch.load(path, weights_only=False)
    for line in sys.stdin:
        if line.strip() == "frozen":
            gc.freeze()
        values, seconds, stages = run(work)
        gc.unfreeze()
        torch.save(values, Path(path).with_suffix(".scores"))
        print(json.dumps([seconds, stages]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
