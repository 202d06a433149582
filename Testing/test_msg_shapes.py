"""A shape is read in LPS mm from every kind of file, and everything that is no shape is refused with its own sentence."""

import numpy as np
import pytest
import SimpleITK as sitk
from MedShapeCore.surfaces import is_watertight, surface_volume_ml, write_stl, write_vtp
from MedShapeCore.volumes import Volume, write_volume
from MedShapeGenLib.intersections import crossing_triangles
from MedShapeGenLib.shapes import Shape, checked_shape, fps_subset, normalise, read_shape, read_surface, surface_points
from shape_cases import cube, euler, sphere, together
from skull_cases import refusal

PLACE = (10.0, -20.0, 30.0)  # LPS mm


def write_mesh(path, vertices, triangles):
    """A text .obj or .ply, an .stl or a .vtp."""
    if path.suffix == ".stl":
        write_stl(path, vertices, triangles)
    elif path.suffix == ".vtp":
        write_vtp(path, vertices, triangles, {})
    elif path.suffix == ".obj":
        lines = ["v {} {} {}".format(*v) for v in vertices] + ["f {} {} {}".format(*(t + 1)) for t in triangles]
        path.write_text("\n".join(lines) + "\n")
    else:
        head = ["ply", "format ascii 1.0", f"element vertex {len(vertices)}", *(f"property float {a}" for a in "xyz"),
                f"element face {len(triangles)}", "property list uchar int vertex_indices", "end_header"]  # fmt: skip
        lines = ["{} {} {}".format(*v) for v in vertices] + ["3 {} {} {}".format(*t) for t in triangles]
        path.write_text("\n".join(head + lines) + "\n")
    return path


def ball_mask(radius=8.0, size=24, spacing=1.0):
    k, j, i = np.indices((size,) * 3) - (size - 1) / 2
    mask = (i**2 + j**2 + k**2) * spacing**2 < radius**2
    matrix = np.diag([spacing] * 3 + [1.0])
    matrix[:3, 3] = np.array(PLACE) - (size - 1) / 2 * spacing
    return mask, matrix


# ---- reading


@pytest.mark.parametrize("ending", [".stl", ".ply", ".obj", ".vtp"])
def test_a_mesh_keeps_its_place_and_its_outside(tmp_path, ending):
    path = write_mesh(tmp_path / f"liver{ending}", *sphere(12.0, PLACE))
    shape = read_shape(path)
    assert shape.name == "liver" and is_watertight(shape.triangles) and euler(shape.vertices_lps, shape.triangles) == 2
    assert shape.vertices_lps.dtype == np.float64 and shape.triangles.dtype == np.int32
    assert np.allclose(np.linalg.norm(shape.vertices_lps - PLACE, axis=1), 12.0, atol=1e-4)
    assert surface_volume_ml(shape.vertices_lps, shape.triangles) > 6.9  # a ball of 12 mm has 7.24 ml


@pytest.mark.parametrize("ending", [".stl", ".obj"])
def test_a_header_that_says_ras_is_believed(tmp_path, ending):
    path = tmp_path / f"liver{ending}"
    vertices, triangles = sphere(12.0, PLACE)
    if ending == ".stl":
        write_stl(path, vertices, triangles, "3D Slicer output. SPACE=RAS")
    else:
        write_mesh(path, vertices, triangles)
        path.write_text("# SPACE=RAS\n" + path.read_text())
    shape = read_shape(path)
    assert np.allclose(np.linalg.norm(shape.vertices_lps - np.array(PLACE) * (-1, -1, 1), axis=1), 12.0, atol=1e-4)
    assert surface_volume_ml(shape.vertices_lps, shape.triangles) > 0


@pytest.mark.parametrize("ending", [".nrrd", ".nii", ".nii.gz", ".mha"])
def test_a_mask_gives_its_sub_voxel_surface(tmp_path, ending):
    mask, matrix = ball_mask()
    write_volume(tmp_path / f"case{ending}", Volume(mask, matrix))
    shape = read_shape(tmp_path / f"case{ending}")
    away = np.linalg.norm(shape.vertices_lps - PLACE, axis=1)
    assert shape.name == "case" and np.abs(away - 8.0).max() < 0.6 and abs(away.mean() - 8.0) < 0.15  # voxels of 1 mm


