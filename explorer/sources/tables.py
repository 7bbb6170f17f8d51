"""Where do small real tables come from with no download: two classification tables that scikit-learn carries.

They come with their column and class names and a fixed stratified split, 20 % held out; other tables come as arrays
(`dataset_from_arrays`) or as `.npz` (`array_file`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from explorer.contracts import Dataset
from explorer.sources.arrays import dataset_from_arrays


@dataclass(frozen=True)
class BreastCancer:
    """569 biopsies, 30 measurements of cell nuclei, malignant or benign; ids are "biopsy-<row>"."""

    kind: ClassVar[str] = "breast-cancer"

    def load(self) -> Dataset:
        """455 training and 114 test rows."""
        from sklearn.datasets import load_breast_cancer

        return _split(self.kind, load_breast_cancer(), "biopsy")

    def spec(self) -> dict[str, Any]:
        """`{"kind": "breast-cancer"}`: there is nothing to choose."""
        return {"kind": self.kind}


@dataclass(frozen=True)
class Wine:
    """178 wines, 13 chemical measurements, three growers; ids are "wine-<row>"."""

    kind: ClassVar[str] = "wine"

    def load(self) -> Dataset:
        """142 training and 36 test rows."""
        from sklearn.datasets import load_wine

        return _split(self.kind, load_wine(), "wine")

    def spec(self) -> dict[str, Any]:
        """`{"kind": "wine"}`: there is nothing to choose."""
        return {"kind": self.kind}


def _split(name: str, table: Any, prefix: str) -> Dataset:
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(table.target))
    train, test = train_test_split(rows, test_size=0.2, random_state=0, stratify=table.target)
    return dataset_from_arrays(
        name,
        table.data[train],
        table.target[train],
        table.data[test],
        table.target[test],
        ids=[f"{prefix}-{row}" for row in (*train, *test)],
        classes=[str(label) for label in table.target_names],
        feature_names=[str(column) for column in table.feature_names],
    )
