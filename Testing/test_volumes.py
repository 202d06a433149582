"""Volumes keep their place in space, whatever the axes, the tilt and the format."""

import gzip
import struct

import numpy as np
import pytest
import SimpleITK as sitk
from MedShapeCore.errors import RefusedInput
from MedShapeCore.volumes import (
    Volume,
    box_of,
    crop,
    kji_from_lps,
    lps_from_ijk,
    orientation_of,
    read_layers,
    read_volume,
    sample,
    spacing_of,
    write_volume,
)
from synthetic import turned


def oblique_matrix():
    matrix = turned(25, (1, 2, 3), (-90.0, 12.5, 40.0))
    matrix[:3, :3] *= [0.5, 0.75, 2.0]
    return matrix


def sheared_matrix():
    """A gantry tilted by 20 degrees: slices move along P as they go up."""
    matrix = np.diag([0.5, 0.5, 1.2, 1.0])
    matrix[1, 2] = 1.2 * np.tan(np.deg2rad(20))
    matrix[:3, 3] = [3, -4, 5]
    return matrix


def flipped_matrix():
    matrix = np.zeros((4, 4))
    matrix[2, 0], matrix[0, 1], matrix[1, 2], matrix[3, 3] = -0.9, 1.1, -1.3, 1
    matrix[:3, 3] = [10, 20, 30]
    return matrix


MATRICES = {
    "oblique": oblique_matrix(), "sheared": sheared_matrix(), "flipped": flipped_matrix(),
    "left-handed": oblique_matrix() @ np.diag([1.0, 1.0, -1.0, 1.0]),
}
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("ending", [".nrrd", ".nii", ".nii.gz", ".mha"])
def test_a_written_volume_comes_back_with_its_matrix_and_voxels(tmp_path, name, ending):
    volume = Volume(RNG.integers(-1000, 3000, (4, 5, 6)).astype(np.int16), MATRICES[name])
    write_volume(tmp_path / f"v{ending}", volume)
    again = read_volume(tmp_path / f"v{ending}")
    assert again.array.dtype == np.int16 and np.array_equal(again.array, volume.array)
    assert np.allclose(again.ijk_to_lps, volume.ijk_to_lps, atol=1e-4)  # NIfTI keeps float32


@pytest.mark.parametrize("name", ["oblique", "flipped", "left-handed"])
def test_itk_reads_our_nifti_at_the_same_place(tmp_path, name):
    write_volume(tmp_path / "v.nii.gz", Volume(np.zeros((4, 5, 6), np.uint8), MATRICES[name]))
    image = sitk.ReadImage(str(tmp_path / "v.nii.gz"))
    points = lps_from_ijk(MATRICES[name], np.array([[3.0, 2.0, 1.0]]))
    assert np.allclose(image.TransformIndexToPhysicalPoint((1, 2, 3)), points[0], atol=1e-3)


@pytest.mark.parametrize("name", ["oblique", "flipped", "left-handed"])
def test_our_nifti_has_a_qform_for_readers_which_want_one(tmp_path, name):
    write_volume(tmp_path / "v.nii", Volume(np.zeros((4, 5, 6), np.uint8), MATRICES[name]))
    raw = bytearray((tmp_path / "v.nii").read_bytes())
    struct.pack_into("<h", raw, 254, 0)  # no sform: only the quaternion is left
    (tmp_path / "q.nii").write_bytes(raw)
    assert np.allclose(read_volume(tmp_path / "q.nii").ijk_to_lps, MATRICES[name], atol=1e-4)


def test_itk_written_nifti_is_read_at_the_same_place(tmp_path):
    image = sitk.GetImageFromArray(np.arange(120, dtype=np.float32).reshape(4, 5, 6))
    axes = oblique_matrix()[:3, :3]
    image.SetDirection((axes / np.linalg.norm(axes, axis=0)).ravel().tolist())
    image.SetSpacing([0.5, 0.75, 2.0])
    image.SetOrigin([1, 2, 3])
    sitk.WriteImage(image, str(tmp_path / "v.nii"))
    volume = read_volume(tmp_path / "v.nii")
    assert np.allclose(lps_from_ijk(volume.ijk_to_lps, np.array([[3, 2, 1]]))[0],
                       image.TransformIndexToPhysicalPoint((1, 2, 3)), atol=1e-4)
    assert np.array_equal(volume.array, sitk.GetArrayFromImage(image))