def two_segments(path):
    mask, matrix = ball_mask()
    labels = mask.astype(np.uint8) + 2 * np.roll(ball_mask(2.0)[0], 10, axis=2)
    image = sitk.GetImageFromArray(labels)
    image.SetOrigin(matrix[:3, 3].tolist())
    for n, name in enumerate(("Kidney", "Spleen")):
        for key, value in (("ID", f"S{n}"), ("Name", name), ("LabelValue", n + 1), ("Layer", 0)):
            image.SetMetaData(f"Segment{n}_{key}", str(value))
    sitk.WriteImage(image, str(path))
    return path


def test_one_segment_of_several_is_read_by_its_name(tmp_path):
    path = two_segments(tmp_path / "case.seg.nrrd")
    assert abs(read_shape(path, segment="kidney").longest_mm - 16.0) < 1.0
    assert abs(read_shape(path, segment="Spleen").longest_mm - 4.0) < 1.0
    assert refusal(read_shape, path, segment="Liver").code == "unknown-segment"
    error = refusal(read_shape, path)
    assert error.code == "several-organs" and '"Kidney", "Spleen"' in error.message


def test_one_label_of_several_is_read_by_its_number(tmp_path):
    mask, matrix = ball_mask()
    labels = np.where(mask, np.uint8(3), 0)
    labels[0, 0, 0] = 7
    write_volume(tmp_path / "case.nii.gz", Volume(labels, matrix))
    assert abs(read_shape(tmp_path / "case.nii.gz", segment="3").longest_mm - 16.0) < 1.0
    assert refusal(read_shape, tmp_path / "case.nii.gz").code == "several-organs"
    assert refusal(read_shape, tmp_path / "case.nii.gz", segment="4").code == "unknown-segment"


def test_a_piece_of_a_surface_may_be_open(tmp_path):
    vertices, triangles = sphere(12.0, PLACE)
    path = write_mesh(tmp_path / "piece.stl", vertices, triangles[:200])
    piece = read_surface(path)
    assert len(piece.triangles) == 200 and np.allclose(np.linalg.norm(piece.vertices_lps - PLACE, axis=1), 12.0, atol=1e-4)
    assert refusal(read_shape, path).code == "open-mesh"


# ---- what is mended


def test_an_inside_out_surface_is_turned():
    vertices, triangles = sphere()
    shape = checked_shape(vertices, triangles[:, ::-1], "x")
    assert surface_volume_ml(shape.vertices_lps, shape.triangles) > 0


def test_equal_vertices_are_joined():
    vertices, triangles = sphere()
    soup = vertices[triangles].reshape(-1, 3)  # as files repeat them
    soup[soup == 0.0] = -0.0
    shape = checked_shape(soup, np.arange(len(soup)).reshape(-1, 3), "x")
    assert len(shape.vertices_lps) == len(vertices) and len(shape.triangles) == len(triangles)


def test_one_crossing_in_thousands_of_triangles_is_let_pass():
    # What decimation of a mask's surface leaves now and then; here a vertex pulled through the far side.
    vertices, triangles = sphere(rings=40)
    near, far = int(np.argmax(vertices[:, 0])), triangles[np.argmin(vertices[triangles].mean(axis=1)[:, 0])]
    vertices[near] = vertices[far].mean(axis=0) * 1.001
    assert 0 < len(crossing_triangles(vertices, triangles)) < 12 and len(triangles) == 6240
    assert len(checked_shape(vertices, triangles, "x").triangles) == 6240


def test_specks_and_cavities_are_left_out():
    cavity = sphere(3.0)
    surface = together(sphere(10.0), (cavity[0], cavity[1][:, ::-1]), sphere(2.0, (20.0, 0, 0)))  # the speck: 0.8 %
    shape = checked_shape(*surface, "x")
    assert len(shape.vertices_lps) == len(sphere()[0]) and np.isclose(shape.longest_mm, 20.0)


# ---- refusals


def test_an_open_mesh_is_refused():
    vertices, triangles = sphere()
    error = refusal(checked_shape, vertices, triangles[:-1], "x")
    assert error.code == "open-mesh" and "3 of its" in error.message


