"""The folder of anatomical shapes is read into LPS, and paired organs are all of the left side."""

import csv

import numpy as np
import pytest
from MedShapeCore.surfaces import components, surface_volume_ml
from MedShapeGenLib.categories import SOURCES
from MedShapeGenLib.training.anatomy import (
    SOURCE_WORDS,
    available_categories,
    category_meshes,
    mirrored_in_x,
    read_anatomy,
    right_sided,
    source_of,
)
from shape_cases import sphere, together
from skull_cases import refusal

KITS, SPLEEN = "github.com/neheller/kits23 (KiTS23)", "github.com/jadie1/Point2SSM (Medical Segmentation Decathlon Task09)"


def write_anatomy(root, rows, surfaces):
    """A folder in the format of the anatomical shapes: rows (id, category, split, source), surfaces in its own frame."""
    (root / "meshes").mkdir(parents=True, exist_ok=True)
    with open(root / "subjects.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "category", "split", "source", "licence", "subject"])
        table.writerows([[*row, "CC BY 4.0", row[0]] for row in rows])
    for category in {row[1] for row in rows}:
        columns = {name: [] for name in ("id", "verts", "faces", "origin", "scale")}
        voff, foff = [0], [0]
        for row, (vertices, triangles) in zip(rows, surfaces, strict=True):
            if row[1] != category:
                continue
            origin = vertices.min(axis=0)
            scale = np.maximum(np.ptp(vertices, axis=0), 1e-9) / 65535
            q = np.rint((vertices - origin) / scale).astype(np.uint16)
            columns["id"].append(row[0])
            columns["verts"].append(np.diff(q, axis=0, prepend=np.zeros((1, 3), np.uint16)).T)  # modulo 65536
            # Corners relative to the first, which must be the smallest of its triangle.
            turned = np.array([np.roll(t, -int(np.argmin(t))) for t in triangles], np.int64)
            turned = turned[np.argsort(turned[:, 0], kind="stable")]
            step = np.diff(turned[:, 0], prepend=0)
            columns["faces"].append(np.stack([step, turned[:, 1] - turned[:, 0], turned[:, 2] - turned[:, 0]]).astype(np.uint16))
            columns["origin"].append(origin.astype(np.float32))
            columns["scale"].append(scale)
            voff.append(voff[-1] + len(vertices))
            foff.append(foff[-1] + len(triangles))
        np.savez(
            root / "meshes" / f"{category}.npz", id=np.array(columns["id"]), verts=np.concatenate(columns["verts"], axis=1),
            faces=np.concatenate(columns["faces"], axis=1), origin=np.array(columns["origin"]),
            scale=np.array(columns["scale"]), voff=np.int32(voff), foff=np.int32(foff),
        )  # fmt: skip
    return root


ROWS = [("a_L", "kidney", "train", KITS), ("a_R", "kidney", "val", KITS), ("s1", "spleen", "test", SPLEEN)]


@pytest.fixture
def root(tmp_path):
    middle = (10.0, 20.0, 30.0)  # to the right, to the front, up: RAS mm
    return write_anatomy(tmp_path / "anatomy", ROWS, [sphere(5.0, middle), sphere(6.0, middle), sphere(7.0, middle)])


def test_shapes_come_in_lps_with_their_splits_and_sources(root):
    left, right = read_anatomy(root, ("kidney",))
    assert (left.id, left.split, left.source, left.licence) == ("a_L", "train", "kits23", "CC BY 4.0")
    assert np.allclose((left.vertices_lps.min(0) + left.vertices_lps.max(0)) / 2, (-10, -20, 30), atol=0.01)
    assert right.split == "val" and (left.mirrored, right.mirrored) == (False, True)
    for shape in (left, right):
        assert surface_volume_ml(shape.vertices_lps, shape.triangles) > 0


def test_a_right_organ_becomes_a_left_one(root):
    right = list(read_anatomy(root, ("kidney",)))[1]
    assert np.allclose((right.vertices_lps.min(0) + right.vertices_lps.max(0)) / 2, (10, -20, 30), atol=0.01)


def test_a_source_that_is_in_lps_already_stays_as_it_is(root):
    (spleen,) = read_anatomy(root, ("spleen",))
    assert np.allclose((spleen.vertices_lps.min(0) + spleen.vertices_lps.max(0)) / 2, (10, 20, 30), atol=0.01)


def test_vertices_and_corners_are_exact(root):
    vertices, triangles = sphere(5.0, (10.0, 20.0, 30.0))
    key, read, corners = next(category_meshes(root, "kidney"))
    assert key == "a_L" and np.abs(read - vertices).max() < 1e-4
    as_sets = {tuple(np.roll(t, -int(np.argmin(t)))) for t in triangles}
    assert {tuple(t) for t in corners} == as_sets and len(corners) == len(triangles)


def test_cavities_and_islands_are_left_out(tmp_path):
    inner = sphere(1.0)
    organ = together(sphere(5.0), (inner[0], inner[1][:, ::-1]), sphere(1.0, (8.0, 0, 0)))
    (shape,) = read_anatomy(write_anatomy(tmp_path, ROWS[:1], [organ]), ("kidney",))
    assert len(shape.vertices_lps) == len(sphere()[0]) and components(shape.triangles) == 1
    assert np.isclose(np.abs(shape.vertices_lps).max(), 5.0, atol=0.01)


def test_sides_are_told_by_the_end_of_the_id():
    assert right_sided("case_00001_R") and right_sided("tcia_0522c0017_Rt")
    assert not right_sided("case_00001_L") and not right_sided("tcia_R_Lt") and not right_sided("moct_11")


def test_mirroring_twice_changes_nothing():
    surface = sphere(5.0, (1.0, 2.0, 3.0))
    twice = mirrored_in_x(*mirrored_in_x(*surface))
    assert np.array_equal(twice[0], surface[0]) and np.array_equal(twice[1], surface[1])


def test_every_source_in_the_folder_has_a_row_in_the_table():
    assert set(SOURCE_WORDS.values()) <= set(SOURCES)
    assert source_of(KITS) == "kits23" and source_of(SPLEEN) == "msd-spleen"
    assert refusal(source_of, "somewhere else").code == "anatomy"


def test_a_folder_without_the_data_is_refused(root, tmp_path):
    assert available_categories(root) == ["kidney", "spleen"]
    assert refusal(lambda: list(read_anatomy(root, ("liver",)))).code == "no-file"
    assert refusal(lambda: list(read_anatomy(tmp_path, ("liver",)))).code == "no-file"
    (root / "meshes" / "kidney.npz").write_bytes(b"nothing")
    assert refusal(lambda: list(read_anatomy(root, ("kidney",)))).code == "unreadable"
    write_anatomy(root, ROWS[:1], [sphere()])
    (root / "subjects.csv").write_text("id,category,split,source,licence,subject\n")
    assert refusal(lambda: list(read_anatomy(root, ("kidney",)))).code == "anatomy"
