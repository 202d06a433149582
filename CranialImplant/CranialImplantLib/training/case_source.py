"""Training cases from a folder, as tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .cases import Case

CASES = "cases"


class CaseFolder:
    """Cases of a folder beside the pack; new files that appear while training goes on are used too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._paths = sorted(folder.glob("case_*.npz"))
        self._drawn = 0

    def draw(self, generator: np.random.Generator) -> Case:
        self._drawn += 1
        if self._drawn % 50 == 0:
            self._paths = sorted(self.folder.glob("case_*.npz"))
        return Case.load(self._paths[int(generator.integers(len(self._paths)))])


def grid_tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def filled_truth(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """True points and normals with the guess where the truth has no bone."""
    good = np.isfinite(case.true_points).all(1) & np.isfinite(case.true_normals).all(1)
    good &= np.linalg.norm(case.true_points - case.guess_points[0], axis=1) < 12.0
    points = np.where(good[:, None], case.true_points, case.guess_points[0])
    normals = np.where(good[:, None], case.true_normals, case.guess_normals[0])
    return points.astype(np.float32), np.nan_to_num(normals).astype(np.float32)
