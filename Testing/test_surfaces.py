"""Surfaces: closed, outward, in the right place, of the right size; and what is read back from files."""

import numpy as np
import pytest
from MedShapeCore import surfaces
from MedShapeCore.errors import RefusedInput
from MedShapeCore.volumes import lps_from_ijk
from scipy import ndimage

SPACING = (0.8, 1.0, 1.3)  # along i, j, k
MATRIX = np.diag([*SPACING, 1.0])
MATRIX[:3, 3] = (-20.0, 35.0, 7.0)


def tilted(mirrored: bool = False) -> np.ndarray:
    angle = np.radians(25)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    matrix = MATRIX.copy()
    matrix[:3, :3] = turn @ np.diag([-1.0 if mirrored else 1.0, 1, 1]) * SPACING
    return matrix


def ball(
    matrix: np.ndarray, radius_mm: float, shape: tuple[int, int, int] = (36, 46, 58)
) -> tuple[np.ndarray, np.ndarray]:
    centre = lps_from_ijk(matrix, np.array([shape]) / 2.0)[0] + 0.3
    points = lps_from_ijk(matrix, np.stack(np.indices(shape), -1).reshape(-1, 3))
    return (np.linalg.norm(points - centre, axis=1) < radius_mm).reshape(shape), centre


@pytest.mark.parametrize("matrix", [MATRIX, tilted(), tilted(mirrored=True)], ids=["straight", "oblique", "mirrored"])
def test_a_ball_has_the_volume_area_and_centre_of_a_ball(matrix):
    mask, centre = ball(matrix, 18.0)
    vertices, triangles = surfaces.mask_surface(mask, matrix)
    voxel_ml = np.prod(SPACING) / 1000
    assert surfaces.surface_volume_ml(vertices, triangles) == pytest.approx(mask.sum() * voxel_ml, rel=0.01)
    assert surfaces.surface_volume_ml(vertices, triangles) == pytest.approx(4 / 3 * np.pi * 18**3 / 1000, rel=0.01)
    # 4 pi r^2 = 40.7 cm2; what is left of the voxel steps adds a little
    assert surfaces.surface_area_cm2(vertices, triangles) == pytest.approx(4 * np.pi * 18**2 / 100, rel=0.03)
    assert np.abs(surfaces.surface_centroid_lps(vertices, triangles) - centre).max() < 0.1
    assert np.abs(np.linalg.norm(vertices - centre, axis=1) - 18.0).max() < 0.65  # half of the largest voxel
    outward = surfaces.vertex_normals(vertices, triangles)
    along = np.einsum("ij,ij->i", outward, (vertices - centre) / 18.0)
    assert along.min() > 0.3 and np.median(along) > 0.97  # what is left of the steps tilts a few
    assert surfaces.is_watertight(triangles) and surfaces.components(triangles) == 1
    assert vertices.dtype == np.float32 and triangles.dtype == np.int32


def test_smoothing_takes_the_steps_off_but_stays_within_half_a_voxel_and_keeps_the_volume():
    mask, centre = ball(MATRIX, 18.0)
    rough, triangles = surfaces.mask_surface(mask, MATRIX, smooth=False)
    smooth, same = surfaces.mask_surface(mask, MATRIX)
    assert np.array_equal(triangles, same)
    assert (np.abs(smooth - rough).max(axis=0) <= np.array(SPACING) / 2).all()
    scatter = [np.linalg.norm(v - centre, axis=1).std() for v in (rough, smooth)]
    assert scatter[1] < 0.75 * scatter[0]
    volumes = [surfaces.surface_volume_ml(v, triangles) for v in (rough, smooth)]
    assert volumes[1] == pytest.approx(volumes[0], rel=surfaces.MAX_VOLUME_CHANGE)


def test_smoothing_is_held_back_where_it_would_eat_the_shape():
    mask = np.random.default_rng(5).random((24, 24, 24)) < 0.12  # crumbs, which a low-pass filter would swallow
    rough, triangles = surfaces.mask_surface(mask, MATRIX, smooth=False)
    smooth, _ = surfaces.mask_surface(mask, MATRIX)
    volumes = [surfaces.surface_volume_ml(v, triangles) for v in (rough, smooth)]
    assert volumes[1] == pytest.approx(volumes[0], rel=surfaces.MAX_VOLUME_CHANGE)
    plate = np.zeros((9, 40, 40), bool)
    plate[4, 4:36, 4:36] = True
    plate[4:9, 20, 20] = True  # a thin pin on it
    rough, _ = surfaces.mask_surface(plate, MATRIX, smooth=False)
    smooth, _ = surfaces.mask_surface(plate, MATRIX)
    moved = np.abs(smooth - rough).max(axis=0)
    assert moved.max() > 0.1 and (moved <= np.array(SPACING) / 2).all()


