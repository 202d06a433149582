"""The files of MedShapeGen's results: place, unit, colour, scalars, report and pictures."""

import json

import numpy as np
import pytest
from ellipsoid_models import ellipsoid_models, ellipsoid_shape, piece_of
from MedShapeCore.surfaces import is_watertight, read_stl
from MedShapeGenLib import overview
from MedShapeGenLib.categories import category
from MedShapeGenLib.complete import complete
from MedShapeGenLib.generate import sample_shapes
from MedShapeGenLib.interpolate import interpolate
from MedShapeGenLib.options import CompleteOptions, GenerateOptions, InterpolateOptions, ReconstructOptions
from MedShapeGenLib.outputs import (
    RunFacts,
    write_completions,
    write_generated,
    write_interpolation,
    write_reconstruction,
)
from MedShapeGenLib.reconstruct import reconstruct
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkIOXML import vtkXMLPolyDataReader

MODELS = ellipsoid_models()
FACTS = RunFacts("cpu: processor", {"autoencoder.safetensors": "ab" * 32}, "0123456789abcdef", {"torch": "2"})
CENTRE = (10.0, 20.0, 30.0)
SHAPE = ellipsoid_shape((50, 36, 26), CENTRE, "case 7")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders with the files of each task, and its result."""
    made = {}
    for task, name in (("generate", "kidney"), ("synthetic", "artery_tree")):
        options = GenerateOptions(category=name, count=2, resolution=48, seed=4)
        made[task] = sample_shapes(MODELS, options), write_generated
    made["reconstruct"] = reconstruct(SHAPE, MODELS, ReconstructOptions(resolution=48)), write_reconstruction
    second = ellipsoid_shape((60, 30, 20), name="second")
    options = InterpolateOptions(resolution=48, steps=3)
    made["interpolate"] = interpolate(SHAPE, second, MODELS, options), write_interpolation
    piece = piece_of(SHAPE, lambda v: v[:, 2] < 33)
    options = CompleteOptions(category="kidney", count=2, resolution=48)
    made["complete"] = complete(piece, MODELS, options), write_completions
    folders = {}
    for task, (result, write) in made.items():
        folder = tmp_path_factory.mktemp(task)
        write(result, folder, FACTS)
        folders[task] = folder, result
    return folders


def read_vtp(path):
    reader = vtkXMLPolyDataReader()
    reader.SetFileName(str(path))
    reader.Update()
    return reader.GetOutput()


def scalars(mesh, name):
    return vtk_to_numpy(mesh.GetPointData().GetArray(name))


def report_of(folders, task):
    text = (folders[task][0] / "report.json").read_text(encoding="utf-8")
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


FILES = {
    "generate": {"kidney_1.stl", "kidney_1.vtp", "kidney_2.stl", "kidney_2.vtp"},
    "reconstruct": {"reconstruction.stl", "skeleton.vtp", "error.vtp"},
    "interpolate": {"step_1.stl", "step_2.stl", "step_3.stl"},
    "complete": {"completion_1.stl", "completion_1.vtp", "completion_2.stl", "completion_2.vtp"},
}


@pytest.mark.parametrize("task", FILES)
def test_the_promised_files_are_there_and_no_others(folders, task):
    names = {path.name for path in folders[task][0].iterdir()}
    assert names == FILES[task] | {"overview.png", "report.json"}
    assert set(report_of(folders, task)["files"]) == names


@pytest.mark.parametrize("task", FILES)
def test_every_report_says_notice_seed_options_weights_and_seconds(folders, task):
    report = report_of(folders, task)
    assert report["notice"] == "For research, not for clinical use." and report["task"] == task
    assert "LPS" in report["coordinates"] and report["seed"] == report["options"]["seed"]
    assert report["options"]["resolution"] == 48 and all(value >= 0 for value in report["seconds"].values())
    assert report["weights"]["files"] == FACTS.weights and "CC BY-NC-SA 4.0" in report["weights"]["licence"]
    assert report["device"] == "cpu: processor" and report["versions"] == {"torch": "2"}
    for shape in report["shapes"]:
        assert shape["passed"] and shape["failed"] == [] and shape["watertight"] and shape["components"] == 1
        assert 60 < shape["longest_mm"] < 150 and shape["volume_ml"] > 10
        vertices, _ = read_stl(folders[task][0] / shape["file"])
        assert np.allclose(np.ptp(vertices, axis=0), shape["box_mm"], atol=0.01)


@pytest.mark.parametrize("task", FILES)
def test_every_stl_is_closed_and_says_lps_mm_and_research(folders, task):
    for path in folders[task][0].glob("*.stl"):
        head = path.read_bytes()[:80]
        assert b"SPACE=LPS" in head and b"UNIT=MM" in head and b"not for clinical use" in head and b"synthetic" not in head
        assert is_watertight(read_stl(path)[1])


def test_a_synthetic_shape_says_so_in_header_report_and_warnings(folders):
    folder, _ = folders["synthetic"]
    head = (folder / "artery_tree_1.stl").read_bytes()[:80]
    assert b"synthetic" in head and b"SPACE=LPS" in head and b"not for clinical use" in head
    report = report_of(folders, "synthetic")
    assert report["category"]["synthetic"] is True and report["warnings"][0]["code"] == "synthetic"


def test_generated_models_have_the_category_s_colour(folders):
    mesh = read_vtp(folders["generate"][0] / "kidney_2.vtp")
    colors = scalars(mesh, "color")
    assert colors.dtype == np.uint8 and mesh.GetPointData().GetScalars().GetName() == "color"
    assert np.allclose(colors / 255, category("kidney").colour, atol=0.003)
    fields = mesh.GetFieldData()
    assert fields.GetAbstractArray("SPACE").GetValue(0) == "LPS"
    assert "research" in fields.GetAbstractArray("NOTICE").GetValue(0)


def test_the_report_says_that_a_generated_shape_has_no_place(folders):
    report = report_of(folders, "generate")
    assert "centred at the origin" in report["place"] and report["side"] == "left"
    assert report["category"]["licence"] == category("kidney").licence


def test_the_skeleton_is_drawn_points_with_a_radius_in_mm(folders):
    folder, result = folders["reconstruct"]
    mesh = read_vtp(folder / "skeleton.vtp")
    assert mesh.GetNumberOfPoints() == mesh.GetNumberOfVerts() == 256 and mesh.GetNumberOfPolys() == 0
    assert np.allclose(scalars(mesh, "radius_mm"), result.radii_mm, atol=1e-4)
    assert np.allclose(vtk_to_numpy(mesh.GetPoints().GetData()), result.skeleton_lps, atol=1e-3)


def test_the_error_lies_on_the_reconstruction(folders):
    folder, result = folders["reconstruct"]
    mesh = read_vtp(folder / "error.vtp")
    assert np.allclose(scalars(mesh, "error_mm"), result.error_mm, atol=1e-5)
    assert np.allclose(vtk_to_numpy(mesh.GetPoints().GetData()), result.solid.vertices_lps, atol=1e-3)
    report = report_of(folders, "reconstruct")
    assert report["figures"]["mean_mm"] < 0.2 and report["input"]["name"] == "case 7"
    assert np.allclose(report["input"]["centre_lps"], CENTRE, atol=0.1)


def test_completions_say_how_they_keep_to_the_given_surface(folders):
    report = report_of(folders, "complete")
    assert all(shape["given_median_mm"] < 1 for shape in report["shapes"])
    assert report["given"]["name"].startswith("piece of") and "scanner" in report["place"]


# ---- pictures


@pytest.mark.parametrize("task", FILES)
def test_every_overview_is_a_picture_with_something_on_it(folders, task):
    assert (folders[task][0] / "overview.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_sheet_draws_every_tile_at_one_scale(tmp_path):
    bodies = [ellipsoid_shape((half, half, half), (100 * n, 0, 0), rings=20) for n, half in enumerate((10, 20))]
    tiles = [overview.Tile((overview.Body(b.vertices_lps, b.triangles),), "ball") for b in bodies]
    picture = overview.sheet(tiles, "Title", "line", tmp_path / "sheet.png")
    area = [(tile_pixels(picture, n) < 250).any(axis=-1).sum() for n in (0, 1)]
    assert area[1] == pytest.approx(4 * area[0], rel=0.05) and area[1] > 0.5 * overview.TILE**2


def tile_pixels(picture, number):
    x = overview.GAP + number * (overview.TILE + overview.GAP)
    return picture[overview.HEAD : overview.HEAD + overview.TILE, x : x + overview.TILE]


def test_a_sheet_of_very_many_shapes_shows_the_first_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(overview, "TILE", 60)  # quicker, and the size of the sheet follows
    ball = ellipsoid_shape((10, 10, 10), rings=6)
    tile = overview.Tile((overview.Body(ball.vertices_lps, ball.triangles),), "ball")
    picture = overview.sheet([tile] * 60, "Title", "line", tmp_path / "sheet.png")
    assert picture.shape[0] < 600 and picture.shape[1] < 500


def test_red_is_outside_blue_inside_and_grey_agrees():
    colors = overview.signed_colors(np.array([-2.0, -1.0, 0.0, 1.0, 5.0]), 1.0)
    assert np.array_equal(colors[0], colors[1]) and np.array_equal(colors[3], colors[4])
    assert colors[1, 2] > 2 * colors[1, 0] and colors[3, 0] > 2 * colors[3, 2] and np.ptp(colors[2]) < 0.05


@pytest.mark.parametrize(("far_mm", "window_mm"), [(0.04, 0.1), (0.1, 0.1), (0.13, 0.2), (3.0, 5.0), (400.0, 50.0)])
def test_the_window_of_an_error_map_is_round_and_shows_nearly_all(far_mm, window_mm):
    assert overview.error_window_mm(np.linspace(-far_mm, far_mm, 2001) / 0.95) == window_mm
    assert overview.error_window_mm(np.zeros(0)) == 0.1


def test_a_ball_is_closed_and_round():
    vertices, triangles = overview.octahedral_ball()
    assert np.allclose(np.linalg.norm(vertices, axis=1), 1) and is_watertight(triangles)
    a, b, c = (vertices[triangles[:, n]] for n in range(3))
    assert (np.einsum("ij,ij->i", np.cross(b - a, c - a), a) > 0).all()  # outward
