"""What is a skull passes in any pose and geometry; other bodies, wrong units and cut vaults are told apart."""

import numpy as np
import pytest
from CranialImplantLib.skullcheck import check_is_skull, coarse_look, measure_shell, vault_cut
from scipy import ndimage
from skull_cases import AXES, refusal
from synthetic import Hole, shell_skull, turned

HOLE = (Hole((0.5, 0.3, 1.0), 30.0),)
SPACING = 3.0
MM3 = SPACING**3


@pytest.fixture(scope="module")
def skull():
    return shell_skull(SPACING, HOLE)


@pytest.mark.parametrize("options", [
    {"spacing_mm": (1.5, 1.5, 3.0)},
    {"lps_from_head": turned(30, (1, 1, 0), (300, -200, 1000))},
    {"lps_from_head": turned(180, (1, 0, 0))},
    {"face": False},
    {"holes": (Hole((0, 0, 1), 70.0),)},
    {"holes": (Hole((1, 0, 0.6), 60.0), Hole((-1, 0, 0.6), 30.0))},
    {"thickness_mm": 3.0, "spacing_mm": 2.0},
    {"thickness_mm": 14.0},
])
def test_every_skull_is_a_skull(options):
    case = shell_skull(**{"spacing_mm": 3.0, **options})
    assert check_is_skull(case.mask, case.ijk_to_lps) == []


def test_a_vault_alone_passes_with_a_warning(skull):
    case = shell_skull(SPACING, HOLE, bottom_cut_mm=115.0)
    assert [n.code for n in check_is_skull(case.mask, case.ijk_to_lps)] == ["no-base"]


def cuts(mask, matrix):
    return vault_cut(mask, matrix, coarse_look(mask, matrix))


@pytest.mark.parametrize("name", ["identity", *AXES])
def test_a_vault_cut_by_the_field_of_view_is_said_on_any_axis(name):
    axes = AXES.get(name, np.eye(3))
    head = turned(35, (1, 2, 3)) if name == "oblique" else None  # the scan is turned with the head
    notices = {}
    for cut_mm in (0.0, 12.0):
        case = shell_skull(SPACING, (), axes=axes, lps_from_head=head, top_cut_mm=cut_mm)
        notices[cut_mm] = cuts(case.mask, case.ijk_to_lps)
    assert notices[0.0] == []
    assert {n.code for n in notices[12.0]} == {"vault-cut"}
    assert any("at the top" in n.message for n in notices[12.0])


def test_a_mask_cropped_to_its_own_box_is_not_cut(skull):
    k, j, i = np.nonzero(skull.mask)
    tight = skull.mask[k.min() : k.max() + 1, j.min() : j.max() + 1, i.min() : i.max() + 1]
    assert cuts(tight, skull.ijk_to_lps) == []
    side = tight[:, :, 8:]  # 24 mm of the right side are gone
    assert ["at the right" in n.message for n in cuts(side, skull.ijk_to_lps)] == [True]


def test_coarse_slices_are_said(skull):
    case = shell_skull((2.0, 2.0, 5.0), HOLE)
    assert [n.code for n in check_is_skull(case.mask, case.ijk_to_lps)] == ["coarse"]


def test_the_coarse_look_keeps_the_amount_of_bone():
    case = shell_skull((1.5, 2.0, 2.5), HOLE, axes=AXES["oblique"])
    look = coarse_look(case.mask, case.ijk_to_lps)
    assert look.cell_mm == 4.0  # and cells above 1 are cut, some percent
    assert np.isclose(look.share.sum() * 4.0**3, case.mask.sum() * 1.5 * 2.0 * 2.5, rtol=0.05)
    assert coarse_look(np.zeros((3, 3, 3), bool), np.eye(4)).share.shape == (0, 0, 0)


def test_the_coarse_look_measures_a_known_shell():
    case = shell_skull(2.0, face=False)
    shell = measure_shell(coarse_look(case.mask, case.ijk_to_lps))
    assert abs(shell.cavity_mm - 60) < 6  # between base (-46) and vertex (72): half of 118 mm
    assert abs(shell.thickness_mm - 6) < 1.5 and shell.covered > 0.9 and not shell.closed


def test_voxels_too_coarse_for_bone_are_refused(skull):
    case = shell_skull(8.0)
    error = refusal(check_is_skull, case.mask, case.ijk_to_lps)
    assert error.code == "voxel-size" and "8 x 8 x 8 mm" in error.message and "look like" not in error.message


def test_a_skull_whose_header_has_no_voxel_size_is_refused():
    case = shell_skull(1.5)
    error = refusal(check_is_skull, np.repeat(case.mask, 4, 0), np.diag([1.0, 1.0, 1.0, 1.0]))
    assert error.code == "too-large" and "voxel size" in error.hint


def bodies():
    points = np.moveaxis(np.indices((80, 80, 80)), 0, -1) * 3.0 - 120.0
    k, j, i = np.moveaxis(points, -1, 0)
    radius, across, cube = np.linalg.norm(points, axis=-1), np.hypot(i, j), np.abs(points).max(-1)
    head = np.hypot(np.hypot(i - 0, j), k - 90)
    return {
        "ball": radius < 70, "cube": cube < 60, "hollow ball": (radius < 85) & (radius > 78),
        "hollow cube": (cube < 80) & (cube > 72), "tube": (across < 80) & (across > 74) & (np.abs(k) < 100),
        "ring": (np.abs(across - 70) < 6) & (np.abs(k) < 40), "plate": (np.abs(k) < 20) & (cube < 100),
        "thick ball": (radius < 100) & (radius > 60) & (k < 80),
        "femur": ((across < 14) & (np.abs(k) < 110)) | (head < 30),
    }


@pytest.mark.parametrize(("name", "code", "said"), [
    ("ball", "not-a-skull", "encloses has a radius of"),
    ("cube", "not-a-skull", "encloses has a radius of"),
    ("hollow ball", "not-a-skull", "closed all around"),
    ("hollow cube", "not-a-skull", "closed all around"),
    ("tube", "not-a-skull", "two opposite ends"),
    ("ring", "not-a-skull", "bone is seen in only"),
    ("plate", "not-a-skull", "encloses has a radius of"),
    ("thick ball", "bone-volume", "ml of bone"),
    ("femur", "not-a-skull", "encloses has a radius of"),
])
def test_other_bodies_are_refused(name, code, said):
    matrix = turned(20, (1, 2, 0))
    matrix[:3, :3] *= 3.0
    error = refusal(check_is_skull, bodies()[name], matrix)
    assert (error.code, said in error.message) == (code, True), error.message


def test_a_thin_rest_of_bone_is_refused(skull):
    thin = skull.mask & (np.indices(skull.mask.shape).sum(0) % 8 == 0)
    error = refusal(check_is_skull, thin, skull.ijk_to_lps)
    assert error.code == "bone-volume" and f"{thin.sum() * MM3 / 1000:.0f} ml" in error.message


def test_a_wall_thicker_than_bone_is_refused(skull):
    thick = ndimage.binary_dilation(skull.mask, iterations=5)
    error = refusal(check_is_skull, thick, skull.ijk_to_lps)
    assert error.code in ("not-a-skull", "bone-volume")