def test_a_wall_of_one_voxel_and_a_single_voxel_survive():
    wall = np.zeros((3, 20, 20), bool)
    wall[1, 2:18, 2:18] = True
    vertices, triangles = surfaces.mask_surface(wall, np.eye(4))
    assert surfaces.is_watertight(triangles) and surfaces.components(triangles) == 1
    assert surfaces.surface_volume_ml(vertices, triangles) > 0.8 * wall.sum() / 1000
    voxel = np.zeros((5, 5, 5), bool)
    voxel[2, 2, 2] = True
    vertices, triangles = surfaces.mask_surface(voxel, np.eye(4))
    assert surfaces.is_watertight(triangles) and surfaces.surface_volume_ml(vertices, triangles) > 0


def test_a_mask_that_fills_its_array_is_closed():
    vertices, triangles = surfaces.mask_surface(np.ones((6, 7, 8), bool), MATRIX)
    assert surfaces.is_watertight(triangles)
    middle = lps_from_ijk(MATRIX, np.array([[2.5, 3.0, 3.5]]))[0]
    assert np.allclose(surfaces.surface_centroid_lps(vertices, triangles), middle, atol=1e-3)


def test_every_part_is_a_body_and_a_cavity_has_a_wall_of_its_own():
    mask = np.zeros((12, 12, 30), bool)
    mask[2:9, 2:9, 2:9] = mask[2:9, 2:9, 18:25] = True
    assert surfaces.components(surfaces.mask_surface(mask, MATRIX)[1]) == 2
    full = surfaces.surface_volume_ml(*surfaces.mask_surface(mask, MATRIX))
    mask[4:7, 4:7, 4:7] = False
    vertices, triangles = surfaces.mask_surface(mask, MATRIX)
    assert surfaces.components(triangles) == 3
    assert surfaces.surface_volume_ml(vertices, triangles) < full


def test_noise_is_watertight_too_and_stays_so_in_a_file(tmp_path):
    mask = np.random.default_rng(3).random((20, 20, 20)) < 0.4
    vertices, triangles = surfaces.mask_surface(mask, MATRIX)
    assert surfaces.is_watertight(triangles)
    surfaces.write_stl(tmp_path / "noise.stl", vertices, triangles)
    assert surfaces.is_watertight(surfaces.read_stl(tmp_path / "noise.stl")[1])


def test_an_empty_mask_gives_an_empty_surface(tmp_path):
    vertices, triangles = surfaces.mask_surface(np.zeros((4, 4, 4), bool), MATRIX)
    assert vertices.shape == (0, 3) and triangles.shape == (0, 3)
    assert surfaces.surface_volume_ml(vertices, triangles) == 0 and surfaces.surface_area_cm2(vertices, triangles) == 0
    assert not surfaces.is_watertight(triangles) and surfaces.components(triangles) == 0
    assert np.isnan(surfaces.surface_centroid_lps(vertices, triangles)).all()
    surfaces.write_stl(tmp_path / "none.stl", vertices, triangles)
    assert surfaces.read_stl(tmp_path / "none.stl")[1].shape == (0, 3)
    assert surfaces.field_surface(np.zeros((3, 3, 3)), 0.5, MATRIX)[0].shape == (0, 3)


def test_a_hole_or_a_turned_triangle_or_a_doubled_one_is_not_watertight():
    _, triangles = surfaces.mask_surface(ball(MATRIX, 6.0)[0], MATRIX)
    assert surfaces.is_watertight(triangles)
    assert not surfaces.is_watertight(triangles[1:])
    turned = triangles.copy()
    turned[0] = turned[0, ::-1]
    assert not surfaces.is_watertight(turned)
    assert not surfaces.is_watertight(np.concatenate([triangles, triangles]))


def test_an_inside_out_surface_has_a_negative_volume():
    vertices, triangles = surfaces.mask_surface(ball(MATRIX, 6.0)[0], MATRIX)
    assert surfaces.surface_volume_ml(vertices, triangles[:, ::-1]) < 0


