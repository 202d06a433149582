import numpy as np
import pytest
from CranialImplantLib.models import WEIGHTS, atlas_of
from CranialImplantLib.pose import ATLAS_GRID, bone_points, register
from CranialImplantLib.training import atlas as module
from CranialImplantLib.training.atlas import build_atlas, mean_field, onto_symmetry_plane, save_atlas
from CranialImplantLib.training.pack import upright_start
from MedShapeCore.errors import RefusedInput
from MedShapeCore.weights import open_weights, write_manifest
from scipy.spatial.transform import Rotation
from synthetic import Hole, shell_skull, turned


def angle_deg(matrix):
    turn = matrix[:3, :3] / np.cbrt(np.linalg.det(matrix[:3, :3]))
    return np.degrees(Rotation.from_matrix(turn).magnitude())


def scaled(factor):
    return np.diag([factor, factor, factor, 1.0])


@pytest.fixture(scope="module")
def heads():
    """Three sizes of one head, turned differently, one of them with a hole."""
    poses = (
        turned(0),
        turned(6, (0, 0, 1), (5, 3, 200)) @ scaled(1.08),
        turned(7, (0, 1, 0), (-30, 8, 90)) @ scaled(0.93),
    )
    holes = ((), (Hole((1, 0, 0.7), 25.0),), ())
    return [shell_skull(4.0, h, lps_from_head=p) for p, h in zip(poses, holes, strict=True)], poses


@pytest.fixture(scope="module")
def built(heads):
    told = []
    return build_atlas(((s.name, s.mask, s.ijk_to_lps) for s in heads[0]), progress=told.append), told


def test_the_atlas_is_symmetric_and_signed(built):
    atlas, told = built
    assert atlas.shape == ATLAS_GRID.shape and atlas.dtype == np.float32 and len(told) == 4
    assert np.abs(atlas).max() <= module.LIMIT_MM
    assert np.allclose(atlas, atlas[:, :, ::-1], atol=1e-3)
    middle = ATLAS_GRID.sample(atlas, np.array([[0.0, 0, 0], [95, 0, 0]], np.float32), 16.0)
    assert (middle > 8).all()  # the braincase and the air outside are no bone


def test_every_head_registers_to_it_and_the_median_head_has_size_one(built, heads):
    skulls, poses = heads
    sizes = []
    motions = []
    for skull, pose in zip(skulls, poses, strict=True):
        points = bone_points(skull.mask, skull.ijk_to_lps, 3000, np.random.default_rng(0))
        matrix, residual_mm = register(points, built[0], ATLAS_GRID, upright_start(points))
        assert residual_mm < 1.5
        sizes.append(np.cbrt(np.linalg.det(matrix[:3, :3])))
        motions.append(matrix @ pose)  # from the synthetic head frame: the same for all of them
    assert np.median(sizes) == pytest.approx(1.0, abs=0.02)
    assert np.allclose(np.array(sizes) / sizes[0], [1, 1 / 1.08, 1 / 0.93], atol=0.02)
    for motion in motions:
        assert angle_deg(np.linalg.inv(motions[0]) @ motion) < 2.0
        # The head's own symmetry plane is the atlas's: x stays x.
        assert abs(motion[0, 1]) < 0.035 and abs(motion[0, 2]) < 0.035 and abs(motion[0, 3]) < 1.5


def test_a_turned_mean_comes_back_to_its_plane():
    points = ATLAS_GRID.points()
    tilt = turned(5, (0, 1, 0.5), (3.0, 0, 0))  # only motions that move the plane x = 0 can be seen
    local = (points - tilt[:3, 3]) @ tilt[:3, :3]
    radii = np.array([70.0, 85.0, 75.0])
    field = (np.linalg.norm(local / radii, axis=-1) - 1) * 75
    back = onto_symmetry_plane(np.clip(field, -16, 16).astype(np.float32))
    plane = (back @ tilt)[:3]
    assert abs(plane[0, 1]) < 0.01 and abs(plane[0, 2]) < 0.01 and abs(plane[0, 3]) < 0.3


def test_the_mean_passes_over_what_is_unknown():
    fields = [np.full(ATLAS_GRID.shape, value) for value in (1.0, 3.0)]
    fields[0][0], fields[1][:2] = np.nan, np.nan
    mean = mean_field(fields)
    assert (mean[0] == module.LIMIT_MM).all() and (mean[1] == 1.0).all() and (mean[2] == 2.0).all()


def test_no_skull_and_an_empty_mask_are_refused():
    with pytest.raises(RefusedInput, match="at least one"):
        build_atlas([])
    with pytest.raises(RefusedInput, match="nothing is empty"):
        build_atlas([("nothing", np.zeros((9, 9, 9), bool), np.eye(4))])


def test_the_saved_atlas_is_read_as_weights(built, tmp_path):
    save_atlas(built[0], tmp_path / "atlas.safetensors")
    write_manifest(tmp_path, {})
    assert np.abs(atlas_of(open_weights(tmp_path)) - built[0]).max() < 0.01
    assert atlas_of(open_weights(WEIGHTS)).shape == ATLAS_GRID.shape
