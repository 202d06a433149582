"""The calvaria: above the plane of the rule, solid, one body; only training skulls are read."""

import io
import lzma

import numpy as np
import pytest
from MedShapeCore.errors import FailedResult
from MedShapeCore.surfaces import surface_volume_ml
from MedShapeGenLib.training import cranium
from MedShapeGenLib.training.decimation import sphere_like
from scipy import ndimage
from skull_cases import refusal

HALF = np.array([45.0, 60.0, 45.0])  # mm, outer half axes x, y, z of a small skull
SPACING = 1.5
PLATE = 9.0


def shell(spacing=SPACING):
    """Mask (K, J, I) of a closed shell, depth (K, J, I) below its outside in mm and the points (K, J, I, 3)."""
    size = np.ceil(2 * (HALF + 6.0) / spacing).astype(int)[::-1]
    k, j, i = (np.arange(n) * spacing - (n - 1) / 2 * spacing for n in size)
    points = np.stack(np.broadcast_arrays(i, j[:, None], k[:, None, None]), axis=-1)
    depth = (1.0 - np.linalg.norm(points / HALF, axis=-1)) * HALF.min()
    return (depth > 0) & (depth < PLATE), depth, points


def diploe(depth, points):
    """Hollow rooms in the plate, wider than the first closing reaches: one under the vertex, one that the cut opens."""
    x, y, z = np.moveaxis(points, -1, 0)
    room = (np.hypot(x, y) < 36.0) & (z > 0)
    opened = (y > 30.0) & (np.abs(x) < 15.0) & (z < 20.0)
    return (depth > 1.8) & (depth < 7.2) & (room | opened)


@pytest.fixture(scope="module")
def whole():
    mask, depth, points = shell()
    return cranium.calvaria(mask & ~diploe(depth, points), SPACING), points


def test_the_plate_is_one_solid_body(whole):
    (vertices, triangles), _ = whole
    assert sphere_like(vertices, triangles) and len(triangles) <= cranium.MOST_TRIANGLES
    # The upper part of a shell from half axes H to H - 9 mm (scaled): volume between two ellipsoids above z0.
    inner = HALF * (1 - PLATE / HALF.min())

    def cap(a, height_from):
        t = height_from / a[2]
        return np.pi * a[0] * a[1] * a[2] * (2 / 3 - t + t**3 / 3)

    z0 = HALF[2] - cranium.HEIGHT_SHARE * 2 * HALF[1]
    assert np.isclose(surface_volume_ml(vertices, triangles), (cap(HALF, z0) - cap(inner, z0)) / 1000, rtol=0.05)


def test_diploe_is_filled_by_the_first_closing_open_or_closed():
    mask, depth, points = shell()
    hollow = diploe(depth, points)
    cap, (k, j, i) = cranium.vault_mask(mask & ~hollow, SPACING)
    here = tuple(slice(start, start + size) for start, size in zip((k, j, i), cap.shape, strict=True))
    solid = cranium.solid_plate(cap, cranium.CLOSING_MM[0] / SPACING, SPACING)
    assert hollow[here].sum() > 5000 and solid[hollow[here]].all()
    assert (solid & ~mask[here]).sum() < 0.01 * solid.sum()  # and nothing else is


def test_the_plane_lies_where_the_rule_says(whole):
    (vertices, _), points = whole
    height = np.ptp(vertices[:, 2])
    assert abs(height - cranium.HEIGHT_SHARE * 2 * HALF[1]) < 2 * SPACING  # within 50 mm of the top lies the whole length
    top = np.abs(points[..., 2]).max() + HALF[2]  # of the vertex above the first voxel's centre
    assert abs(vertices[:, 2].max() - top) < SPACING


def test_a_hole_that_no_closing_fills_is_told():
    mask, _, points = shell()
    hole = np.linalg.norm(points[..., :2], axis=-1) < 15.0
    with pytest.raises(FailedResult):
        cranium.calvaria(mask & ~(hole & (points[..., 2] > 0)), SPACING)


def test_loose_pieces_do_not_count():
    mask, _, _ = shell()
    assert refusal(cranium.calvaria, np.zeros_like(mask), SPACING).code == "empty-mask"
    mask = np.pad(mask, ((0, 20), (0, 0), (0, 0)))
    mask[-3:, 10:14, 10:14] = True  # a speck above the vertex
    cap, corner = cranium.vault_mask(mask, SPACING)
    assert ndimage.label(cap)[1] == 1 and corner[0] + cap.shape[0] < len(mask) - 10


def write_skulls(folder):
    mask, _, _ = shell(3.0)
    arrays = {"mm": np.float32(3.0), "names": np.array(["001", "008", "004"])}
    for name in ("001", "008", "004"):
        arrays[f"{name}/complete"] = np.packbits(mask, -1)
        arrays[f"{name}/shape"], arrays[f"{name}/origin"] = np.int32(mask.shape), np.float32([1, 2, 3])
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with lzma.open(folder / "skullfix_1mm.npz.xz", "wb") as file:
        file.write(buffer.getvalue())
    (folder / "skullfix.csv").write_text("id,split\n000,train\n001,train\n004,train\n008,validation\n")
    return mask


def test_validation_skulls_are_never_read(tmp_path):
    mask = write_skulls(tmp_path)
    skulls = list(cranium.training_skulls(tmp_path))
    assert [s.key for s in skulls] == ["001", "004"]  # nor 000, whose mask has a bandage
    assert np.array_equal(skulls[0].mask, mask) and skulls[0].spacing_mm == 3.0
    assert refusal(lambda: list(cranium.training_skulls(tmp_path / "no"))).code == "no-file"


def test_a_prepared_calvaria_lies_in_its_scan_and_knows_its_split(tmp_path):
    write_skulls(tmp_path)
    one, two = (cranium.prepared_calvaria(skull) for skull in cranium.training_skulls(tmp_path))
    assert (one.id, one.split, one.source) == ("skullfix_001", "train", "skullfix") and two.split == "val"
    size = np.ceil(2 * (HALF + 6.0) / 3.0).astype(int)
    middle = one.vertices_lps.min(axis=0) / 2 + one.vertices_lps.max(axis=0) / 2
    assert np.allclose(middle[:2], ((size - 1) / 2 * 3.0 + [1, 2, 3])[:2], atol=1.5)


def test_a_damaged_file_is_refused(tmp_path):
    write_skulls(tmp_path)
    (tmp_path / "skullfix_1mm.npz.xz").write_bytes(b"no archive")
    assert refusal(lambda: list(cranium.training_skulls(tmp_path))).code == "unreadable"
