"""Volumes in physical space: an array [k, j, i] and the 4 x 4 matrix that takes (i, j, k, 1) to LPS millimetres."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from . import nifti
from .errors import RefusedInput

Box = tuple[slice, slice, slice]

MAX_SIZE = 2048  # voxels per axis; a header that asks for more is refused before anything is allocated
MAX_VOXELS = 2**30


@dataclass(frozen=True)
class Volume:
    """An image: `array` (K, J, I) and `ijk_to_lps` (4, 4)."""

    array: np.ndarray
    ijk_to_lps: np.ndarray

    @property
    def spacing_mm(self) -> np.ndarray:
        """Voxel size along i, j, k in mm, (3,)."""
        return spacing_of(self.ijk_to_lps)

    @property
    def voxel_ml(self) -> float:
        return float(abs(np.linalg.det(self.ijk_to_lps[:3, :3])) / 1000.0)

    def __str__(self) -> str:
        k, j, i = self.array.shape
        spacing = " x ".join(f"{s:.3f}" for s in self.spacing_mm)
        return f"{i} x {j} x {k} voxels of {spacing} mm, {self.array.dtype}, axes {orientation_of(self.ijk_to_lps)}"


def spacing_of(ijk_to_lps: np.ndarray) -> np.ndarray:
    """Voxel size along i, j, k in mm, (3,)."""
    return np.linalg.norm(ijk_to_lps[:3, :3], axis=0)


def orientation_of(ijk_to_lps: np.ndarray) -> str:
    """Letters of the patient directions to which i, j, k point, for instance 'LPS'."""
    letters = []
    for column in ijk_to_lps[:3, :3].T:
        axis = int(np.argmax(np.abs(column)))
        letters.append(("LR", "PA", "SI")[axis][0 if column[axis] > 0 else 1])
    return "".join(letters)


def lps_from_ijk(ijk_to_lps: np.ndarray, index_kji: np.ndarray) -> np.ndarray:
    """(n, 3) array indices (k, j, i), continuous allowed -> (n, 3) points in LPS mm."""
    index_ijk = np.asarray(index_kji, float)[..., ::-1]
    return index_ijk @ ijk_to_lps[:3, :3].T + ijk_to_lps[:3, 3]


def kji_from_lps(ijk_to_lps: np.ndarray, points_lps: np.ndarray) -> np.ndarray:
    """(n, 3) points in LPS mm -> (n, 3) continuous array indices (k, j, i)."""
    inverse = np.linalg.inv(ijk_to_lps)
    return (np.asarray(points_lps, float) @ inverse[:3, :3].T + inverse[:3, 3])[..., ::-1]


def sample(array: np.ndarray, ijk_to_lps: np.ndarray, points_lps: np.ndarray, outside: float) -> np.ndarray:
    """Trilinear values of `array` (K, J, I) at points (..., 3) in LPS mm; `outside` beyond the grid. Float32, (...)."""
    index = kji_from_lps(ijk_to_lps, points_lps)
    coordinates = np.moveaxis(index, -1, 0)
    values = array if array.dtype == np.float32 else array.astype(np.float32)
    return ndimage.map_coordinates(values, coordinates, order=1, mode="constant", cval=outside, output=np.float32)


def crop(volume: Volume, box: Box) -> Volume:
    """The part of a volume inside `box` (slices along k, j, i); its matrix moves along."""
    return Volume(volume.array[box], cropped_matrix(volume.ijk_to_lps, box))


def cropped_matrix(ijk_to_lps: np.ndarray, box: Box) -> np.ndarray:
    """The matrix of the grid that `box` (slices along k, j, i) cuts out."""
    start = np.array([s.start or 0 for s in box], float)
    moved = np.array(ijk_to_lps, float)
    moved[:3, 3] = lps_from_ijk(ijk_to_lps, start[None])[0]
    return moved


def box_of(mask: np.ndarray, margin: int | np.ndarray = 0) -> Box | None:
    """The smallest box around the true voxels, widened by `margin` voxels and cut at the array; None if empty."""
    slices = []
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if len(used) == 0:
            return None
        wide = int(np.broadcast_to(margin, 3)[axis])
        slices.append(slice(max(int(used[0]) - wide, 0), min(int(used[-1]) + 1 + wide, mask.shape[axis])))
    return (slices[0], slices[1], slices[2])


def matrix_of_image(image: Any) -> np.ndarray:
    """ijk_to_lps of a SimpleITK image or of an ImageFileReader whose header was read."""
    direction = np.array(image.GetDirection(), np.float64)
    size = round(len(direction) ** 0.5)
    matrix = np.eye(4)
    matrix[:3, :3] = direction.reshape(size, size)[:3, :3] * np.array(image.GetSpacing(), np.float64)[:3]
    matrix[:3, 3] = np.array(image.GetOrigin(), np.float64)[:3]
    return matrix


def check_size(name: str, size_ijk: tuple[int, ...]) -> None:
    """Refuses a grid larger than any head scan, before anything is allocated."""
    if max(size_ijk) > MAX_SIZE or int(np.prod(size_ijk, dtype=np.int64)) > MAX_VOXELS:
        shown = " x ".join(str(n) for n in size_ijk)
        raise RefusedInput("too-large", f"{name} has {shown} voxels, more than a head scan has.", "Crop it first.")


def check_matrix(name: str, ijk_to_lps: np.ndarray) -> None:
    """Refuses a matrix that places no grid in space: not finite, or flat."""
    axes = np.asarray(ijk_to_lps, float)[:3, :3]
    sizes = np.linalg.norm(axes, axis=0)
    if not np.isfinite(ijk_to_lps).all() or sizes.min() <= 0 or abs(np.linalg.det(axes / sizes)) < 1e-3:
        raise RefusedInput(
            "geometry", f"{name} has a matrix that places no grid in space: {np.round(axes, 6).tolist()}.",
            "Export it again with its geometry.",
        )


def read_layers(path: str | Path) -> Volume:
    """Reads an image with one or several numbers per voxel, (K, J, I) or (K, J, I, C); refusals as `read_volume`."""
    path = Path(path)
    if not path.is_file():
        raise RefusedInput("no-file", f"There is no file {path.name}.", "Check the path.")
    if nifti.is_nifti(path):
        header = nifti.read_header(path)
        check_size(path.name, header.size)
        check_matrix(path.name, header.ijk_to_lps)
        return Volume(nifti.read_voxels(path, header), header.ijk_to_lps)
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size = reader.GetSize()
        if len(size) != 3:
            raise RefusedInput(
                "not-3d", f"{path.name} is not a 3-D image (size {size}).", "Export one segmentation or one volume."
            )
        check_size(path.name, size)
        matrix = matrix_of_image(reader)
        check_matrix(path.name, matrix)
        image = reader.Execute()
    except RuntimeError as error:
        reason = str(error).splitlines()[-1]
        raise RefusedInput("unreadable", f"{path.name} cannot be read as an image.", reason) from error
    return Volume(sitk.GetArrayFromImage(image), matrix)


def read_volume(path: str | Path) -> Volume:
    """Reads a scalar 3-D image (.nrrd, .nii, .nii.gz, .mha); refuses no image, not 3-D, larger than a head."""
    volume = read_layers(path)
    if volume.array.ndim != 3:
        raise RefusedInput(
            "not-3d",
            f"{Path(path).name} is not a 3-D image with one value per voxel ({volume.array.shape[-1]} values).",
            "Export one segmentation or one volume.",
        )
    return volume


def write_volume(path: str | Path, volume: Volume, compress: bool = True) -> None:
    """Writes a volume (bool becomes uint8) as .nrrd, .nii, .nii.gz or .mha."""
    array = volume.array.astype(np.uint8) if volume.array.dtype == bool else volume.array
    if nifti.is_nifti(path):
        nifti.write_nifti(path, array, volume.ijk_to_lps)
        return
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    spacing = volume.spacing_mm
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(np.asarray(volume.ijk_to_lps)[:3, 3].tolist())
    image.SetDirection((np.asarray(volume.ijk_to_lps)[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path), compress)
