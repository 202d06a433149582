"""The patch around a hole: its frame, its fields, its closed surface, and the way back to the voxels."""

import numpy as np
import pytest
from CranialImplantLib.head import HEAD_GRID
from CranialImplantLib.pose import MIRROR, HeadPose
from CranialImplantLib.roi import (
    ABOVE_MM,
    BELOW_MM,
    REGION_MM,
    RIM_REACH_MM,
    ROI_MULTIPLE,
    ROI_STEP_MM,
    ROOM_MM,
    Patch,
    mirrored_structures,
    missing_points,
    native_region,
    patch_around,
    reflected_points,
    roi_channels,
    shell_field,
    surface_normals,
    surface_rays,
    wall_distance,
)
from CranialImplantLib.vault import VAULT_MAP
from MedShapeCore.volumes import lps_from_ijk
from scipy.spatial.transform import Rotation
from skull_cases import AXES
from spherical_head import (
    BACK,
    INNER_MM,
    LEFT,
    OUTER_MM,
    RIGHT,
    TOP,
    angle_rad,
    cap_cm2,
    cap_outline,
    shell_dome,
    shell_mm,
    shell_model,
    shell_on_grid,
    unit,
)
from synthetic import turned

PLACES = [TOP, LEFT, BACK, RIGHT, (0.0, -1.0, 0.1)]
HOLE_MM = 28.0


def patch_of(direction, radius_mm=HOLE_MM):
    return patch_around(cap_outline(direction, radius_mm), shell_dome(), OUTER_MM * unit(direction))


@pytest.mark.parametrize("direction", PLACES)
def test_the_patch_frame_is_the_smallest_turn_from_up_to_the_normal(direction):
    patch = patch_of(direction)
    axes = patch.head_from_patch[:3, :3]
    assert np.allclose(axes @ axes.T, np.eye(3))
    assert np.allclose(axes[:, 2], unit(direction))  # z is the normal
    assert np.allclose(patch.head_from_patch[:3, 3], OUTER_MM * unit(direction))
    right = direction[0] < 0
    assert np.linalg.det(axes) == pytest.approx(-1.0 if right else 1.0)
    turn = axes @ np.diag([-1.0, 1.0, 1.0]) if right else axes
    # No turn with this z axis is smaller than the angle between up and the normal.
    assert Rotation.from_matrix(turn).magnitude() == pytest.approx(np.arccos(unit(direction)[2]), abs=1e-7)


def test_a_hole_on_the_right_looks_like_its_mirror_image_on_the_left():
    mirrored = np.array(LEFT) * [-1, 1, 1]
    left, right = patch_of(LEFT), patch_of(tuple(mirrored))
    assert np.allclose(right.head_from_patch, MIRROR @ left.head_from_patch)
    assert right.grid.shape == left.grid.shape and np.allclose(right.grid.low, left.grid.low, atol=1.0)
    same = Patch(right.head_from_patch, left.grid)
    seen = [
        roi_channels(shell_on_grid(((d, HOLE_MM),)), MIRROR, shell_dome(), cap_outline(d, HOLE_MM), p)
        for d, p in ((LEFT, left), (mirrored, same))
    ]
    assert np.abs(seen[0] - seen[1]).max() < 0.02


def test_points_go_to_the_patch_frame_and_back():
    patch = patch_of(RIGHT)
    points = np.random.default_rng(0).uniform(-100, 100, (50, 3))
    assert np.allclose(patch.to_head(patch.from_head(points)), points)
    assert patch.from_head(points.astype(np.float32)).dtype == np.float32
    assert np.allclose(patch.points_head(), patch.to_head(patch.grid.points()))
    assert np.allclose(patch.from_head(OUTER_MM * unit(RIGHT)), 0)


