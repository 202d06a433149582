"""Training cases from a folder, as tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from MedShapeCore.errors import RefusedInput
from torch import Tensor

from .cases import CASE_FILES, Case

CASES = "cases"  # the folder beside the checkpoints
LOOK_AGAIN = 50  # draws between two looks at the folder
OUTLIER_MM = 12.0  # a ray's truth farther from the guess is another bone (orbit, arch)


class CaseFolder:
    """Cases of a folder; new files that appear while training goes on are used too. An empty folder is refused."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._paths = sorted(folder.glob(CASE_FILES))
        self._drawn = 0
        if not self._paths:
            raise RefusedInput("no-cases", f"There are no training cases in {folder}.",
                               "Make some with the stage `cases`.")

    def draw(self, generator: np.random.Generator) -> Case:
        self._drawn += 1
        if self._drawn % LOOK_AGAIN == 0:
            self._paths = sorted(self.folder.glob(CASE_FILES))
        return Case.load(self._paths[int(generator.integers(len(self._paths)))])


def grid_tensor(array: np.ndarray) -> Tensor:
    """float32 tensor of an array."""
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def filled_truth(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """True points and normals with the guess where the truth has no bone."""
    good = np.isfinite(case.true_points).all(1) & np.isfinite(case.true_normals).all(1)
    good &= np.linalg.norm(case.true_points - case.guess_points[0], axis=1) < OUTLIER_MM
    points = np.where(good[:, None], case.true_points, case.guess_points[0])
    normals = np.where(good[:, None], case.true_normals, case.guess_normals[0])
    return points.astype(np.float32), np.nan_to_num(normals).astype(np.float32)