def test_a_field_gives_a_surface_between_the_voxels():
    k, j, i = np.indices((24, 24, 24)) - 11.5
    field = 10.0 - np.sqrt(k**2 + j**2 + i**2)
    matrix = np.eye(4)
    matrix[:3, 3] = -11.5
    vertices, triangles = surfaces.field_surface(np.maximum(field, 0), 2.0, matrix)  # radius 8
    # Between two samples the distance is a little curved: 1 / (8 r) mm at most.
    assert np.abs(np.linalg.norm(vertices, axis=1) - 8.0).max() < 0.02
    assert surfaces.is_watertight(triangles) and surfaces.surface_volume_ml(vertices, triangles) > 0


def test_an_stl_comes_back_as_it_was_and_says_where_and_what_it_is(tmp_path):
    vertices, triangles = surfaces.mask_surface(ball(tilted(), 12.0)[0], tilted())
    path = tmp_path / "ball.stl"
    surfaces.write_stl(path, vertices, triangles)
    header = path.read_bytes()[:80].decode("ascii")
    assert "SPACE=LPS" in header and "UNIT=MM" in header and "research use only" in header
    assert not header.lower().startswith("solid")
    assert path.stat().st_size == 84 + 50 * len(triangles)
    back, faces = surfaces.read_stl(path)
    assert back.shape == vertices.shape and surfaces.is_watertight(faces)
    assert np.array_equal(back[faces], vertices[triangles])
    first = np.frombuffer(path.read_bytes()[84:96], "<f4")  # the record's normal
    a, b, c = vertices[triangles[0]].astype(float)
    assert np.allclose(first, np.cross(b - a, c - a) / np.linalg.norm(np.cross(b - a, c - a)), atol=1e-4)


def test_a_text_stl_a_cut_file_and_a_wrong_header_are_refused(tmp_path):
    (tmp_path / "text.stl").write_text("solid ball\nfacet normal 0 0 1\n" + "x" * 100)
    vertices, triangles = surfaces.mask_surface(ball(MATRIX, 6.0)[0], MATRIX)
    surfaces.write_stl(tmp_path / "cut.stl", vertices, triangles)
    (tmp_path / "cut.stl").write_bytes((tmp_path / "cut.stl").read_bytes()[:-7])
    surfaces.write_stl(tmp_path / "long.stl", vertices, triangles)
    (tmp_path / "long.stl").write_bytes((tmp_path / "long.stl").read_bytes() + b"1234567")
    (tmp_path / "short.stl").write_bytes(b"abc")
    for name in ("text.stl", "cut.stl", "long.stl", "short.stl"):
        with pytest.raises(RefusedInput, match=name):
            surfaces.read_stl(tmp_path / name)
    for header in ("solid as vtk writes it", "x" * 81):
        with pytest.raises(RefusedInput):
            surfaces.write_stl(tmp_path / "never.stl", vertices, triangles, header)
    assert not (tmp_path / "never.stl").exists()


def test_a_vtp_keeps_scalars_and_frame(tmp_path):
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkIOXML import vtkXMLPolyDataReader

    vertices, triangles = surfaces.mask_surface(ball(MATRIX, 8.0)[0], MATRIX)
    values = np.linspace(0, 3, len(vertices), dtype=np.float32)
    side = np.arange(len(vertices)).astype(np.int8) % 3
    surfaces.write_vtp(tmp_path / "ball.vtp", vertices, triangles, {"spread_mm": values, "side": side})
    reader = vtkXMLPolyDataReader()
    reader.SetFileName(str(tmp_path / "ball.vtp"))
    reader.Update()
    mesh = reader.GetOutput()
    assert np.array_equal(vtk_to_numpy(mesh.GetPoints().GetData()), vertices)
    assert np.array_equal(vtk_to_numpy(mesh.GetPolys().GetConnectivityArray()).reshape(-1, 3), triangles)
    assert np.array_equal(vtk_to_numpy(mesh.GetPointData().GetArray("spread_mm")), values)
    assert np.array_equal(vtk_to_numpy(mesh.GetPointData().GetArray("side")), side)
    assert mesh.GetPointData().GetScalars().GetName() == "spread_mm"
    assert mesh.GetFieldData().GetAbstractArray("SPACE").GetValue(0) == "LPS"
    with pytest.raises(RefusedInput, match="spread_mm"):
        surfaces.write_vtp(tmp_path / "wrong.vtp", vertices, triangles, {"spread_mm": values[1:]})


def test_parts_that_share_faces_are_counted_as_scipy_counts_them():
    mask = ndimage.binary_dilation(np.random.default_rng(1).random((24, 24, 24)) < 0.002, iterations=1)
    apart = ndimage.label(mask)[1]
    joined = ndimage.label(mask, np.ones((3, 3, 3)))[1]
    assert joined <= surfaces.components(surfaces.mask_surface(mask, MATRIX)[1]) <= apart