@pytest.mark.parametrize("direction", PLACES)
@pytest.mark.parametrize("radius_mm", [12.0, 60.0])
def test_the_hole_fits_into_the_grid_with_room(direction, radius_mm):
    patch = patch_of(direction, radius_mm)
    assert patch.grid.step == ROI_STEP_MM and all(n % ROI_MULTIPLE == 0 for n in patch.grid.shape)
    points = patch.from_head(missing_points(cap_outline(direction, radius_mm), shell_dome()))
    low = np.array(patch.grid.low)
    high = low + patch.grid.step * (np.array(patch.grid.shape[::-1]) - 1)
    room = np.minimum(points.min(0) - low, high - points.max(0))
    assert room.min() > ROOM_MM - ROI_STEP_MM
    assert room.max() < ROOM_MM + ROI_MULTIPLE * ROI_STEP_MM / 2 + ROI_STEP_MM


def closed_mm(points, direction, radius_mm=HOLE_MM, outer_mm=OUTER_MM, inner_mm=INNER_MM):
    """Signed mm to the closed surface: two spheres and the rim wall RIM_REACH_MM inside the bone."""
    radius = np.linalg.norm(points, axis=-1)
    wall = angle_rad(points, direction) * OUTER_MM - radius_mm - RIM_REACH_MM
    return np.maximum(np.maximum(radius - outer_mm, inner_mm - radius), wall)


@pytest.mark.parametrize("direction", [TOP, LEFT, RIGHT])
def test_the_shell_field_is_that_of_the_closed_surface(direction):
    points = patch_of(direction).points_head()
    dome = shell_dome()
    field = shell_field(dome.outer, dome.inner, cap_outline(direction, HOLE_MM), points)
    assert field.shape == points.shape[:-1] and field.dtype == np.float32
    # The map is linear between pixels of 0.93 mm; the axis of the wall's cone is a kink.
    assert np.abs(field - closed_mm(points, direction)).max() < 0.1


def test_the_distance_to_the_outline_is_far_where_the_fine_map_ends():
    outline = cap_outline(TOP, 20.0)
    assert wall_distance(outline, np.array([[64.0, 64.0]]))[0] == pytest.approx(-20.0, abs=0.01)
    assert wall_distance(outline, np.array([[64.0, 500.0]]))[0] == pytest.approx(99.0)


def test_the_channels_are_bone_mirrored_bone_guess_outline_and_place():
    hole = ((LEFT, HOLE_MM),)
    patch = patch_of(LEFT)
    channels = roi_channels(shell_on_grid(hole), MIRROR, shell_dome(), cap_outline(LEFT, HOLE_MM), patch)
    points = patch.points_head()
    assert channels.shape == (6, *patch.grid.shape) and channels.dtype == np.float32
    assert np.abs(channels[:4]).max() <= 1
    inside = ((points > HEAD_GRID.points().min((0, 1, 2))) & (points < HEAD_GRID.points().max((0, 1, 2)))).all(-1)
    outside = channels[:2, ~inside]
    assert (outside == 1).all()
    truth = np.clip(shell_mm(points, hole) / 6, -1, 1)
    assert np.abs(channels[0] - truth)[inside].mean() < 0.02
    whole = np.clip(shell_mm(points) / 6, -1, 1)  # the other side has no hole
    assert np.abs(channels[1] - whole)[inside].mean() < 0.02
    assert np.abs(channels[2] - np.clip(closed_mm(points, LEFT) / 6, -1, 1)).max() < 0.02
    wall = angle_rad(points, LEFT) * OUTER_MM - HOLE_MM
    assert np.abs(channels[3] - np.clip(wall / 20, -1, 1)).max() < 0.01
    assert np.allclose(channels[4], points[..., 1] / 100) and np.allclose(channels[5], points[..., 2] / 100)


def structures_of(field, patch, domain=None):
    """Mirrored structures of a hole on the left in a shell whose vault map is known everywhere."""
    dome, model = shell_dome(), shell_model()
    domain = model.domain if domain is None else domain
    return mirrored_structures(field, MIRROR, dome.outer, dome.inner, cap_outline(LEFT, HOLE_MM), patch, domain)


