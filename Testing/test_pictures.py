"""Pictures: the right thing in front, in the right colour, on the right side, without a display."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from MedShapeCore import pictures
from MedShapeCore.pictures import Body, View
from MedShapeCore.surfaces import mask_surface

FRONT = np.array([0.0, -1.0, 0.0])  # the viewer stands before the face
UP = np.array([0.0, 0.0, 1.0])
RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def ball(centre_lps: tuple[float, float, float], radius_mm: float, color=RED) -> Body:
    k, j, i = np.indices((33, 33, 33)) - 16.0
    matrix = np.eye(4)
    matrix[:3, :3] *= radius_mm / 14
    matrix[:3, 3] = np.array(centre_lps) - 16 * radius_mm / 14
    return Body(*mask_surface(k**2 + j**2 + i**2 < 14**2, matrix), colors=color)


def render(bodies, toward=FRONT, up=UP, size=(120, 100), **options):
    return pictures.render_surface(bodies, View(toward, up, np.zeros(3), 0.5), *size, **options)


def reddish(picture):
    return picture[..., 0].astype(int) > picture[..., 2].astype(int) + 30


def bluish(picture):
    return picture[..., 2].astype(int) > picture[..., 0].astype(int) + 30


def test_a_ball_covers_a_disc_of_its_size_without_cracks():
    picture = render([ball((0, 0, 0), 20.0)])
    assert picture.shape == (100, 120, 3) and picture.dtype == np.uint8
    seen = reddish(picture)
    assert seen.sum() == pytest.approx(np.pi * (20 / 0.5) ** 2, rel=0.02)
    rows, columns = np.nonzero(seen)
    assert abs(rows.mean() - 49.5) < 0.5 and abs(columns.mean() - 59.5) < 0.5
    y, x = np.indices(seen.shape)
    assert seen[np.hypot(y - 49.5, x - 59.5) < 37].all()
    assert (picture[0, 0] == 255).all()


def test_level_edges_are_drawn_to_the_pixel():
    corners = np.array([(x, y, z) for x in (-10, 10) for y in (-10, 10) for z in (-10, 10)], np.float32)
    front = np.array([(0, 4, 5), (0, 5, 1)])  # the face toward the viewer, y = -10
    picture = render([Body(corners, front, RED, 0.0)])
    rows, columns = np.nonzero(reddish(picture))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (30, 69, 40, 79)  # 20 mm = 40 px, centred
    assert len(rows) == 40 * 40


def test_the_nearer_body_hides_the_farther_and_the_viewer_decides_which():
    bodies = [ball((0, -25, 0), 8.0, RED), ball((0, 25, 0), 8.0, BLUE)]  # anterior red, posterior blue
    front, back = render(bodies), render(bodies, toward=-FRONT)
    assert reddish(front).any() and not bluish(front).any()
    assert bluish(back).any() and not reddish(back).any()


def test_left_and_up_of_the_patient_are_where_a_person_opposite_sees_them():
    picture = render([ball((18, 0, 0), 6.0, RED), ball((0, 0, 18), 6.0, BLUE)])
    assert np.nonzero(reddish(picture))[1].mean() > 60 + 20  # his left, my right
    assert np.nonzero(bluish(picture))[0].mean() < 50 - 20
    from_behind = render([ball((18, 0, 0), 6.0, RED)], toward=-FRONT)
    assert np.nonzero(reddish(from_behind))[1].mean() < 60 - 20


def test_looking_along_up_still_gives_a_picture():
    assert reddish(render([ball((0, 0, 0), 10.0)], toward=UP, up=UP)).any()


def test_what_hangs_over_the_edge_is_cut():
    picture = render([ball((30, 0, 25), 20.0)])
    assert reddish(picture)[0, -1] and not reddish(picture)[45:].any() and not reddish(picture)[:, :75].any()
    assert not reddish(render([ball((500, 0, 0), 20.0)])).any()


def test_no_bodies_or_empty_ones_give_the_background():
    empty = Body(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    for bodies in ([], [empty]):
        assert (render(bodies, background=(0, 0, 0)) == 0).all()


def test_colours_per_vertex_arrive_where_the_vertex_is():
    body = ball((0, 0, 0), 20.0)
    colors = np.where(body.vertices_lps[:, 2:] > 0, RED, BLUE).astype(float)
    picture = render([Body(body.vertices_lps, body.triangles, colors)])
    assert reddish(picture)[25, 60] and bluish(picture)[75, 60]


def test_shading_decides_how_much_of_its_colour_a_body_may_lose():
    mesh = ball((0, 0, 0), 20.0)
    flat, round_ = (render([Body(mesh.vertices_lps, mesh.triangles, RED, shading)])[..., 0] for shading in (0.0, 0.75))
    inside = reddish(render([mesh]))
    assert flat[inside].min() >= 254 and round_[inside].min() < 150
    # The lamp stands above left of the viewer.
    assert round_[30, 40] > round_[70, 80] + 30


def test_a_picture_is_the_same_twice_and_does_not_depend_on_the_piece_size(monkeypatch):
    bodies = [ball((0, 0, 0), 20.0), ball((5, -12, 3), 12.0, BLUE)]
    first = render(bodies)
    assert np.array_equal(first, render(bodies))
    monkeypatch.setattr(pictures, "_FRAGMENTS_AT_ONCE", 5000)
    assert np.array_equal(first, render(bodies))


def test_a_fitted_view_shows_every_point():
    points = np.random.default_rng(0).normal(size=(500, 3)) * (60, 20, 35) + (10, -40, 7)
    view = pictures.fitted_view(points, np.array([0.3, -1, 0.4]), UP, 300, 200)
    seen = (points - view.centre_lps) @ view.axes().T / view.mm_per_px
    assert (np.abs(seen[:, 0]) < 150).all() and (np.abs(seen[:, 1]) < 100).all()
    assert max(np.abs(seen[:, 0]).max() / 150, np.abs(seen[:, 1]).max() / 100) > 0.9
    assert np.allclose(view.axes() @ view.axes().T, np.eye(3))
    assert pictures.fitted_view(np.zeros((0, 3)), FRONT, UP, 10, 10).mm_per_px == 1.0


def test_the_colour_map_rises_evenly_in_lightness_and_stops_at_its_window():
    colors = pictures.color_map(np.linspace(0, 2, 41), 2.0)
    lightness = colors @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness) > 0).all()
    assert np.array_equal(pictures.color_map(np.array([-1.0, 5.0]), 2.0), colors[[0, -1]])
    assert np.array_equal(pictures.color_map(np.array([np.nan]), 2.0), colors[:1])


def test_the_colour_bar_shows_the_colours_of_the_map():
    bar = pictures.color_bar(300, 50, 2.0, "mm")
    assert bar.shape == (50, 300, 3)
    row = bar[5, 24:276] / 255.0
    assert np.allclose(row, pictures.color_map(np.linspace(0, 2, 252), 2.0), atol=0.01)
    assert (bar[5, :20] == 255).all() and (bar[32:] < 128).any()  # numbers below


def test_text_is_written_where_it_should_be():
    picture = pictures.blank(200, 40)
    width = pictures.draw_text_inplace(picture, "12.5 ml", 100, 10, 16, anchor="centre")
    rows, columns = np.nonzero(picture.min(axis=2) < 128)
    assert 20 < width < 80 and 100 - width / 2 - 1 <= columns.min() and columns.max() <= 100 + width / 2 + 1
    assert rows.min() >= 10 and rows.max() < 32
    right = pictures.blank(200, 40)
    pictures.draw_text_inplace(right, "12.5 ml", 190, 10, 16, anchor="right")
    assert 180 < np.nonzero(right.min(axis=2) < 128)[1].max() <= 190


def test_text_of_any_kind_is_harmless():
    for text in ("", "   ", "$\\frac{1}{0}$", "\u00e4\u2265\u00b2\u65e5\u672c", "a" * 400, "-"):
        picture = pictures.blank(120, 30)
        pictures.draw_text_inplace(picture, text, -10, -3, 16)
        pictures.draw_text_inplace(picture, text, 100, 25, 16, anchor="right")
        pictures.draw_text_inplace(picture, text, 122, 32, 16)
        pictures.draw_text_inplace(picture, text, 500, 500, 16)
        assert picture.shape == (30, 120, 3)


def test_long_text_is_shortened_to_its_room():
    picture = pictures.blank(400, 30)
    assert pictures.draw_text_inplace(picture, "one sentence that is too long for this", 0, 2, 16, width=150) <= 150
    assert not (picture[:, 151:] < 250).any() and (picture[:, 100:151] < 128).any()


def test_a_contact_sheet_holds_all_pictures(tmp_path):
    tiles = [np.full((20, 30, 3), value, np.uint8) for value in (10, 60, 110, 160, 210)]
    sheet = pictures.contact_sheet(
        tiles, [f"case {n}" for n in range(5)], tmp_path / "sheet.png", columns=2, title="Five"
    )
    for value in (10, 60, 110, 160, 210):
        assert (sheet == value).all(axis=2).sum() >= 600
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert pictures.contact_sheet([], [], tmp_path / "none.png").size > 0
    with pytest.raises(ValueError):
        pictures.contact_sheet(tiles, ["one"], tmp_path / "wrong.png")


def test_a_png_holds_the_pixels_it_was_given(tmp_path):
    import SimpleITK as sitk

    picture = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    pictures.write_png(tmp_path / "p.png", picture)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "p.png"))), picture)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of loaded libraries")
def test_drawing_needs_no_graphics_library_and_no_display(tmp_path):
    program = (
        "import sys, numpy as np\n"
        "from MedShapeCore import pictures as p, surfaces as s\n"
        "mesh = s.mask_surface(np.ones((5, 5, 5), bool), np.eye(4))\n"
        "view = p.fitted_view(mesh[0], np.array([1., 1, 1]), np.array([0., 0, 1]), 60, 60)\n"
        "image = p.render_surface([p.Body(*mesh)], view, 60, 60)\n"
        "p.draw_text_inplace(image, 'text', 5, 5)\n"
        "p.write_png(sys.argv[1], image)\n"
        "loaded = open('/proc/self/maps').read()\n"
        "print([name for name in ('libGL.so', 'libGLX', 'libEGL', 'libOSMesa', 'libX11.so') if name in loaded])\n"
    )
    import MedShapeCore

    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "p.png")],
        env={"PYTHONPATH": str(Path(MedShapeCore.__file__).parent.parent), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]" and result.stderr == ""
