"""Work that does not fit into memory is done in halves, from where it was, and what cannot be done says what would fit."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import weakref
from dataclasses import dataclass

import pytest
import torch

from explorer.errors import ResourceError
from explorer.influence import blocks
from explorer.influence.backward import need_of
from explorer.influence.blocks import Need, in_blocks, is_shortage, says_what_fits, whole
from explorer.influence.ekfac import EKFAC
from explorer.influence.logra import LoGra
from tests.influence.networks import network

CPU = (
    "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 3200000000 "
    "bytes. Error code 12 (Cannot allocate memory)"
)
CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.50 GiB is free. "
    "Process 1 has 77.60 GiB memory in use."
)
NUMPY = "Unable to allocate 7.45 GiB for an array with shape (1000000000,) and data type float64"
NEED = Need("one row", remedy="Ask for less.")


def _limited(most: int, error: type[Exception] = RuntimeError, words: str = CPU) -> tuple[list[slice], object]:
    """Work that refuses more than `most` rows at once, and the list of what it was asked for."""
    asked: list[slice] = []

    def work(part: slice) -> list[int]:
        asked.append(part)
        if part.stop - part.start > most:
            raise error(words)
        return list(range(part.start, part.stop))

    return asked, work


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError, CPU),
        (RuntimeError, "not enough memory: you tried to allocate 80 bytes."),
        (RuntimeError, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        (RuntimeError, "std::bad_alloc"),
        (torch.OutOfMemoryError, CUDA),
        (MemoryError, NUMPY),
        (MemoryError, ""),
        (ResourceError, "Expected enough memory for one example; found none."),
    ],
)
def test_every_allocator_s_refusal_halves_the_block_and_goes_on(error: type[Exception], words: str) -> None:
    asked, work = _limited(3, error, words)
    found = list(in_blocks(20, 8, work, NEED))
    assert [row for _, rows in found for row in rows] == list(range(20))
    assert [(part.start, part.stop) for part, _ in found] == [(at, at + 2) for at in range(0, 20, 2)]
    assert [(part.start, part.stop) for part in asked[:3]] == [(0, 8), (0, 4), (0, 2)]
    assert len(asked) == 2 + 10  # nothing that was done is done again


def test_a_shortage_in_the_middle_keeps_what_was_done() -> None:
    tried: list[tuple[int, int]] = []

    def work(part: slice) -> int:
        tried.append((part.start, part.stop))
        if part.start >= 8 and part.stop - part.start > 1:
            raise MemoryError
        return part.start

    assert [found for _, found in in_blocks(10, 4, work, NEED)] == [0, 4, 8, 9]
    assert tried == [(0, 4), (4, 8), (8, 10), (8, 9), (9, 10)]


def test_other_errors_pass() -> None:
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory"), KeyError(1)):
        assert not is_shortage(error)

        def work(_: slice, error: Exception = error) -> None:
            raise error

        with pytest.raises(type(error)):
            list(in_blocks(4, 4, work, NEED))


@pytest.mark.parametrize(
    ("error", "words", "said"),
    [(RuntimeError, CPU, "3.2 GB"), (torch.OutOfMemoryError, CUDA, "21.5 GB"), (MemoryError, NUMPY, "8.0 GB")],
)
def test_where_one_row_does_not_fit_the_message_has_the_numbers(
    error: type[Exception], words: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "free_bytes", lambda message="": 1_500_000_000)
    _, work = _limited(0, error, words)
    expected = rf"^Expected enough memory for one row; found {said} asked for and 1.5 GB free. Ask for less.$"
    with pytest.raises(ResourceError, match=expected):
        list(in_blocks(20, 8, work, NEED))
    with pytest.raises(ResourceError, match=expected):
        whole(8, lambda step: work(slice(0, step)), NEED)
    with pytest.raises(ResourceError, match=r"found 1\.5 GB free"):
        list(in_blocks(2, 2, _limited(0, MemoryError, "")[1], NEED))
    inner = _limited(0, ResourceError, "Expected enough memory for what is within; found none. Do so.")[1]
    with pytest.raises(ResourceError, match="for what is within"):
        list(in_blocks(2, 2, inner, NEED))


def test_a_pass_that_adds_up_begins_again_in_halves() -> None:
    steps: list[int] = []

    def work(step: int) -> float:
        steps.append(step)
        total = 0.0
        for start in range(0, 20, step):
            if step > 3 and start >= 8:
                raise MemoryError
            total += sum(range(start, min(start + step, 20)))
        return total

    assert whole(8, work, NEED) == sum(range(20))
    assert steps == [8, 4, 2]


def test_what_is_kept_for_speed_is_let_go_at_each_failure_and_what_failed_holds_nothing() -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    relieved: list[bool] = []

    def work(part: slice) -> None:
        tensor = torch.zeros(10)
        held.append(weakref.ref(tensor))
        if part.stop - part.start > 2:
            raise RuntimeError(CPU)

    def relieve() -> None:
        relieved.append(held[-1]() is None)

    assert len(list(in_blocks(8, 8, work, NEED, relieve))) == 4
    assert relieved == [True, True]


def test_the_words_name_layers_that_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"wide": 10**9, "body": 10**7, "head": 10**6}
    need = Need("one example", sizes)
    assert "Choose fewer layers (body,head would need about 33.0 MB)" in need.words(None, 10**8)
    assert "Choose fewer layers (head would need about 3.0 MB)" in need.words(None, 10**7)
    assert "last-layer" in need.words(None, 10**5)
    found = need_of(_layers())
    assert list(found.layers or {}) == ["first", "again", "head"]
    assert (found.layers or {})["head"] == 4 * (3 + 3)


def _layers() -> object:
    from explorer.influence import layers

    made = network("conv")
    return layers.of(made.model, made.train.inputs)


def test_the_words_name_the_settings_of_the_method() -> None:
    @dataclass(frozen=True)
    class Greedy:
        rank: int = 16
        layers: tuple[str, ...] | None = None
        name = "greedy"

        @says_what_fits
        def fit(self) -> None:
            raise RuntimeError(CPU)

    with pytest.raises(
        ResourceError, match=r"the method greedy; found 3.2 GB .*fewer layers.*--set rank=\.\.\., now 16"
    ):
        Greedy().fit()
    assert "rank" in blocks.need_of(LoGra()).remedy
    assert "rank" not in blocks.need_of(EKFAC()).remedy
    assert "fewer layers" in blocks.need_of(EKFAC()).remedy


REAL = """
import resource, sys
import numpy as np, psutil, torch
from torch import nn
from explorer.contracts import Queries, Subject
from explorer.errors import ResourceError
from explorer.influence import METHODS, backward
from explorer.objectives import CrossEntropy
from tests.problems import TensorExamples

torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(20, 256), nn.Unflatten(1, (4, 64)), nn.Conv1d(4, 32, 3, padding=1), nn.GELU(),
                      nn.Conv1d(32, 16, 3, padding=1), nn.Flatten(), nn.Linear(1024, 5))
x, y = torch.randn(3000, 20), torch.arange(3000) % 5
train, test = TensorExamples(x, y, "train"), TensorExamples(x[:40] + 1, y[:40], "test")
subject = Subject(model, train, CrossEntropy(), 0.01, "real")
queries = Queries(test, np.arange(40))
name, room, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
runs = []
forward = backward.traced
def counted(model, layers, inputs):
    runs.append(len(inputs))
    return forward(model, layers, inputs)
backward.traced = counted
METHODS[name]().fit(Subject(model, TensorExamples(x[:30], y[:30]), CrossEntropy(), 0.01, "warm")).score(queries)
runs.clear()
if room:
    limit = psutil.Process().memory_info().vms + room
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    torch.save(METHODS[name]().fit(subject).score(queries).values, out)
    print("blocks", len(runs), max(runs), min(runs))
except ResourceError as error:
    print("refused", error)
"""
ROOM, NO_ROOM = 150 * 10**6, 3 * 10**6
"""Bytes beyond what a warm process holds: too few for the usual blocks of this network; too few for anything."""
ROUNDED = 1e-4
"""Share of a row's largest |score|: the same float32 sums in blocks of another size."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ekfac", "tracin"])
def test_a_process_with_little_memory_does_it_in_smaller_blocks(name: str, tmp_path) -> None:
    def run(room: int, out: str) -> str:
        command = [sys.executable, "-c", textwrap.dedent(REAL), name, str(room), str(tmp_path / out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    free, tight = run(0, "free.pt"), run(ROOM, "tight.pt")
    assert tight.startswith("blocks"), tight
    assert int(tight.split()[1]) > int(free.split()[1]), (free, tight)
    scores = [torch.load(tmp_path / file, weights_only=True) for file in ("free.pt", "tight.pt")]
    error = (scores[0] - scores[1]).abs().amax(1) / scores[0].abs().amax(1)
    assert float(error.max()) <= ROUNDED
    if name == "ekfac":  # the other may get by, an example at a time, in pages that the process holds already
        refused = run(NO_ROOM, "none.pt")
        assert refused.startswith("refused Expected enough memory for ")
        assert "free. " in refused
