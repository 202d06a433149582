"""The pack: reading sources, the head frame, one file and back."""

import io
import lzma

import numpy as np
import pytest
from CranialImplantLib.dome import extended
from CranialImplantLib.head import FIELD_LIMIT_MM, HEAD_GRID
from CranialImplantLib.models import WEIGHTS, atlas_of, dome_of
from CranialImplantLib.pose import bone_points
from CranialImplantLib.training import pack
from CranialImplantLib.training.pack import PackedSkull, Source, build_pack, find_sources, read_pack, read_source
from CranialImplantLib.vault import VAULT_MAP
from MedShapeCore.errors import RefusedInput
from MedShapeCore.volumes import Volume, write_volume
from MedShapeCore.weights import open_weights
from synthetic import Hole, shell_skull, turned


@pytest.fixture(scope="module")
def atlas():
    return atlas_of(open_weights(WEIGHTS))


def save_compact(path, arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    path.write_bytes(lzma.compress(buffer.getvalue(), preset=0))


def case_arrays(mask, implant, spacing=(0.5, 0.5, 0.75), direction=None):
    """A compact case: cropped to the bone, geometry of the whole volume."""
    index = np.argwhere(mask)
    low, high = index.min(0), index.max(0) + 1
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    return {
        "complete": np.packbits(mask[box], -1), "implant": np.packbits(implant[box], -1),
        "shape": np.int32(high - low), "corner": np.int32(low), "full": np.int32(mask.shape),
        "spacing": np.float64(spacing), "origin": np.array([-10.0, 20.0, 5.0]),
        "direction": (np.eye(3) if direction is None else direction).ravel(),
    }  # fmt: skip


# ---- sources


def test_a_compact_case_keeps_its_place_and_says_whether_it_is_complete(tmp_path):
    mask = np.zeros((20, 24, 30), bool)
    mask[4:12, 6:20, 3:17] = np.random.default_rng(0).random((8, 14, 14)) > 0.5
    direction = turned(20, (1, 0, 0))[:3, :3]
    save_compact(tmp_path / "007.npz.xz", case_arrays(mask, np.zeros_like(mask), direction=direction))
    save_compact(tmp_path / "008.npz.xz", case_arrays(mask, mask))
    sources, left_out = find_sources([tmp_path])
    assert [s.name for s in sources] == ["007", "008"] and not left_out
    skull = read_source(sources[0])
    assert skull.complete is False and read_source(sources[1]).complete is True
    whole = np.eye(4)
    whole[:3, :3], whole[:3, 3] = direction * [0.5, 0.5, 0.75], [-10, 20, 5]
    expected = np.argwhere(mask)[:, ::-1] @ whole[:3, :3].T + whole[:3, 3]
    found = np.argwhere(skull.mask)[:, ::-1] @ skull.ijk_to_lps[:3, :3].T + skull.ijk_to_lps[:3, 3]
    assert np.allclose(found, expected)


def test_a_compact_pack_gives_each_of_its_skulls(tmp_path):
    masks = {"t000": np.ones((3, 4, 5), bool), "t001": np.random.default_rng(1).random((4, 3, 9)) > 0.5}
    arrays = {"names": np.array(list(masks)), "mm": np.float32(1.0)}
    for name, mask in masks.items():
        arrays |= {f"{name}/complete": np.packbits(mask, -1), f"{name}/implant": np.packbits(mask & False, -1)}
        arrays |= {f"{name}/shape": np.int32(mask.shape), f"{name}/origin": np.float32([1, 2, 3])}
    save_compact(tmp_path / "many.npz.xz", arrays)
    sources, _ = find_sources([tmp_path / "many.npz.xz"])
    assert [s.name for s in sources] == ["t000", "t001"]
    skull = read_source(sources[1])
    assert np.array_equal(skull.mask, masks["t001"]) and skull.complete is False
    assert np.array_equal(skull.ijk_to_lps[:3, 3], [1, 2, 3]) and np.array_equal(np.diag(skull.ijk_to_lps), np.ones(4))


def test_of_two_skulls_with_one_name_the_first_counts(tmp_path):
    mask = np.ones((3, 3, 3), bool)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save_compact(tmp_path / folder / "007.npz.xz", case_arrays(mask, mask))
    (tmp_path / "a" / "notes.txt").write_text("passed over in a folder")
    sources, left_out = find_sources([tmp_path / "b", tmp_path / "a"])
    assert [s.path.parent.name for s in sources] == ["b"]
    assert len(left_out) == 1 and "007" in left_out[0]


@pytest.mark.parametrize(
    "name, stem", [("a.npz.xz", "a"), ("a.b.nii.gz", "a.b"), ("x.seg.nrrd", "x"), ("x.nrrd", "x"), ("x.nii", "x")]
)
def test_the_name_of_a_skull_is_its_files(name, stem, tmp_path):
    assert Source(tmp_path / name, None).name == stem


def test_what_is_no_skull_file_is_left_out_with_a_sentence(tmp_path):
    (tmp_path / "a.npz.xz").write_bytes(b"nothing")
    save_compact(tmp_path / "b.npz.xz", {"other": np.zeros(3)})
    (tmp_path / "c.txt").write_text("")
    told = []
    with pytest.raises(RefusedInput, match="None of the sources"):
        build_pack([tmp_path, tmp_path / "c.txt"], tmp_path / "out.npz.xz", None, told.append, 1)
    assert len(told) == 3 and all("left out" in line for line in told)
    assert not (tmp_path / "out.npz.xz").exists()
    with pytest.raises(RefusedInput, match="There is no"):
        find_sources([tmp_path / "nowhere"])


# ---- the pack


def test_a_pack_gives_back_what_was_written(tmp_path):
    shape = np.array(HEAD_GRID.shape)
    ramp = (np.arange(shape.prod()) // 5000 % 255 - 127).astype(np.int8).reshape(shape)
    skulls = [PackedSkull("000", ramp, ramp > 0, True), PackedSkull("t001", -ramp, ramp < 5, False)]
    pack.write_pack(tmp_path / "p.npz.xz", skulls)
    for one, two in zip(skulls, read_pack(tmp_path / "p.npz.xz"), strict=True):
        assert (one.name, one.complete) == (two.name, two.complete)
        assert np.array_equal(one.field, two.field) and np.array_equal(one.inside, two.inside)
    save_compact(tmp_path / "other.npz.xz", {"names": np.array(["a"]), "complete": np.array([True])})
    with pytest.raises(RefusedInput, match="no pack"):
        read_pack(tmp_path / "other.npz.xz")


def test_skulls_of_two_kinds_of_file_are_packed_in_their_head_frames(tmp_path, atlas):
    """One head in two positions and formats: the fields agree, because each is in its own head frame."""
    hole = (Hole((0, 0.5, 1), 30.0),)
    one = shell_skull(3.0, hole)
    two = shell_skull(3.0, hole, lps_from_head=turned(8, (1, 2, 3), (40, -20, 300)))
    write_volume(tmp_path / "two.nrrd", Volume(two.mask, two.ijk_to_lps))
    arrays = case_arrays(one.mask, np.zeros_like(one.mask), (3.0, 3.0, 3.0))
    arrays["origin"] = one.ijk_to_lps[:3, 3]
    save_compact(tmp_path / "one.npz.xz", arrays)
    (tmp_path / "folder").mkdir()
    told = []
    sources = [tmp_path / "two.nrrd", tmp_path / "one.npz.xz"]
    skulls = read_pack(build_pack(sources, tmp_path / "out" / "p.npz.xz", atlas, told.append, 1))
    assert [(s.name, s.complete) for s in skulls] == [("two", False), ("one", False)]
    a, b = (s.field.astype(np.float32) * pack.QUANTUM_MM for s in skulls)
    near = (np.abs(a) < 3) & (HEAD_GRID.points()[..., 2] > -20)
    assert near.sum() > 10_000 and np.median(np.abs(a - b)[near]) < 0.6
    assert any("two: with a hole of its own" in line for line in told)
    points = bone_points(one.mask, one.ijk_to_lps, 2000, np.random.default_rng(0))
    inside = HEAD_GRID.sample(b, pack.upright_pose(one.mask, one.ijk_to_lps, atlas).to_head(points), 0.0)
    assert np.median(np.abs(inside)) < 1.6  # surface voxels lie within half a voxel of the surface


def test_a_brick_and_a_head_upside_down_are_refused(atlas):
    brick = np.zeros((60, 60, 60), bool)
    brick[10:50, 10:50, 10:50] = True
    head = shell_skull(3.0)
    for mask, matrix in ((brick, np.diag([3.0, 3.0, 3.0, 1.0])), (head.mask[::-1], head.ijk_to_lps)):
        with pytest.raises(RefusedInput, match="of the vault lies on the atlas"):
            pack.packed("no head", mask, matrix, atlas, True)
    with pytest.raises(RefusedInput, match="empty"):
        pack.packed("nothing", brick & False, np.eye(4), atlas, True)


def test_a_skull_like_the_mean_has_no_hole_until_one_is_cut():
    dome = dome_of(open_weights(WEIGHTS))
    maps = []
    for channel in dome.mean:
        image = np.full(dome.domain.shape, np.nan, np.float32)
        image[dome.domain] = channel
        maps.append(extended(image))
    points = HEAD_GRID.points()
    index, radius = VAULT_MAP.pixels(points)
    outer, inner = (VAULT_MAP.sample(image, index) for image in maps)
    field = np.clip(np.maximum(radius - outer, inner - radius), -FIELD_LIMIT_MM, FIELD_LIMIT_MM)
    inside = np.ones(field.shape, bool)
    assert not pack._has_hole(field, inside)
    drilled = np.maximum(field, 20.0 - np.hypot(points[..., 0] - 20, points[..., 1])) * np.float32(1)
    drilled[points[..., 2] < 0] = field[points[..., 2] < 0]
    assert pack._has_hole(np.minimum(drilled, FIELD_LIMIT_MM), inside)
