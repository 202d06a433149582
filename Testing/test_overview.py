"""The picture of an ensemble: what is asked of it is in it, whatever the case looks like."""

import dataclasses

import numpy as np
import pytest
from CranialImplantLib import overview as module
from CranialImplantLib.overview import (
    cutting_planes,
    direction_words,
    draw_slice,
    implant_direction,
    look_from,
    overview,
)
from CranialImplantLib.skull import Notice
from MedShapeCore.volumes import cropped_matrix
from shell_ensemble import CENTRE_LPS, INNER_MM, OUTER_MM, shell_ensemble


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Half as fine: what is drawn is the same, in a third of the time."""
    monkeypatch.setattr(module, "FINE", 1)


def written(monkeypatch) -> list[str]:
    """Collects every line of text that is drawn from now on."""
    lines: list[str] = []
    draw = module.pictures.draw_text_inplace

    def listen(picture, text, *rest, **options):
        lines.append(text)
        return draw(picture, text, *rest, **options)

    monkeypatch.setattr(module.pictures, "draw_text_inplace", listen)
    return lines


def test_the_picture_names_the_case_the_figures_the_warnings_and_the_notice(tmp_path, monkeypatch):
    lines = written(monkeypatch)
    notices = (Notice("vault-cut", "The vault is cut."),)
    picture = overview(shell_ensemble(members=3, name="case 7", notices=notices, failed=(1,)), tmp_path / "o.png")
    assert picture.shape == (1200, 1800, 3) and (tmp_path / "o.png").stat().st_size > 50_000
    text = "\n".join(lines)
    assert "Cranial implant: case 7" in lines and "For research, not for clinical use" in lines
    assert "Warning: The vault is cut." in lines and "2 of 3 pass all checks" in text
    assert "Implant 3, rank 1" in lines and "Implant 2, rank 2: fails its checks" in lines
    assert sum("DSC 0.900" in line for line in lines) == 3
    assert "\u2265 2 mm" in lines  # the legend's end


def test_many_warnings_are_counted_not_squeezed(tmp_path, monkeypatch):
    lines = written(monkeypatch)
    notices = tuple(Notice(str(n), f"Warning number {n}.") for n in range(6))
    overview(shell_ensemble(members=1, notices=notices), tmp_path / "o.png")
    assert "Warning: 4 more warnings: see report.json." in lines and "Warning: Warning number 1." in lines


def test_one_implant_has_no_spread_and_says_so(tmp_path, monkeypatch):
    lines = written(monkeypatch)
    picture = overview(shell_ensemble(members=1), tmp_path / "o.png")
    assert picture.shape == (860, 1800, 3)
    assert any("no spread" in line for line in lines) and not any("rank" in line for line in lines)


def test_more_members_than_room_show_the_best(tmp_path, monkeypatch):
    lines = written(monkeypatch)
    overview(shell_ensemble(members=18), tmp_path / "o.png")
    assert "the best 16 of 18" in lines
    assert "Implant 18, rank 1" in lines and not any(line.startswith("Implant 1,") for line in lines)


def test_colours_are_the_spread_in_one_fixed_window(tmp_path, monkeypatch):
    asked = []
    color_map = module.pictures.color_map
    monkeypatch.setattr(
        module.pictures, "color_map", lambda v, top: asked.append((np.array(v), top)) or color_map(v, top)
    )
    ensemble = shell_ensemble(members=3)
    overview(ensemble, tmp_path / "o.png")
    assert {top for _, top in asked if top != 1.0} == {module.SPREAD_MAX_MM}  # 1.0: the legend's own
    assert any(np.array_equal(values, ensemble.spread.spread_mm) for values, _ in asked)
    # Members lie 0.6 mm apart, so the outer ones are 0.6 mm from the mean in the middle and not there at the rim.
    own = [values for values, top in asked if top != 1.0 and values.ndim == 1 and len(values) > 2000][-3:]
    assert [round(float(np.percentile(v, 90)), 1) for v in own] == [
        pytest.approx(0.6, abs=0.2), pytest.approx(0.0, abs=0.2), pytest.approx(0.6, abs=0.2)]  # fmt: skip


@pytest.mark.parametrize("direction", [(1, 0, 0), (-1, 0.2, 0.1), (0, -1, 0.3), (0, 0.2, 1), (0, 0, 1), (0.1, 1, 0)])
def test_every_place_on_the_vault_is_seen_from_outside(tmp_path, direction):
    ensemble = shell_ensemble(members=2, direction_lps=direction)
    outward, up = implant_direction(ensemble, np.zeros((0, 3)))
    assert outward @ (np.array(direction) / np.linalg.norm(direction)) > 0.98
    toward = look_from(outward)
    assert np.linalg.norm(toward) == pytest.approx(1) and toward @ outward > 0.55 and toward[2] < 0.7
    assert abs(up @ outward) < 0.9
    flat = int(np.argmax(np.abs(outward)))
    assert [name for name, *_ in cutting_planes(outward)] == [
        name for axis, name in ((2, "Axial"), (1, "Coronal"), (0, "Sagittal")) if axis != flat
    ]
    if direction == (0, 0, 1):  # the very vertex, where 'up' and 'outward' coincide
        overview(ensemble, tmp_path / "o.png")


def test_directions_are_said_in_words():
    assert direction_words(np.array([1.0, 0, 0])) == "the left"
    assert direction_words(np.array([-0.5, 0.7, 0.5])).split(", ")[0] == "behind"
    assert direction_words(np.array([0.1, -0.8, 0.6])) == "the front and above"


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_slice_shows_bone_white_and_the_implant_on_the_right_side(mirrored):
    ensemble = shell_ensemble(members=2, direction_lps=(1, 0, 0), mirrored=mirrored)  # a hole on the left
    matrix = cropped_matrix(ensemble.skull.ijk_to_lps, ensemble.box)
    axial = module.PLANES[0]
    picture = draw_slice(ensemble, matrix, axial, 300, 330)
    assert picture.shape == (330, 300, 3)
    below = picture[module.SLICE_HEAD :].astype(int)
    white = (below.min(axis=2) > 190).sum()
    assert white > 300  # the rim on both sides of the hole
    colored = np.nonzero((np.abs(below[..., 0] - below[..., 2]) > 20) & (below[..., 0] < 200))
    middle = colored[1].mean() - 150
    assert 0 <= middle < 60  # it bulges to the viewer's right, which is the patient's left


def test_a_skull_without_bone_or_an_implant_without_voxels_is_drawn_all_the_same(tmp_path):
    ensemble = shell_ensemble(members=2)
    skull = dataclasses.replace(ensemble.skull, mask=np.zeros_like(ensemble.skull.mask))
    overview(dataclasses.replace(ensemble, skull=skull), tmp_path / "no bone.png")
    spread = dataclasses.replace(
        ensemble.spread, vertices_lps=np.zeros((0, 3), np.float32), triangles=np.zeros((0, 3), np.int32),
        spread_mm=np.zeros(0, np.float32), side=np.zeros(0, np.int8),
    )  # fmt: skip
    empty = dataclasses.replace(
        ensemble, mean=ensemble.mean & False, implants=ensemble.implants & False, spread=spread,
        variance=ensemble.variance * 0,
    )  # fmt: skip
    overview(empty, tmp_path / "no implant.png")
    one_empty = ensemble.implants.copy()
    one_empty[0] = False
    overview(dataclasses.replace(ensemble, implants=one_empty), tmp_path / "an empty member.png")


def test_the_skull_for_pictures_lies_where_the_bone_is():
    ensemble = shell_ensemble(members=1)
    vertices, _ = module.skull_surface(ensemble.skull.mask, ensemble.skull.ijk_to_lps, voxel_mm=3.3)  # blocks of 2
    radius = np.linalg.norm(vertices - CENTRE_LPS, axis=1)
    walls = np.abs(radius[:, None] - (INNER_MM, OUTER_MM)).min(axis=1)
    assert np.percentile(walls, 90) < 1.5 and np.abs(np.median(radius[radius > 46]) - OUTER_MM) < 0.8
