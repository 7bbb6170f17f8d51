"""How many threads may torch use for what comes next? More of them only get in each other's way in small steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL_STEP = 10_000_000
"""Multiplications of a training step below which threads cost more than they save."""


def training_threads(model: torch.nn.Module, batch_size: int) -> int:
    """One thread for a network whose steps are too small to share, else all of the job's."""
    convolutions = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    small = sum(p.numel() for p in model.parameters()) * batch_size < SMALL_STEP
    alone = small and not any(isinstance(module, convolutions) for module in model.modules())
    return 1 if alone else torch.get_num_threads()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many of them within the block, and as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