def test_a_mesh_with_a_triangle_turned_round_is_refused():
    vertices, triangles = sphere()
    triangles[5] = triangles[5, ::-1]
    assert refusal(checked_shape, vertices, triangles, "x").code == "open-mesh"


def test_a_self_intersecting_mesh_is_refused():
    error = refusal(checked_shape, *together(sphere(), sphere(10.0, (9.5, 0.3, 0.2))), "x")  # two that overlap
    assert error.code == "self-intersecting" and "pairs of triangles cross" in error.message
    vertices, triangles = sphere()
    pulled = vertices.copy()
    pulled[:, 2] = np.where(vertices[:, 2] > 6.0, 2 * 6.0 - 2.6 * vertices[:, 2], vertices[:, 2])  # its top through its floor
    assert refusal(checked_shape, pulled, triangles, "x").code == "self-intersecting"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vertices_that_are_no_numbers_are_refused(bad):
    vertices, triangles = sphere()
    vertices[3, 1] = bad
    error = refusal(checked_shape, vertices, triangles, "x")
    assert error.code == "not-finite" and "1 vertices" in error.message


def test_a_mesh_in_metres_is_refused():
    vertices, triangles = sphere(0.06)  # an organ of 12 cm
    error = refusal(checked_shape, vertices, triangles, "x")
    assert error.code == "units" and "metres" in error.message and "1000" in error.hint
    assert "micrometres" in refusal(checked_shape, vertices * 1e6, triangles, "x").message


def test_two_organs_are_refused(tmp_path):
    error = refusal(checked_shape, *together(sphere(8.0), sphere(8.0, (30.0, 0, 0))), "kidneys")
    assert error.code == "several-organs" and "2 separate bodies" in error.message
    mask, matrix = ball_mask(5.0, 40)
    both = np.roll(mask, 10, 2) | np.roll(mask, -10, 2)
    write_volume(tmp_path / "kidneys.nrrd", Volume(both, matrix))
    assert refusal(read_shape, tmp_path / "kidneys.nrrd").code == "several-organs"


def test_an_empty_mask_is_refused(tmp_path):
    write_volume(tmp_path / "case.nrrd", Volume(np.zeros((5, 6, 7), np.uint8), np.eye(4)))
    assert refusal(read_shape, tmp_path / "case.nrrd").code == "empty-mask"


@pytest.mark.parametrize("shape", [(20, 20), (1, 20, 20)])
def test_a_2d_image_is_refused(tmp_path, shape):
    image = sitk.GetImageFromArray(np.ones(shape, np.uint8))
    sitk.WriteImage(image, str(tmp_path / "case.nrrd"))
    assert refusal(read_shape, tmp_path / "case.nrrd").code == "not-3d"


def test_a_scan_and_voxels_that_are_no_numbers_are_refused(tmp_path):
    scan = np.random.default_rng(0).normal(size=(9, 9, 9)).astype(np.float32)
    write_volume(tmp_path / "scan.nii", Volume(scan, np.eye(4)))
    assert refusal(read_shape, tmp_path / "scan.nii").code == "not-a-mask"
    scan[4, 4, 4] = np.nan
    write_volume(tmp_path / "scan.nii", Volume(scan, np.eye(4)))
    assert refusal(read_shape, tmp_path / "scan.nii").code == "not-finite"


def test_no_mesh_in_the_file_is_refused(tmp_path):
    assert refusal(read_shape, tmp_path / "gone.stl").code == "no-file"
    assert refusal(read_shape, tmp_path / "notes.txt").code == "file-type"
    (tmp_path / "empty.obj").write_text("# nothing\n")
    assert refusal(read_shape, tmp_path / "empty.obj").code == "empty-mesh"
    for ending in (".vtp", ".stl", ".ply"):
        (tmp_path / f"bad{ending}").write_bytes(b"no mesh at all" * 20)
        assert refusal(read_shape, tmp_path / f"bad{ending}").code in ("unreadable", "empty-mesh")


# ---- crossing triangles


def test_crossing_triangles_are_found_each_once():
    vertices, triangles = cube()
    spike = np.array([[0.0, 0.1, 0.0], [20.0, 0.2, 0.1], [20.0, 1.0, 4.0]])  # through the face x = 10
    pairs = crossing_triangles(*together((vertices, triangles), (spike, np.array([[0, 1, 2]]))))
    hit = np.unique(pairs)
    assert 12 in hit and len(pairs) == len(hit) - 1 and (pairs[:, 0] < pairs[:, 1]).all()
    assert all((vertices[triangles[t], 0] == 10.0).all() for t in hit if t != 12)