def test_mirrored_structures_are_what_the_other_side_has_besides_its_vault():
    ridge = np.array([-50.0, 0.0, 30.0])  # a ball of bone inside the head, on the right
    points = HEAD_GRID.points()
    field = np.minimum(shell_on_grid(((LEFT, HOLE_MM),)), np.linalg.norm(points - ridge, axis=-1) - 9.0)
    field = np.clip(field, -6, 6).astype(np.float32)
    patch = patch_of(LEFT)
    place = patch.points_head()
    other = structures_of(field, patch)
    assert other.shape == patch.grid.shape
    ball = np.linalg.norm(place - ridge * [-1, 1, 1], axis=-1)
    within = angle_rad(place, LEFT) * OUTER_MM < HOLE_MM
    assert (other[(ball < 8) & within] < 0).all() and within[ball < 8].all()
    assert (other[(ball > 10) & within] > 0).all()  # the vault itself is the dome's to restore
    assert (other[~within] > -0.1).all()


def test_a_missing_structure_goes_on_beside_the_outline_where_this_side_has_no_bone():
    patch = patch_of(LEFT)
    place = patch.points_head()
    points = HEAD_GRID.points()
    turn = angle_rad(place, LEFT) * OUTER_MM - HOLE_MM  # mm beyond the outline along the outer surface
    inward = unit(LEFT) * 60.0
    side = unit(np.cross(unit(LEFT), [0.0, 0.0, 1.0]))
    rod = [inward + s * side for s in np.arange(0.0, 34.0, 1.0)]  # from the middle of the hole to beyond its outline
    far = inward + 60.0 * side  # as far beyond, hanging together with nothing
    mirrored = np.array([-1.0, 1.0, 1.0])
    bone = np.min([np.linalg.norm(points - p * mirrored, axis=-1) for p in (*rod, far)], 0) - 4.0
    field = np.clip(np.minimum(shell_on_grid(((LEFT, HOLE_MM),)), bone), -6, 6).astype(np.float32)
    other = structures_of(field, patch)
    along = np.min([np.linalg.norm(place - p, axis=-1) for p in rod], 0)
    beside = (along < 2.5) & (turn > 3.0)
    assert beside.sum() > 20 and (other[beside & (turn < 13.0)] < 0).all()
    assert (other[turn > 16.0] > 0).all() and (other[np.linalg.norm(place - far, axis=-1) < 4.0] > 0).all()
    # Where this side has that bone too, nothing is missing.
    both = np.minimum(field, np.min([np.linalg.norm(points - p, axis=-1) for p in rod], 0) - 4.0)
    assert (structures_of(np.clip(both, -6, 6).astype(np.float32), patch)[turn > 1.0] > 0).all()


def test_below_the_models_domain_the_other_sides_vault_is_a_structure_too():
    patch = patch_of(LEFT)
    place = patch.points_head()
    field = shell_on_grid(((LEFT, HOLE_MM),))
    middle = (np.abs(np.linalg.norm(place, axis=-1) - 77.0) < 1.0) & (angle_rad(place, LEFT) * OUTER_MM < HOLE_MM - 3)
    assert (structures_of(field, patch)[middle] > 0).all()
    assert (structures_of(field, patch, np.zeros(VAULT_MAP.shape, bool))[middle] < 0).all()


def test_points_are_reflected():
    points = np.array([[1.0, 2.0, 3.0]], np.float32)
    assert reflected_points(points, MIRROR).tolist() == [[-1.0, 2.0, 3.0]]
    assert reflected_points(points, MIRROR).dtype == np.float32