def test_declared_metres_and_scaled_values_are_honoured(tmp_path):
    write_volume(tmp_path / "v.nii", Volume(np.full((2, 3, 4), 7, np.int16), np.diag([0.0005, 0.0005, 0.001, 1])))
    raw = bytearray((tmp_path / "v.nii").read_bytes())
    raw[123] = 1  # metres
    struct.pack_into("<2f", raw, 112, 2.0, -1024.0)
    (tmp_path / "m.nii").write_bytes(raw)
    volume = read_volume(tmp_path / "m.nii")
    assert np.allclose(volume.spacing_mm, [0.5, 0.5, 1.0])
    assert (volume.array == 2 * 7 - 1024).all()


def test_big_endian_nifti_2_with_a_time_axis_of_one(tmp_path):
    array = np.arange(24, dtype=">i2").reshape(2, 3, 4)
    raw = bytearray(544)
    struct.pack_into(">i", raw, 0, 540)
    raw[4:12] = b"n+2\0\r\n\x1a\n"
    struct.pack_into(">2h", raw, 12, 4, 16)
    struct.pack_into(">8q", raw, 16, 4, 4, 3, 2, 1, 1, 1, 1)
    struct.pack_into(">8d", raw, 104, 1, 1, 1, 1, 0, 0, 0, 0)
    struct.pack_into(">q", raw, 168, 544)
    struct.pack_into(">2d", raw, 176, 1, 0)
    struct.pack_into(">2i", raw, 344, 0, 1)
    struct.pack_into(">12d", raw, 400, -1, 0, 0, 5, 0, -2, 0, 6, 0, 0, 3, 7)
    (tmp_path / "v.nii.gz").write_bytes(gzip.compress(bytes(raw) + array.tobytes()))
    volume = read_volume(tmp_path / "v.nii.gz")
    assert np.array_equal(volume.array, array) and volume.array.dtype.isnative
    assert np.allclose(volume.ijk_to_lps, [[1, 0, 0, -5], [0, 2, 0, -6], [0, 0, 3, 7], [0, 0, 0, 1]])


def test_a_volume_in_ras_is_read_as_lps(tmp_path):
    header = ("NRRD0004\ntype: uchar\ndimension: 3\nspace: right-anterior-superior\nsizes: 2 2 2\n"
              "space directions: (1,0,0) (0,1,0) (0,0,1)\nkinds: domain domain domain\nencoding: raw\n"
              "space origin: (10,20,30)\n\n")
    (tmp_path / "v.nrrd").write_bytes(header.encode() + bytes(8))
    assert np.allclose(read_volume(tmp_path / "v.nrrd").ijk_to_lps,
                       [[-1, 0, 0, -10], [0, -1, 0, -20], [0, 0, 1, 30], [0, 0, 0, 1]])


def test_layers_are_the_last_axis_and_no_volume(tmp_path):
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5, 2), np.uint8), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "v.nrrd"))
    assert read_layers(tmp_path / "v.nrrd").array.shape == (3, 4, 5, 2)
    with pytest.raises(RefusedInput, match=r"not a 3-D image with one value per voxel \(2 values\)"):
        read_volume(tmp_path / "v.nrrd")


def refused(path):
    with pytest.raises(RefusedInput) as caught:
        read_volume(path)
    return caught.value


