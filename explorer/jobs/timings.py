"""What was measured on samples, and what does it say of more rows? Lines through points (rows, cost), part by part.

Measures nothing itself: `explorer.jobs.probe` does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SOLUTIONS = "solutions"
"""Part of memorization: the self-influence of one training example, where each is a system to be solved."""
TRUSTED = 0.5
"""Seconds of its own that a part must take for its own slowness to count as much as that of all parts together."""


@dataclass(frozen=True)
class Line:
    """A cost in rows: `fixed` + `each` · rows, as measured on up to `rows` of them."""

    fixed: float
    each: float
    rows: int

    def at(self, rows: int) -> float:
        """The cost of that many."""
        return self.fixed + self.each * rows

    def times(self, factor: float) -> Line:
        """So many times the cost."""
        return Line(self.fixed * factor, self.each * factor, self.rows)

    @classmethod
    def through(cls, points: list[tuple[int, float]]) -> Line:
        """Through the last of `points` (rows, cost), and the one before where both parts then are not negative.

        One point alone is taken to be all by the row.
        """
        rows, cost = points[-1]
        fixed = 0.0
        if len(points) > 1 and points[-2][0] < rows:
            before, less = points[-2]
            fixed = max(0.0, less - before * max(0.0, (cost - less) / (rows - before)))
        fixed = min(fixed, cost)
        return cls(fixed, (cost - fixed) / rows, rows)


@dataclass
class Timings:
    """What was measured: points (rows, seconds or bytes) by part; `queries` scored at once; why it ended early.

    Seconds of points are those that the process computed, which a busy machine does not change; `clocks` holds, part by
    part, how many there were and how many passed meanwhile: `slowness` is their quotient, and times a line it is what a
    job will take on a machine as busy as this one is now (less than 1 where several threads share the work).

    `first` has the point of the first call in this process: what is loaded and compiled then, a job pays for too.
    `candidates` are the dampings that evidence would compare; `left_out` says why there will be none. `solved_over` is
    how many rows a solution of an iterative method goes over, None for all, and `directions` how many solutions memorization
    needs beyond one for every example. `dampings` are those of the grid of memorization.

    Parts are the stages of a job ("scores": seconds of `queries` queries; "training": of one epoch; "evidence": of one epoch
    of all retrainings), "dampings" (seconds of one that is compared), "solutions" (of the self-influence of a single
    training example, by the rows that its solution goes over) and "fitted", the bytes of the fitted method's tensors.
    "neighbors" and "inputs" (neighbors by inputs, for memorization) go with the square of the rows.
    """

    points: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    first: dict[str, tuple[int, float]] = field(default_factory=dict)
    clocks: dict[str, tuple[float, float]] = field(default_factory=dict)
    queries: int = 1
    given_up: str = ""
    candidates: int = 1
    left_out: str = ""
    solved_over: int | None = None
    directions: int = 0
    dampings: int = 0

    def add(self, part: str, rows: int, cost: float) -> None:
        """One more point."""
        self.points.setdefault(part, []).append((rows, cost))

    def passed(self, part: str, computed: float, seconds: float) -> None:
        """So many seconds passed on a part while the process computed for so many."""
        before = self.clocks.get(part, (0.0, 0.0))
        self.clocks[part] = (before[0] + computed, before[1] + seconds)

    def spent(self, parts: tuple[str, ...]) -> float:
        """Seconds that passed on these parts."""
        return sum(self.clocks[part][1] for part in parts if part in self.clocks)

    def slowness(self, part: str) -> float:
        """Seconds that pass for each that is computed: the part's own where it took long, that of all where it did not."""
        if part not in self.clocks:
            return 1.0
        computed, seconds = self.clocks[part]
        return (seconds + TRUSTED * self.busy) / (computed + TRUSTED)

    @property
    def busy(self) -> float:
        """Seconds that passed for each that was computed, all parts together; 1 where nothing was measured."""
        computed, seconds = (sum(found) for found in zip((0.0, 0.0), *self.clocks.values(), strict=True))
        return seconds / computed if computed > 0 else 1.0

    def line(self, part: str) -> Line | None:
        """The cost of a part by the row; None where nothing was measured."""
        points = self._points(part)
        return Line.through(points).times(self.slowness(part)) if points else None

    def seconds(self, part: str, rows: int) -> float | None:
        """Of a part on so many rows; None where nothing was measured. Iterative methods solve for every one of the rows."""
        line, own = self.line(part), self.line(SOLUTIONS) if part == "memorization" else None
        if line is None:
            return None
        if own is None:
            return line.at(rows)
        return line.at(rows) + (rows + self.directions) * own.at(min(rows, self.solved_over or rows))

    def starting(self, part: str) -> float:
        """Seconds of the first call beyond those of a later one."""
        points = self._points(part)
        rows, cost = self.first.get(part, (0, 0.0))
        return max(0.0, cost - Line.through(points).at(rows)) * self.slowness(part) if points else 0.0

    def warmed(self, parts: tuple[str, ...]) -> None:
        """What was measured of these parts was their first call: it is apart from what follows."""
        for part in parts:
            self.clocks.pop(part, None)
            if part in self.points:
                self.first[part] = self.points.pop(part)[0]

    def largest(self, part: str) -> int:
        """Rows of the largest sample of a part."""
        return max((rows for rows, _ in self.points.get(part, [])), default=0)

    def _points(self, part: str) -> list[tuple[int, float]]:
        points = self.points.get(part, [])
        first = self.first.get(part)
        if len(points) == 1 and first is not None and first[0] < points[0][0] and first[1] < points[0][1]:
            return [first, *points]
        return points