def test_a_clean_surface_and_neighbours_that_touch_have_no_crossing():
    for surface in (sphere(), cube(), together(sphere(5.0), sphere(5.0, (10.001, 0, 0)))):
        assert crossing_triangles(*surface).shape == (0, 2)
    assert crossing_triangles(np.zeros((0, 3)), np.zeros((0, 3), np.int32)).shape == (0, 2)


def test_crossings_are_found_between_large_and_small_triangles():
    small = sphere(0.5, (10.07, 0.3, 0.2), rings=6)  # no vertex in the face's plane: that would be a touch
    crossing = len(crossing_triangles(*together(cube(), small)))
    assert crossing > 5 and len(crossing_triangles(*together(small, cube()))) == crossing


def test_crossings_are_those_of_a_linear_system():
    rng = np.random.default_rng(0)
    corners = rng.uniform(-1, 1, (60, 1, 3)) * 0.7 + rng.uniform(-1, 1, (60, 3, 3)) * rng.uniform(0.1, 1.0, (60, 1, 1))

    def pierced(edges, triangle):
        """Whether start + t (end - start) = a + u (b - a) + v (c - a) has a solution inside both, for any edge."""
        a, b, c = triangle
        for start, end in zip(edges, np.roll(edges, -1, axis=0), strict=True):
            t, u, v = np.linalg.solve(np.stack([end - start, a - b, a - c], axis=1), a - start)
            if 0 < t < 1 and u > 0 and v > 0 and u + v < 1:
                return True
        return False

    truth = [[i, j] for i in range(60) for j in range(i + 1, 60)
             if pierced(corners[i], corners[j]) or pierced(corners[j], corners[i])]  # fmt: skip
    assert len(truth) > 30
    assert crossing_triangles(corners.reshape(-1, 3), np.arange(180).reshape(-1, 3)).tolist() == truth


# ---- normalised, and points


def test_normalising_puts_the_longest_side_from_minus_one_to_one():
    vertices, triangles = sphere(20.0, PLACE)
    stretched = (vertices - PLACE) * (1.0, 0.5, 2.0) + PLACE
    n = normalise(Shape(stretched, triangles, "x"))
    assert np.isclose(n.scale_mm, 40.0) and np.allclose(n.centre_lps, PLACE)
    assert np.allclose(np.abs(n.vertices_u).max(axis=0), (0.5, 0.25, 1.0))
    assert np.allclose(n.vertices_u * n.scale_mm + n.centre_lps, stretched)


def test_surface_points_are_uniform_by_area_and_their_normals_point_outward():
    vertices, triangles = cube()
    vertices[:, 0] *= 3  # the faces y and z = const have three times the area of the faces x = const
    points, normals = surface_points(vertices, triangles, 7000, np.random.default_rng(0))
    assert np.allclose(np.linalg.norm(normals, axis=1), 1.0) and (np.sum(points * normals, axis=1) > 0).all()
    assert np.isclose((np.abs(points) / (30, 10, 10)).max(axis=1), 1.0).all()
    shares = np.abs(normals).mean(axis=0)
    assert np.allclose(shares, np.array([1, 3, 3]) / 7, atol=0.002)  # stratified: one point per share at most aside
    assert np.abs(points[:500].mean(axis=0)).max() < 30 * 0.15  # any part of them is spread over all


def test_surface_points_depend_on_the_generator_alone():
    surface = sphere()
    a, b, c = (surface_points(*surface, 50, np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_farthest_points_are_those_of_the_definition():
    points = np.random.default_rng(0).normal(size=(60, 3))
    chosen = fps_subset(points, 12, start=5)
    for n in range(1, 12):
        away = np.linalg.norm(points[:, None] - points[chosen[:n]], axis=2).min(axis=1)
        assert chosen[n] == np.argmax(away)
    assert chosen[0] == 5 and len(fps_subset(points, 0)) == 0
    with pytest.raises(ValueError):
        fps_subset(points, 61)