def test_a_missing_file_is_refused(tmp_path):
    assert refused(tmp_path / "no.nii").code == refused(tmp_path / "no.nrrd").code == "no-file"


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd"])
@pytest.mark.parametrize("content", [b"", b"hello", b"NRRD0004\n", b"\x1f\x8b\x08\x00broken", bytes(1000)])
def test_a_broken_file_is_refused(tmp_path, ending, content):
    (tmp_path / f"v{ending}").write_bytes(content)
    error = refused(tmp_path / f"v{ending}")
    assert error.code == "unreadable" and error.message.startswith(f"v{ending} ")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_file_that_ends_early_is_refused(tmp_path, ending):
    write_volume(tmp_path / f"v{ending}", Volume(RNG.integers(0, 255, (9, 9, 9)).astype(np.uint8), np.eye(4)))
    raw = (tmp_path / f"v{ending}").read_bytes()
    (tmp_path / f"v{ending}").write_bytes(raw[: len(raw) * 2 // 3])
    assert refused(tmp_path / f"v{ending}").code == "unreadable"


def test_a_header_that_asks_for_too_much_is_refused_before_allocation(tmp_path):
    write_volume(tmp_path / "v.nii", Volume(np.zeros((2, 2, 2), np.uint8), np.eye(4)))
    raw = bytearray((tmp_path / "v.nii").read_bytes())
    struct.pack_into("<3h", raw, 42, 2000, 2000, 2000)
    (tmp_path / "v.nii").write_bytes(raw)
    error = refused(tmp_path / "v.nii")
    assert error.code == "too-large" and "2000 x 2000 x 2000" in error.message


def test_a_flat_matrix_is_refused(tmp_path):
    write_volume(tmp_path / "v.nii", Volume(np.zeros((2, 2, 2), np.uint8), np.eye(4)))
    raw = bytearray((tmp_path / "v.nii").read_bytes())
    struct.pack_into("<12f", raw, 280, *np.diag([1.0, 1.0, 1.0, 1.0])[[0, 0, 2]].ravel())
    struct.pack_into("<h", raw, 252, 0)
    struct.pack_into("<4f", raw, 76, 1, 1, 0, 1)
    (tmp_path / "v.nii").write_bytes(raw)
    assert refused(tmp_path / "v.nii").code == "geometry"


def test_a_time_series_and_colours_are_refused(tmp_path):
    write_volume(tmp_path / "v.nii", Volume(np.zeros((2, 2, 2), np.uint8), np.eye(4)))
    raw = bytearray((tmp_path / "v.nii").read_bytes())
    series, colour = bytearray(raw), bytearray(raw)
    struct.pack_into("<5h", series, 40, 4, 2, 2, 1, 2)
    struct.pack_into("<h", colour, 70, 128)
    (tmp_path / "s.nii").write_bytes(series)
    (tmp_path / "c.nii").write_bytes(colour)
    assert refused(tmp_path / "s.nii").code == refused(tmp_path / "c.nii").code == "not-3d"
    assert "(2, 2, 1, 2)" in refused(tmp_path / "s.nii").message


@pytest.mark.parametrize("name", MATRICES)
def test_index_to_point_and_back(name):
    index = RNG.uniform(-3, 9, (50, 3))
    points = lps_from_ijk(MATRICES[name], index)
    assert np.allclose(points[0], (MATRICES[name] @ [*index[0, ::-1], 1])[:3])
    assert np.allclose(kji_from_lps(MATRICES[name], points), index)


@pytest.mark.parametrize("name", MATRICES)
def test_sampling_a_linear_ramp_is_exact_and_outside_is_outside(name):
    k, j, i = np.indices((6, 7, 8))
    ramp = (2 * k - 3 * j + 5 * i).astype(np.float32)
    index = RNG.uniform(0, 5, (4, 5, 3))
    values = sample(ramp, MATRICES[name], lps_from_ijk(MATRICES[name], index), -99.0)
    assert values.shape == (4, 5) and values.dtype == np.float32
    assert np.allclose(values, index @ [2, -3, 5], atol=1e-4)
    assert sample(ramp, MATRICES[name], lps_from_ijk(MATRICES[name], np.array([[-1.0, 0, 0]])), -99.0) == -99
    assert sample(ramp > -1e9, MATRICES[name], lps_from_ijk(MATRICES[name], index), 0.0).min() == 1  # a mask, too


def test_a_crop_stays_where_it_was():
    volume = Volume(np.arange(336).reshape(6, 7, 8), oblique_matrix())
    part = crop(volume, (slice(1, 4), slice(2, 7), slice(3, 5)))
    assert np.array_equal(part.array, volume.array[1:4, 2:7, 3:5])
    assert np.allclose(lps_from_ijk(part.ijk_to_lps, np.array([[1, 1, 1]])),
                       lps_from_ijk(volume.ijk_to_lps, np.array([[2, 3, 4]])))


def test_box_of_a_mask():
    mask = np.zeros((5, 6, 7), bool)
    assert box_of(mask) is None
    mask[2, 3, 4] = mask[3, 3, 6] = True
    assert box_of(mask) == (slice(2, 4), slice(3, 4), slice(4, 7))
    assert box_of(mask, 2) == (slice(0, 5), slice(1, 6), slice(2, 7))
    assert box_of(mask, np.array([0, 1, 0])) == (slice(2, 4), slice(2, 5), slice(4, 7))


def test_a_volume_tells_size_spacing_and_orientation():
    volume = Volume(np.zeros((4, 5, 6), np.uint8), flipped_matrix())
    assert str(volume) == "6 x 5 x 4 voxels of 0.900 x 1.100 x 1.300 mm, uint8, axes ILA"
    assert orientation_of(np.eye(4)) == "LPS"
    assert np.isclose(spacing_of(sheared_matrix())[2], 1.2 / np.cos(np.deg2rad(20)))
    assert np.isclose(Volume(volume.array, sheared_matrix()).voxel_ml, 0.5 * 0.5 * 1.2 / 1000)  # a shear keeps volume
