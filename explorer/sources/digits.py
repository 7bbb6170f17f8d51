"""Where do examples come from with no file and no download: scikit-learn's 1,797 handwritten digits, 8 x 8 pixels.

It holds the split that every example and every test of the project shares; it does not train.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from explorer.contracts import Dataset
from explorer.sources.arrays import dataset_from_arrays


@dataclass(frozen=True)
class Digits:
    """1,437 training and 360 test digits, stratified; ids are "digit-<row in scikit-learn's order>"."""

    kind: ClassVar[str] = "digits"

    def load(self) -> Dataset:
        """Images `[1, 8, 8]` with values 0..1 and the classes "0".."9"."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        images, labels = load_digits(return_X_y=True)
        train, test = train_test_split(np.arange(len(labels)), test_size=360, random_state=0, stratify=labels)
        images = images.reshape(-1, 8, 8) / 16
        return dataset_from_arrays(
            "digits",
            images[train],
            labels[train],
            images[test],
            labels[test],
            ids=[f"digit-{row}" for row in (*train, *test)],
            classes=[str(digit) for digit in range(10)],
        )

    def spec(self) -> dict[str, Any]:
        """`{"kind": "digits"}`: there is nothing to choose."""
        return {"kind": self.kind}