@pytest.mark.parametrize("direction", [TOP, LEFT, (0.0, 1.0, 0.1)])
@pytest.mark.parametrize("spacing_mm", [2.0, 3.0])
def test_the_points_lie_on_a_closed_surface_of_the_right_area(direction, spacing_mm):
    dome = shell_dome()
    rays = surface_rays(cap_outline(direction, HOLE_MM), spacing_mm, np.random.default_rng(0))
    points = rays.points(dome.outer, dome.inner)
    normals = surface_normals(rays, dome.outer, dome.inner, spacing_mm)
    areas = np.linalg.norm(normals, axis=1)
    assert np.abs(closed_mm(points, direction)).max() < 0.4  # the rim's ends are clipped by 0.3 mm
    reach = HOLE_MM + RIM_REACH_MM
    tables = cap_cm2(reach) * 100, cap_cm2(reach, INNER_MM) * 100
    slant = np.sin(reach / OUTER_MM) * np.pi * (OUTER_MM**2 - INNER_MM**2)  # a cone between two spheres
    for kind, truth in ((1, tables[0]), (2, tables[1])):
        assert areas[rays.kind == kind].sum() == pytest.approx(truth, rel=0.1)
    assert areas[rays.kind == 0].sum() == pytest.approx(slant, rel=0.1)  # however far from the vertex
    assert areas.sum() == pytest.approx(sum(tables) + slant, rel=0.1)
    assert np.linalg.norm(normals.sum(0)) < 0.05 * areas.sum()  # closed: the area vectors cancel
    outward = points / np.linalg.norm(points, axis=1, keepdims=True)
    towards = normals / areas[:, None]
    assert (towards * outward).sum(1)[rays.kind == 1].min() > 0.99
    assert (towards * outward).sum(1)[rays.kind == 2].max() < -0.99
    wall = rays.kind == 0
    assert np.abs((towards * outward).sum(1)[wall]).max() < 0.05
    away = points - points @ np.outer(unit(direction), unit(direction))
    away -= (away * outward).sum(1, keepdims=True) * outward
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    assert (towards * away).sum(1)[wall].min() > 0.97


def test_area_normals_give_the_volume():
    dome, reach = shell_dome(), HOLE_MM + RIM_REACH_MM
    rays = surface_rays(cap_outline(TOP, HOLE_MM), 2.0, np.random.default_rng(0))
    points = rays.points(dome.outer, dome.inner) - OUTER_MM * unit(TOP)
    volume = (points * surface_normals(rays, dome.outer, dome.inner, 2.0)).sum() / 3  # the divergence theorem
    truth = 2 * np.pi / 3 * (OUTER_MM**3 - INNER_MM**3) * (1 - np.cos(reach / OUTER_MM))
    assert volume == pytest.approx(truth, rel=0.05)


