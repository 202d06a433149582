"""NIfTI files with any matrix, sheared ones included, which ITK refuses to read and silently straightens when writing.

The layout follows the NIfTI-1 and NIfTI-2 headers (nifti1.h, nifti2.h of the NIfTI Data Format Working Group).
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .errors import RefusedInput

DTYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}
MM_PER_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}  # metre, millimetre, micrometre; 0 = not said, taken as mm
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
ORTHONORMAL_TOLERANCE = 1e-4  # cosine between two axes, as ITK allows


@dataclass(frozen=True)
class NiftiHeader:
    """What is needed of a header: size (I, J, K), matrix in LPS mm, and how the voxels are stored."""

    size: tuple[int, ...]
    ijk_to_lps: np.ndarray  # (4, 4)
    dtype: np.dtype
    offset: int  # first byte of the voxels
    slope: float
    intercept: float


def is_nifti(path: str | Path) -> bool:
    return str(path).lower().endswith((".nii", ".nii.gz"))


def open_bytes(path: Path) -> BinaryIO:
    """The file's content, unpacked where it is gzipped, whatever its name says."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else open(path, "rb")  # type: ignore[return-value]


def parse_header(raw: bytes, name: str) -> NiftiHeader:
    """Reads the first 348 (NIfTI-1) or 540 (NIfTI-2) bytes; refuses what is no NIfTI or no 3-D scalar image."""
    order, version = "", 0
    for candidate in "<>":
        head = struct.unpack_from(candidate + "i", raw)[0] if len(raw) >= 348 else 0
        if head in (348, 540):
            order, version = candidate, 1 if head == 348 else 2
    if not version or (version == 2 and len(raw) < 540):
        raise RefusedInput("unreadable", f"{name} has no NIfTI header.", "Export it again, as .nrrd or .nii.gz.")

    def get(layout: str, first: int, second: int) -> tuple:
        return struct.unpack_from(order + layout, raw, first if version == 1 else second)

    dim = get("8h" if version == 1 else "8q", 40, 16)
    pixdim = get("8f" if version == 1 else "8d", 76, 104)
    datatype = get("h", 70, 12)[0]
    offset = int(get("f" if version == 1 else "q", 108, 168)[0])
    slope, intercept = get("2f" if version == 1 else "2d", 112, 176)
    units = get("B" if version == 1 else "i", 123, 500)[0]
    qform_code, sform_code = get("2h" if version == 1 else "2i", 252, 344)
    quaternion = get("6f" if version == 1 else "6d", 256, 352)
    rows = get("12f" if version == 1 else "12d", 280, 400)

    count = dim[0]
    if not 3 <= count <= 7 or min(dim[1:4]) < 1 or any(n > 1 for n in dim[4 : count + 1]):
        raise RefusedInput(
            "not-3d", f"{name} is not a 3-D image with one value per voxel (size {tuple(dim[1:max(count, 0) + 1])}).",
            "Export one segmentation or one volume.",
        )
    if datatype not in DTYPES:
        raise RefusedInput(
            "not-3d", f"{name} stores voxels of NIfTI type {datatype}, not one number per voxel.",
            "Export one segmentation or one volume.",
        )
    matrix = np.eye(4)
    if sform_code > 0 and abs(np.linalg.det(np.reshape(rows, (3, 4))[:, :3])) > 0:
        matrix[:3] = np.reshape(rows, (3, 4))
        matrix = LPS_FROM_RAS @ matrix
    elif qform_code > 0:
        matrix[:3, :3] = rotation_of(*quaternion[:3]) * np.array(pixdim[1:4])
        matrix[:3, 2] *= -1.0 if pixdim[0] < 0 else 1.0
        matrix[:3, 3] = quaternion[3:]
        matrix = LPS_FROM_RAS @ matrix
    else:  # neither says where the patient is: taken as LPS, as ITK does
        matrix[:3, :3] = np.diag(pixdim[1:4])
    matrix[:3] *= MM_PER_UNIT.get(units & 7, 1.0)
    scaled = np.isfinite(slope) and slope != 0
    return NiftiHeader(
        tuple(int(n) for n in dim[1:4]), matrix, np.dtype(order + DTYPES[datatype]), offset,
        float(slope) if scaled else 1.0, float(intercept) if scaled and np.isfinite(intercept) else 0.0,
    )


