"""A folder of shapes becomes a pack: complete, exact, the same whatever the number of processes."""

import numpy as np
import pytest
from MedShapeCore.errors import OptionError
from MedShapeCore.surfaces import write_stl
from MedShapeGenLib.training import prepare as preparing
from MedShapeGenLib.training.own_shapes import split_of, subject_of
from MedShapeGenLib.training.prepare import PrepareOptions, prepare, write_category
from MedShapeGenLib.training.queries import positions_u
from MedShapeGenLib.training.shape_pack import read_categories
from shape_cases import sphere
from skull_cases import refusal
from test_msg_anatomy import ROWS, write_anatomy

SMALL = PrepareOptions(points=2560, queries=256, processes=1)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Packs of few queries, unless a test asks for others."""
    monkeypatch.setattr(preparing.PrepareOptions.__init__, "__defaults__", (2560, 256, 0, 1))


@pytest.fixture
def folder(tmp_path):
    for place, name, size in (("kidney", "case7_L", 50), ("kidney", "case7_R", 52), ("liver", "case7", 100)):
        (tmp_path / "own" / place).mkdir(parents=True, exist_ok=True)
        write_stl(tmp_path / "own" / place / f"{name}.stl", *sphere(size, (10.0, 20.0, 30.0)))
    return tmp_path / "own"


def stored(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def test_a_folder_of_meshes_becomes_a_pack_that_training_reads(folder, tmp_path):
    said = []
    assert prepare(folder, tmp_path / "pack", progress=said.append) == tmp_path / "pack"
    kidneys, liver = read_categories(tmp_path / "pack")
    assert (kidneys.name, list(kidneys.ids), liver.name) == ("kidney", ["case7_L", "case7_R"], "liver")
    assert np.allclose(kidneys.scale_mm, [50, 52], rtol=1e-3) and set(kidneys.source) == {"own"}
    vertices, triangles = kidneys.mesh(1)
    assert np.allclose(np.abs(vertices).max(axis=0), 1.0, atol=0.01) and len(triangles) == 960
    assert any("kidney shapes=2 train=" in line for line in said)


def test_the_pack_has_the_arrays_of_the_contract(folder, tmp_path):
    prepare(folder, tmp_path / "pack", progress=lambda _: None)
    z = stored(tmp_path / "pack" / "shapes" / "kidney.npz")
    n, vertices, triangles = 2, *map(len, sphere())
    expected = {
        "points": (np.int16, (n, 2560, 3)), "normals": (np.int8, (n, 2560, 3)), "queries": (np.int16, (n, 256, 3)),
        "sdf": (np.float16, (n, 256)), "verts": (np.float32, (n * vertices, 3)), "faces": (np.int32, (n * triangles, 3)),
        "scale_mm": (np.float32, (n,)), "mirrored": (bool, (n,)),
    }  # fmt: skip
    for name, (kind, shape) in expected.items():
        assert z[name].dtype == kind and z[name].shape == shape, name
    assert z["voff"].tolist() == [0, vertices, 2 * vertices] and z["foff"].tolist() == [0, triangles, 2 * triangles]
    assert set(z) == {*expected, "id", "split", "source", "licence", "voff", "foff"}


def test_stored_distances_are_those_at_the_stored_positions(folder, tmp_path):
    prepare(folder, tmp_path / "pack", progress=lambda _: None)
    z = stored(tmp_path / "pack" / "shapes" / "liver.npz")
    truth = np.linalg.norm(positions_u(z["queries"][0]), axis=1) - 1.0  # of the ball; the mesh lies up to 0.005 u below
    assert np.abs(z["sdf"][0].astype(float) - truth).max() < 0.01 and (z["sdf"] < 0).any()
    points = positions_u(z["points"][0])
    assert np.abs(np.linalg.norm(points, axis=1) - 1.0).max() < 0.01
    assert (np.sum(points * z["normals"][0], axis=1) / 127 > 0.97).all()


def test_right_organs_are_mirrored_and_share_the_split_of_their_subject(folder, tmp_path):
    prepare(folder, tmp_path / "pack", progress=lambda _: None)
    z = stored(tmp_path / "pack" / "shapes" / "kidney.npz")
    assert z["mirrored"].tolist() == [False, True]
    assert z["split"][0] == z["split"][1] == split_of("case7") != split_of("case7_L")  # by subject, not by file
    assert subject_of("case7_R") == subject_of("case7_left") == "case7" and subject_of("7.Rt.b") == "7.b"
    splits = [split_of(f"subject{n}") for n in range(2000)]
    assert abs(splits.count("train") / 2000 - 0.8) < 0.03 and abs(splits.count("val") / 2000 - 0.1) < 0.03


def test_the_pack_is_the_same_with_one_process_and_with_two(folder, tmp_path):
    for processes in (1, 2):
        prepare(folder, tmp_path / str(processes), processes=processes, progress=lambda _: None)
    for name in ("kidney", "liver"):
        one, two = (stored(tmp_path / n / "shapes" / f"{name}.npz") for n in "12")
        assert all(np.array_equal(one[key], two[key]) for key in one)


def test_a_shape_is_drawn_the_same_alone_and_among_others_and_differs_by_seed(folder, tmp_path):
    prepare(folder, tmp_path / "all", progress=lambda _: None)
    (folder / "kidney" / "case7_L.stl").unlink()
    prepare(folder, tmp_path / "one", progress=lambda _: None)
    prepare(folder, tmp_path / "other", seed=1, progress=lambda _: None)
    everything, alone, other = (stored(tmp_path / n / "shapes" / "kidney.npz") for n in ("all", "one", "other"))
    assert np.array_equal(everything["queries"][1], alone["queries"][0])
    assert not np.array_equal(alone["queries"], other["queries"]) and np.array_equal(alone["verts"], other["verts"])


def test_a_bad_file_is_left_out_and_told(folder, tmp_path):
    vertices, triangles = sphere(50.0)
    write_stl(folder / "kidney" / "torn.stl", vertices, triangles[3:])
    said = []
    prepare(folder, tmp_path / "pack", progress=said.append)
    assert stored(tmp_path / "pack" / "shapes" / "kidney.npz")["id"].tolist() == ["case7_L", "case7_R"]
    assert [line for line in said if "left out" in line and "torn is not closed" in line]


def test_nothing_usable_and_unknown_categories_are_refused(folder, tmp_path):
    assert refusal(prepare, tmp_path / "none", tmp_path / "pack").code == "no-folder"
    assert refusal(prepare, tmp_path / "own" / "liver", tmp_path / "pack").code == "no-shapes"
    (folder / "kidny").mkdir()
    assert "kidney" in refusal(prepare, folder, tmp_path / "pack").hint
    assert refusal(prepare, folder, tmp_path / "pack", categories=("kidny",)).code == "unknown-category"
    assert not (tmp_path / "pack").exists()


def test_the_anatomical_folder_is_known_by_its_table(tmp_path):
    root = write_anatomy(tmp_path / "a", [*ROWS, ("f", "femur", "train", ROWS[0][3])], [sphere(r) for r in (5, 6, 7, 8)])
    said = []
    prepare(root, tmp_path / "pack", categories=("kidney", "calvaria", "liver"), measure=True, progress=said.append)
    assert [p.relative_to(tmp_path / "pack").as_posix() for p in sorted((tmp_path / "pack").rglob("*.npz"))] == [
        "measure/femur.npz", "shapes/kidney.npz"
    ]  # fmt: skip
    assert stored(tmp_path / "pack" / "shapes" / "kidney.npz")["split"].tolist() == ["train", "val"]
    assert [line for line in said if line.startswith("prepare calvaria shapes=0")]


def test_no_half_file_is_left_when_writing_fails(tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    root = write_anatomy(tmp_path / "a", ROWS[:1], [sphere()])
    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError):
        write_category(preparing.read_anatomy(root, ("kidney",)), tmp_path / "kidney.npz", SMALL, lambda _: None)
    assert not list(tmp_path.glob("*.npz"))


@pytest.mark.parametrize("wrong", [{"points": 100}, {"queries": 0}, {"processes": 0}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(OptionError):
        PrepareOptions(**wrong)
