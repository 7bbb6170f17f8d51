"""What if memory does not suffice? The same work in smaller blocks, and words for what would fit where nothing does.

Knows how torch, numpy and CUDA say that there is no memory left; knows no model, no method and no file.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import partial, wraps
from typing import ParamSpec, TypeVar

import psutil
import torch

from explorer.errors import ResourceError

T = TypeVar("T")
P = ParamSpec("P")

REFUSALS = ("out of memory", "allocate memory", "not enough memory", "bad_alloc", "alloc_failed")
"""What allocators say in a `RuntimeError`: those of torch on the CPU and on CUDA, of C++, of CUDA's libraries."""
ONEDNN = ("could not create a primitive", "could not create a memory object", "could not execute a primitive")
"""All that oneDNN says where it finds no memory for its code or its buffers: the whole message, or it is another fault."""
SIZES = (
    re.compile(r"tried to allocate (?P<count>[\d.]+) ?(?P<unit>bytes|[KMGT]iB)", re.IGNORECASE),
    re.compile(r"Unable to allocate (?P<count>[\d.]+) (?P<unit>bytes|[KMGT]iB)"),
)
"""How torch and numpy tell how much they were asked for."""
UNITS = {"bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
SMALLER = {
    "rank": "a smaller rank",
    "dimension": "a smaller dimension",
    "columns": "fewer columns",
    "projections": "fewer projections",
    "deflation": "a smaller deflation",
    "memory": "a smaller memory",
}
"""Settings that decide how much memory a method takes, and which way to turn them; beside its layers."""
LIGHTEST = "last-layer, gradient-dot or bias-only"
"""Methods that hold nothing below the last layer."""
COPIES = 3
"""What is held of a layer's numbers at once: as they came, as they are kept, and on the way between."""


@dataclass(frozen=True)
class Need:
    """What a block of one is, in words ("the gradients of one example"), and the bytes that each layer has in it.

    `remedy` says what to ask for instead where layers are not it.
    """

    what: str
    layers: Mapping[str, int] | None = None
    remedy: str = f"Choose a method that needs less, such as {LIGHTEST}."

    def words(self, asked: int | None, free: int) -> str:
        """The whole message."""
        found = f"found {size(free)} free" if asked is None else f"found {size(asked)} asked for and {size(free)} free"
        return f"Expected enough memory for {self.what}; {found}. {self._todo(free)}"

    def _todo(self, free: int) -> str:
        if self.layers is None or len(self.layers) < 2:
            return self.remedy
        fitting: list[str] = []
        total = 0
        for name, needed in reversed(list(self.layers.items())):  # the last layers say most
            if COPIES * (total + needed) > free or len(fitting) + 1 == len(self.layers):
                break
            fitting.insert(0, name)
            total += needed
        if not fitting:
            return self.remedy
        named = ",".join(fitting)
        return f"Choose fewer layers ({named} would need about {size(COPIES * total)}), or one of {LIGHTEST}."


def size(count: int) -> str:
    """Bytes for people."""
    for unit, step in (("GB", 1e9), ("MB", 1e6)):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that memory is exhausted."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = str(error).strip().lower()
    return isinstance(error, RuntimeError) and (said in ONEDNN or any(words in said for words in REFUSALS))


def asked_for(message: str) -> int | None:
    """Bytes that the refused request was for, where the message tells."""
    for pattern in SIZES:
        if found := pattern.search(message):
            return int(float(found["count"]) * UNITS[found["unit"].lower()])
    return None


def free_bytes(message: str = "") -> int:
    """Bytes that can still be had: on the graphics card where `message` is about one, else of this process."""
    if "cuda" in message.lower() and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    free = int(psutil.virtual_memory().available)
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    except ImportError:  # no such limits on this system
        return free
    return free if limit < 0 else max(0, min(free, limit - int(psutil.Process().memory_info().vms)))


def in_blocks(
    count: int,
    step: int,
    work: Callable[[slice], T],
    need: Need,
    relieve: Callable[[], None] | None = None,
) -> Iterator[tuple[slice, T]]:
    """`work(slice)` for one block of at most `step` out of `count` after the other, with the slice each was for.

    A block that does not fit into memory is halved, and so are those after it; what was done before stays. `work` must
    bear to be called again for a part of what it failed at: it writes what it computes, or returns it to be added up.
    `relieve` is called at each failure, to let go of what is kept for speed alone. A smaller block gives the same
    numbers up to the rounding of sums whose order the matrix library chooses by size; nothing is drawn at random.

    Raises:
        ResourceError: a block of one does not fit.
    """
    start = 0
    while start < count:
        part = slice(start, min(start + step, count))
        found = _attempt(partial(work, part))
        if isinstance(found, _Refused):
            if relieve is not None:
                relieve()
            if part.stop - part.start == 1:
                raise ResourceError(found.words(need))
            step = (part.stop - part.start) // 2
            continue
        yield part, found
        start = part.stop


def whole(step: int, work: Callable[[int], T], need: Need, relieve: Callable[[], None] | None = None) -> T:
    """`work(step)`, a whole pass in blocks of at most `step`, begun again with half of that while it does not fit.

    For passes that add up in place as they go, where half a block cannot be taken back. Otherwise as `in_blocks`.

    Raises:
        ResourceError: blocks of one do not fit.
    """
    while True:
        found = _attempt(partial(work, step))
        if not isinstance(found, _Refused):
            return found
        if relieve is not None:
            relieve()
        if step == 1:
            raise ResourceError(found.words(need))
        step //= 2


def says_what_fits(fit: Callable[P, T]) -> Callable[P, T]:
    """For a method's `fit`: what cannot be done in smaller blocks becomes a `ResourceError` that names settings to turn."""

    @wraps(fit)
    def fitted(*args: P.args, **kwargs: P.kwargs) -> T:
        found = _attempt(partial(fit, *args, **kwargs))
        if isinstance(found, _Refused):
            raise ResourceError(found.words(need_of(args[0])))
        return found

    return fitted


def need_of(method: object) -> Need:
    """What a method needs in words, with those of its settings that decide how much."""
    name = getattr(method, "name", "this work")
    own = {field.name: getattr(method, field.name) for field in fields(method)} if is_dataclass(method) else {}
    ways = ["fewer layers (--layers)"] if "layers" in own else []
    ways += [f"{words} (--set {key}=..., now {own[key]})" for key, words in SMALLER.items() if own.get(key) is not None]
    ways.append("fewer training examples" if name in LIGHTEST else f"one of {LIGHTEST}")
    return Need(f"the method {name}", remedy=f"Choose {', or '.join(ways)}.")


@dataclass(frozen=True)
class _Refused:
    """What is left of an error once it and the memory that its frames held are gone."""

    message: str
    said: bool

    def words(self, need: Need) -> str:
        return self.message if self.said else need.words(asked_for(self.message), free_bytes(self.message))


def _attempt(work: Callable[[], T]) -> T | _Refused:
    try:
        return work()
    except (MemoryError, RuntimeError, ResourceError) as error:
        said = isinstance(error, ResourceError)
        if not said and not is_shortage(error):
            raise
        refused = _Refused(str(error), said)
    # here the error is gone, and with it the frames whose tensors filled the memory
    gc.collect(1)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return refused