def rotation_of(b: float, c: float, d: float) -> np.ndarray:
    """(3, 3) rotation of the unit quaternion (a, b, c, d) with a >= 0 left out, as NIfTI stores it."""
    a = np.sqrt(max(0.0, 1.0 - b * b - c * c - d * d))
    return np.array([
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ])


def read_header(path: Path) -> NiftiHeader:
    """The header of a .nii or .nii.gz file; refuses what cannot be read."""
    try:
        with open_bytes(path) as file:
            return parse_header(file.read(540), path.name)
    except (OSError, EOFError, zlib.error) as error:
        raise RefusedInput("unreadable", f"{path.name} cannot be read as an image.", str(error)) from error


def read_voxels(path: Path, header: NiftiHeader) -> np.ndarray:
    """The voxels (K, J, I) of a file whose header was read; a file that is too short is refused."""
    count = int(np.prod(header.size, dtype=np.int64))
    try:
        with open_bytes(path) as file:
            file.seek(header.offset)
            raw = file.read(count * header.dtype.itemsize)
    except (OSError, EOFError, zlib.error) as error:
        raise RefusedInput("unreadable", f"{path.name} cannot be read as an image.", str(error)) from error
    if len(raw) < count * header.dtype.itemsize:
        message = f"{path.name} ends after {len(raw)} of {count * header.dtype.itemsize} bytes."
        raise RefusedInput("unreadable", message, "Copy it again.")
    array = np.frombuffer(raw, header.dtype).reshape(header.size[::-1])
    array = array.astype(header.dtype.newbyteorder("="))
    if (header.slope, header.intercept) != (1.0, 0.0):
        array = array.astype(np.float32) * np.float32(header.slope) + np.float32(header.intercept)
    return array


def write_nifti(path: str | Path, array: np.ndarray, ijk_to_lps: np.ndarray) -> None:
    """Writes (K, J, I) numbers as NIfTI-1: the exact matrix as sform, and a qform where the axes are orthonormal."""
    codes = {text: code for code, text in DTYPES.items()}
    text = array.dtype.str[1:]
    if text not in codes or max(array.shape) > 32767:
        raise ValueError(f"NIfTI-1 cannot hold {array.dtype} voxels of shape {array.shape}")
    matrix = LPS_FROM_RAS @ np.asarray(ijk_to_lps, float)
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    axes = matrix[:3, :3] / spacing
    header = bytearray(352)  # 348 bytes and an empty extension flag
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *array.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, codes[text], 8 * array.dtype.itemsize)
    handed = 1.0 if np.linalg.det(axes) > 0 else -1.0
    struct.pack_into("<8f", header, 76, handed, *spacing, 0, 0, 0, 0)
    struct.pack_into("<3f", header, 108, 352, 1, 0)
    header[123] = 2  # mm
    if np.abs(axes.T @ axes - np.eye(3)).max() < ORTHONORMAL_TOLERANCE:
        from scipy.spatial.transform import Rotation

        x, y, z, w = Rotation.from_matrix(axes * [1, 1, handed]).as_quat()
        sign = -1.0 if w < 0 else 1.0
        struct.pack_into("<h", header, 252, 1)
        struct.pack_into("<6f", header, 256, sign * x, sign * y, sign * z, *matrix[:3, 3])
    struct.pack_into("<h", header, 254, 1)
    struct.pack_into("<12f", header, 280, *matrix[:3].ravel())
    header[344:348] = b"n+1\0"
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    if str(path).lower().endswith(".gz"):
        with open(path, "wb") as file, gzip.GzipFile("", "wb", 4, file, mtime=0) as packed:  # mtime 0: same bytes again
            packed.write(bytes(header))
            packed.write(little.data)
    else:
        with open(path, "wb") as file:
            file.write(bytes(header))
            file.write(little.data)