def test_rays_are_repeatable_and_carry_any_dome():
    outline = cap_outline(LEFT, HOLE_MM)
    one, same = (surface_rays(outline, 2.0, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one.directions, same.directions)
    raised = shell_dome(OUTER_MM + 4.0, INNER_MM + 1.0)
    radius = np.linalg.norm(one.points(raised.outer, raised.inner), axis=1)
    assert np.allclose(radius[one.kind == 1], OUTER_MM + 4) and np.allclose(radius[one.kind == 2], INNER_MM + 1)
    between = (radius[one.kind == 0] - INNER_MM - 1) / (OUTER_MM - INNER_MM + 3)
    assert between.min() > 0 and between.max() < 1
    spacing = np.sqrt(cap_cm2(HOLE_MM + RIM_REACH_MM) * 100 / (one.kind == 1).sum())
    assert spacing == pytest.approx(2.0 * OUTER_MM / 85.0, rel=0.1)  # mm on an average vault


@pytest.mark.parametrize(
    ("axes", "spacing_mm"),
    [(np.eye(3), (1.5, 1.5, 1.5)), (AXES["oblique"], (1.2, 1.6, 2.5)), (AXES["sagittal"], (2.0, 1.0, 1.4))],
)
def test_the_native_region_covers_the_hole_on_any_grid(axes, spacing_mm):
    pose = HeadPose(turned(20, (1, 2, 0), (5, -9, 40)), 1.0, 0.0)
    step = axes * np.array(spacing_mm)
    size = np.ceil(np.abs(np.linalg.inv(step)) @ np.array([180.0, 180.0, 180.0])).astype(int)
    matrix = np.eye(4)
    matrix[:3, :3] = step
    matrix[:3, 3] = pose.to_lps(np.zeros((1, 3)))[0] - step @ (size / 2)
    shape = tuple(size[::-1])
    points = pose.to_head(lps_from_ijk(matrix, np.moveaxis(np.indices(shape), 0, -1)).reshape(-1, 3)).reshape(*shape, 3)
    mask = shell_mm(points, ((LEFT, HOLE_MM),)) <= 0
    region = native_region(mask, matrix, pose, cap_outline(LEFT, HOLE_MM), shell_dome())
    missing = (shell_mm(points) <= 0) & ~mask
    where = np.zeros(shape, bool)
    where[region.box] = region.region
    assert where[missing].all()
    assert np.array_equal(region.bone, mask[region.box])
    index = np.argwhere(region.region)
    assert np.allclose(pose.to_head(lps_from_ijk(region.ijk_to_lps, index)), region.points_head, atol=1e-3)
    radius = np.linalg.norm(region.points_head, axis=1)
    blocks = 2.0 + max(spacing_mm)  # the region is decided on blocks of about 2 mm
    assert radius.max() < OUTER_MM + ABOVE_MM + blocks and radius.min() > INNER_MM - BELOW_MM - blocks
    assert (angle_rad(region.points_head, LEFT) * OUTER_MM).max() < HOLE_MM + REGION_MM + blocks * 1.6


def test_the_native_region_is_centred_on_fine_voxels_too():
    spacing_mm, count = 0.6, 170  # decided on blocks of 3 voxels
    matrix = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    matrix[:3, 3] = 75.0 * unit(LEFT) - spacing_mm * count / 2
    mask = np.zeros((count, count, count), bool)
    region = native_region(mask, matrix, HeadPose(np.eye(4), 1.0, 0.0), cap_outline(LEFT, HOLE_MM), shell_dome())
    points = lps_from_ijk(region.ijk_to_lps, np.moveaxis(np.indices(region.region.shape), 0, -1))
    radius = np.linalg.norm(points, axis=-1)
    exact = angle_rad(points, LEFT) * OUTER_MM - HOLE_MM < REGION_MM
    exact &= (radius < OUTER_MM + ABOVE_MM) & (radius > INNER_MM - BELOW_MM)
    assert np.abs(points[region.region].mean(0) - points[exact].mean(0)).max() < 0.1
    assert (exact != region.region).sum() < 0.1 * exact.sum()


def test_the_native_region_is_empty_where_the_hole_was_not_scanned():
    mask = np.zeros((20, 20, 20), bool)
    matrix = np.eye(4)
    matrix[:3, 3] = [-300.0, 0.0, 0.0]
    region = native_region(mask, matrix, HeadPose(np.eye(4), 1.0, 0.0), cap_outline(LEFT, HOLE_MM), shell_dome())
    assert not region.region.any() and region.points_head.shape == (0, 3)


def test_the_native_region_takes_in_missing_structures():
    pose = HeadPose(np.eye(4), 1.0, 0.0)
    matrix = np.eye(4)
    matrix[:3, 3] = [0.0, -60.0, -20.0]
    patch = patch_of(LEFT)
    turn = (HOLE_MM + 10.0) / OUTER_MM
    side = unit(np.cross(unit(LEFT), [0.0, 0.0, 1.0]))
    beside = 70.0 * (np.cos(turn) * unit(LEFT) + np.sin(turn) * side)
    ball = np.linalg.norm(patch.points_head() - beside, axis=-1) - 5.0
    mask = np.zeros((120, 120, 100), bool)
    plain, wider = (
        native_region(mask, matrix, pose, cap_outline(LEFT, HOLE_MM), shell_dome(), s) for s in (None, (patch, ball))
    )
    inside = [np.linalg.norm(r.points_head - beside, axis=1) < 4.0 for r in (plain, wider)]
    assert not inside[0].any() and inside[1].sum() > 200


def test_missing_points_lie_on_both_tables():
    points = missing_points(cap_outline(LEFT, HOLE_MM), shell_dome())
    radius = np.linalg.norm(points, axis=1)
    assert set(np.round(radius, 3)) == {OUTER_MM, INNER_MM}
    assert (angle_rad(points, LEFT) * OUTER_MM).max() < HOLE_MM
    assert len(missing_points(cap_outline(LEFT, 0.0), shell_dome())) == 0
