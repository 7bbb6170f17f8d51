"""How much room will a run take, on the disk and in memory? Counts bytes from the sizes of its parts.

Pure arithmetic on the layout of a run directory: opens no file, loads no data, runs no method.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from explorer.jobs.memorized import BOOTSTRAP
from explorer.jobs.pipeline import NEIGHBORS
from explorer.jobs.scoring import ELEMENTS, TOP
from explorer.store.run import BLOCK

FLOAT, DOUBLE = 4, 8
IDENTITY_ROW, OUTCOME_ROW, FLAG_ROW = 12, 12, 72
"""Bytes an example takes in a compressed table: of ids and labels, of predictions, of memorization (as measured on digits)."""
TABLE = 4_000
"""Bytes of a table's own description; there are five."""
TABLES = 5
MOMENTS = 2
"""A checkpoint holds the weights and as many numbers of momentum."""
LOG_ROW = 5 * FLOAT + 1
"""Loss, four numbers of its probabilities and whether it was right, of each training example after each epoch."""
GRID_ROW = 2 * FLOAT
"""Self-influence and held-out influence of a training example at each damping of the grid."""
CLASS_ELEMENTS = 20_000_000
"""Mean influences on classes kept at most (see `jobs.classes`)."""
FEW = 2_000
"""Bytes of settings, state and notes."""
COPIES = 3
"""Fitted tensors in memory at once while they are written: the method's, their contiguous copies, the file's bytes."""
LAYOUT = 350_000_000
"""What UMAP's compiler takes, whatever the data (measured: 340 MB on wine and on digits)."""
MODELS, MODEL = 256_000_000, 6
"""What models that are trained again take at once at most, and a single one in its weights (see `explorer.retraining`)."""
EVIDENCE = 2_500
"""Bytes of what is said of a dozen dampings."""
SEARCH = 400_000_000
"""Blocks of the search for neighbors at most."""


@dataclass(frozen=True)
class Shape:
    """What decides the size of a run.

    `queries` are explained for their label and `answers` of them for the model's own answer as well; `weights` are bytes;
    `previews` bytes an example; `epochs` 0 where nothing is trained; `fitted` bytes of the fitted method's tensors;
    `retrained` models are asked about `checked` test examples (0 where they are left out); `inputs` values an example are
    compared for its neighbors by inputs (0: they are not looked for); `dampings` are those of the grid.
    """

    train: int
    test: int
    queries: int
    answers: int
    outputs: int
    features: int
    weights: int
    epochs: int
    previews: int
    fitted: int
    classes: int = 0
    retrained: int = 0
    checked: int = 0
    inputs: int = 0
    dampings: int = 0

    @property
    def points(self) -> int:
        """Training and test examples."""
        return self.train + self.test

    @property
    def explained(self) -> int:
        """Rows of scores."""
        return self.queries + self.answers


def disk(shape: Shape) -> dict[str, int]:
    """Bytes on the disk by what they hold, in the words of `store.run.PARTS`."""
    n, points, explained = shape.train, shape.points, shape.explained
    top = min(TOP, n)
    of_classes = FLOAT * shape.classes * n if shape.classes * n <= CLASS_ELEMENTS else 0
    return {
        "influence of every training example, int8": explained * n,
        "top lists and trust of every query": explained * (top * 4 * FLOAT + 4 * FLOAT),
        "ids, labels, previews": points * (shape.previews + IDENTITY_ROW) + 2 * TABLE,
        "features, outputs, predictions": points * (FLOAT * (shape.features + shape.outputs) + OUTCOME_ROW)
        + shape.test * IDENTITY_ROW
        + 2 * TABLE,
        "the fitted method": shape.fitted,
        "weights, and what a stopped training goes on from": shape.weights * (1 + MOMENTS * shape.epochs),
        "training log": shape.epochs * (LOG_ROW * n + FLOAT * shape.test),
        "memorization, influence of classes": FLAG_ROW * n + TABLE + of_classes + shape.dampings * GRID_ROW * n,
        "what was measured and tried beyond": 0,
        "maps and neighbors": points * (2 * 2 * FLOAT + NEIGHBORS * 2 * FLOAT),
        "settings and state": FEW + bool(shape.checked) * (EVIDENCE + DOUBLE * shape.retrained * shape.checked),
    }


def files(shape: Shape) -> dict[str, int]:
    """How many files each stage writes: each is flushed to the disk by itself, which takes its time."""
    blocks = ceil(shape.queries / BLOCK) + ceil(shape.answers / BLOCK)
    return {
        "data": 7,
        "training": 1 + 2 * shape.epochs,
        "predictions": 7,
        "map": 1,
        **({"evidence": 1} if shape.retrained else {}),
        "curvature": 2 + bool(shape.checked),
        "scores": 2 * blocks,
        "memorization": 4 + bool(shape.dampings),
        "map (UMAP)": 1,
        "neighbors": 3,
    }


def memory(shape: Shape, held: int, methods: int = 2) -> int:
    """Bytes in memory at most, `held` of them by Python, its libraries and the data.

    The largest of some moments: retraining, writing the fitted method, scoring a block (`methods` of them, two pieces
    each), and the map with the search for neighbors.
    """
    n = shape.train
    rows = max(1, min(BLOCK, shape.queries, max(1, ELEMENTS // n)))
    seen = shape.points * (FLOAT * shape.features + DOUBLE * shape.outputs)
    fitting = COPIES * shape.fitted + DOUBLE * n * shape.outputs
    scoring = shape.fitted + 2 * methods * rows * n * FLOAT + min(BLOCK, shape.queries) * n
    held_out = shape.fitted + 2 * FLOAT * (BOOTSTRAP + 1) * (n + shape.test)
    maps = LAYOUT + min(SEARCH, 3 * FLOAT * shape.points * 1024) + 3 * FLOAT * shape.points * shape.features
    nearest = min(SEARCH, 3 * FLOAT * n * 1024) + 4 * FLOAT * n * shape.inputs  # one copy of them in float64
    again = max(MODELS, MODEL * shape.weights) if shape.checked else 0
    return held + seen + max(again, fitting, scoring, held_out, nearest + shape.fitted, maps + shape.fitted)
