"""Every input that is a skull is read where it lies; every other one is refused with its own sentence."""

import numpy as np
import pytest
import SimpleITK as sitk
from CranialImplantLib.segments import choose_segment
from CranialImplantLib.skull import Skull, bone_from_ct, load_skull
from CranialImplantLib.skullcheck import check_is_skull
from MedShapeCore.errors import OptionError
from MedShapeCore.segments import Segment, read_nrrd_header, segments_of, values_of
from MedShapeCore.volumes import Volume, write_volume
from scipy import ndimage
from skull_cases import AXES, refusal
from synthetic import Hole, head_ct, head_points, shell_skull

HOLE = (Hole((0.5, 0.3, 1.0), 30.0),)
SPACING = 3.0
MM3 = SPACING**3


@pytest.fixture(scope="module")
def skull():
    return shell_skull(SPACING, HOLE)


def save(folder, array, matrix, name="case.nrrd"):
    write_volume(folder / name, Volume(array, matrix))
    return folder / name


def save_segments(folder, layers, matrix, keys, name="case.seg.nrrd"):
    """A .seg.nrrd as 3D Slicer writes it: layers (K, J, I) or (K, J, I, C), header keys as given."""
    image = sitk.GetImageFromArray(layers, isVector=layers.ndim == 4)
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((matrix[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(matrix[:3, 3].tolist())
    for key, value in keys.items():
        image.SetMetaData(key, str(value))
    sitk.WriteImage(image, str(folder / name), True)
    return folder / name


# What is read

@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz", ".nii", ".mha"])
def test_a_mask_is_read_as_it_is(tmp_path, skull, ending):
    read = load_skull(save(tmp_path, skull.mask.astype(np.uint8) * 255, skull.ijk_to_lps, "case 7" + ending))
    assert np.array_equal(read.mask, skull.mask) and read.mask.dtype == bool
    assert np.allclose(read.ijk_to_lps, skull.ijk_to_lps, atol=1e-4)
    assert read.name == "case 7" and read.warnings == ()
    assert "ml of bone" in str(read)


@pytest.mark.parametrize("name", AXES)
@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz"])
def test_any_axis_order_tilt_and_shear_is_read(tmp_path, name, ending):
    case = shell_skull((2.0, 3.0, 2.5), HOLE, axes=AXES[name])
    read = load_skull(save(tmp_path, case.mask, case.ijk_to_lps, "case" + ending))
    assert np.array_equal(read.mask, case.mask) and read.warnings == ()
    assert np.allclose(read.ijk_to_lps, case.ijk_to_lps, atol=1e-3)


def test_loose_parts_of_a_mask_are_kept_and_said(tmp_path, skull):
    mask = skull.mask.copy()
    mask[10:50, -2:, 5:-5] = True
    read = load_skull(save(tmp_path, mask, skull.ijk_to_lps))
    assert np.array_equal(read.mask, mask)
    assert [n.code for n in read.warnings] == ["loose-parts"] and "in 1 pieces" in read.warnings[0].message


# Segments and labels

TWO = {
    "Segment0_ID": "S.1", "Segment0_Name": "Left: brain", "Segment0_LabelValue": 1, "Segment0_Layer": 0,
    "Segment1_ID": "S.2", "Segment1_Name": "Skull", "Segment1_LabelValue": 2, "Segment1_Layer": 0,
    "Segmentation_MasterRepresentation": "Binary labelmap",
}


def two_labels(skull):
    labels = skull.mask.astype(np.uint8) * 2
    labels[30:40, 30:40, 20:30] = 1
    return labels


@pytest.mark.parametrize("wanted", [None, "Skull", "skull", "S.2", "2"])
def test_a_segment_is_chosen_by_name_id_or_label_and_bone_by_default(tmp_path, skull, wanted):
    read = load_skull(save_segments(tmp_path, two_labels(skull), skull.ijk_to_lps, TWO), wanted)
    assert np.array_equal(read.mask, skull.mask) and read.name == "case"
    assert [n.code for n in read.warnings] == (["segment-chosen"] if wanted is None else [])


def test_overlapping_segments_lie_in_layers(tmp_path, skull):
    layers = np.zeros((*skull.mask.shape, 2), np.uint8)
    layers[..., 0] = 1  # a segment that covers everything
    layers[..., 1][skull.mask] = 5
    keys = {**TWO, "Segment1_LabelValue": 5, "Segment1_Layer": 1}
    read = load_skull(save_segments(tmp_path, layers, skull.ijk_to_lps, keys), "Skull")
    assert np.array_equal(read.mask, skull.mask)


def test_files_before_labels_and_layers_were_written_are_read(tmp_path, skull):
    layers = np.stack([np.ones_like(skull.mask), skull.mask], -1).astype(np.uint8)
    keys = {k: v for k, v in TWO.items() if not k.endswith(("LabelValue", "Layer"))}
    assert np.array_equal(load_skull(save_segments(tmp_path, layers, skull.ijk_to_lps, keys), "Skull").mask, skull.mask)


def test_the_only_segment_needs_no_name(tmp_path, skull):
    keys = {"Segment0_ID": "a", "Segment0_Name": "Größe 1", "Segment0_LabelValue": 1, "Segment0_Layer": 0}
    path = save_segments(tmp_path, skull.mask.astype(np.uint8), skull.ijk_to_lps, keys)
    assert segments_of(read_nrrd_header(path))[0].name == "Größe 1"
    assert load_skull(path).warnings == ()


def test_terminology_tells_bone_too():
    tags = "Segmentation.Status:inprogress|TerminologyEntry:General~SCT^123037004^Anatomical~SCT^272673000^Bone~^^~x"
    segments = (Segment("a", "1", 1, 0), Segment("b", "2", 2, 0, tags))
    assert choose_segment(segments, None, "f").name == "b"


def test_a_label_of_a_plain_map_is_chosen_by_number(tmp_path, skull):
    read = load_skull(save(tmp_path, two_labels(skull), skull.ijk_to_lps), segment="2")
    assert np.array_equal(read.mask, skull.mask)


def test_values_are_counted_for_every_kind_of_number():
    array = np.zeros((3, 4, 5))
    array[1, 2, 3] = 2
    for kind in (bool, np.uint8, np.int8, np.int16, np.uint32, np.int64, np.float32, np.float64):
        found = values_of(array.astype(kind))
        assert found is not None and found.tolist() == [0, 1 if kind is bool else 2]
    array[2] = -3
    found = values_of(array.astype(np.int16))
    assert found is not None and found.tolist() == [-3, 0, 2]
    array[0, 0, 0] = 0.5
    assert values_of(array) is None
    array[0, 0, 0] = np.nan
    assert values_of(array) is None


# Refusals of files and labels

def test_an_empty_mask_is_refused(tmp_path, skull):
    error = refusal(load_skull, save(tmp_path, np.zeros(skull.mask.shape, np.uint8), skull.ijk_to_lps))
    assert error.code == "empty" and error.message == "case.nrrd is empty: every voxel is 0."
    assert refusal(check_is_skull, np.zeros(skull.mask.shape, bool), skull.ijk_to_lps).code == "empty"


def test_grey_values_are_refused_and_the_threshold_is_named(tmp_path, skull):
    ct = head_ct(skull, np.random.default_rng(0))
    error = refusal(load_skull, save(tmp_path, ct, skull.ijk_to_lps))
    assert error.code == "not-binary" and f"grey values from {ct.min():g} to {ct.max():g}" in error.message
    assert "--bone-threshold" in error.hint


def test_probabilities_are_refused_and_one_half_is_named(tmp_path, skull):
    soft = ndimage.gaussian_filter(skull.mask.astype(np.float32), 1)
    path = save(tmp_path, soft, skull.ijk_to_lps)
    error = refusal(load_skull, path)
    assert error.code == "not-binary" and "--bone-threshold 0.5" in error.hint
    assert load_skull(path, bone_threshold=0.5).warnings == ()


def test_a_mask_without_background_is_refused(tmp_path, skull):
    error = refusal(load_skull, save(tmp_path, np.ones(skull.mask.shape, np.uint8), skull.ijk_to_lps))
    assert error.code == "not-binary" and "nothing but the value 1" in error.message


def test_several_labels_are_refused_with_their_sizes(tmp_path, skull):
    error = refusal(load_skull, save(tmp_path, two_labels(skull), skull.ijk_to_lps))
    brain_ml, bone_ml = ((two_labels(skull) == n).sum() * MM3 / 1000 for n in (1, 2))
    assert error.code == "several-labels"
    assert error.message == f"case.nrrd has 2 labels: 1 ({brain_ml:.0f} ml), 2 ({bone_ml:.0f} ml)."
    assert "--segment NUMBER" in error.hint


def test_an_unknown_label_is_refused_with_the_known_ones(tmp_path, skull):
    error = refusal(load_skull, save(tmp_path, two_labels(skull), skull.ijk_to_lps), segment="Skull")
    assert error.code == "unknown-segment" and error.message == 'case.nrrd has no label "Skull"; it has "1", "2".'


def test_an_unknown_segment_is_refused_with_the_known_names(tmp_path, skull):
    error = refusal(load_skull, save_segments(tmp_path, two_labels(skull), skull.ijk_to_lps, TWO), "Bone")
    assert error.code == "unknown-segment"
    assert error.message == 'case.seg.nrrd has no segment called "Bone"; it has "Left: brain", "Skull".'


def test_several_segments_without_bone_among_them_are_refused(tmp_path, skull):
    keys = {**TWO, "Segment1_Name": "Segment_2"}
    error = refusal(load_skull, save_segments(tmp_path, two_labels(skull), skull.ijk_to_lps, keys))
    assert error.code == "several-segments" and '"Left: brain", "Segment_2"' in error.message
    assert "--segment NAME" in error.hint


def test_two_segments_of_one_name_are_refused_with_their_ids(tmp_path, skull):
    keys = {**TWO, "Segment0_Name": "Skull"}
    error = refusal(load_skull, save_segments(tmp_path, two_labels(skull), skull.ijk_to_lps, keys), "Skull")
    assert error.code == "several-segments" and '"S.1", "S.2"' in error.hint


def test_an_empty_segment_is_refused(tmp_path, skull):
    path = save_segments(tmp_path, np.zeros(skull.mask.shape, np.uint8), skull.ijk_to_lps, TWO)
    error = refusal(load_skull, path, "Skull")
    assert error.code == "empty" and error.message == 'The segment "Skull" of case.seg.nrrd is empty.'


def test_a_fractional_labelmap_is_refused(tmp_path, skull):
    keys = {**TWO, "Segmentation_MasterRepresentation": "Fractional labelmap"}
    error = refusal(load_skull, save_segments(tmp_path, two_labels(skull), skull.ijk_to_lps, keys), "Skull")
    assert error.code == "fractional" and "fractional labelmap" in error.message


@pytest.mark.parametrize(("key", "value", "said"), [
    ("Segment1_Layer", 3, "layer 3"), ("Segment1_LabelValue", "two", "'two'"),
])
def test_a_header_that_contradicts_its_voxels_is_refused(tmp_path, skull, key, value, said):
    path = save_segments(tmp_path, two_labels(skull), skull.ijk_to_lps, {**TWO, key: value})
    error = refusal(load_skull, path, "Skull")
    assert error.code == "unreadable" and said in error.message


def test_layers_without_names_are_refused(tmp_path, skull):
    layers = np.stack([skull.mask] * 2, -1).astype(np.uint8)
    assert refusal(load_skull, save_segments(tmp_path, layers, skull.ijk_to_lps, {})).code == "not-3d"


def test_a_missing_file_is_refused(tmp_path):
    assert refusal(load_skull, tmp_path / "no.nrrd").message == "There is no file no.nrrd."


@pytest.mark.parametrize(("options", "name"), [
    ({"bone_threshold": 300.0}, "bone-threshold"),
    ({"bone_threshold": 300.0, "segment": "Skull"}, "bone-threshold"),
])
def test_a_threshold_for_a_segmentation_is_refused(tmp_path, skull, options, name):
    with pytest.raises(OptionError, match=f"The option {name} is 300.0; it must be left out"):
        load_skull(save_segments(tmp_path, two_labels(skull), skull.ijk_to_lps, TWO), **options)


def test_a_segment_of_a_ct_is_refused(tmp_path, skull):
    path = save(tmp_path, head_ct(skull, np.random.default_rng(0)), skull.ijk_to_lps)
    with pytest.raises(OptionError, match="The option segment is '2'; it must be left out"):
        load_skull(path, segment="2", bone_threshold=300)


# Refusals of what is no skull

@pytest.mark.parametrize(("factor", "unit", "shown"), [
    (0.001, "metres", "0.003"), (0.1, "centimetres", "0.3"), (1000.0, "micrometres", "3000"),
])
def test_voxels_that_cannot_be_millimetres_are_refused(tmp_path, skull, factor, unit, shown):
    matrix = skull.ijk_to_lps * factor
    matrix[3, 3] = 1
    if unit == "centimetres":  # 0.3 mm is a good voxel; it is the head that is too small
        error = refusal(check_is_skull, skull.mask, matrix)
        assert error.code == "too-small" and "voxel size" in error.hint
        return
    error = refusal(load_skull, save(tmp_path, skull.mask, matrix))
    assert error.code == "voxel-size" and f"They look like {unit}" in error.message
    assert f"{shown} x {shown} x {shown} mm" in error.message


# Head CT

def test_the_bone_of_a_ct_is_the_skull_alone(tmp_path, skull):
    ct = head_ct(skull, np.random.default_rng(1), noise_hu=60.0)
    path = save(tmp_path, ct, skull.ijk_to_lps, "ct.nii.gz")
    read = load_skull(path, bone_threshold=300)
    assert np.array_equal(read.mask, skull.mask)  # 900 and 40 HU lie ten and four standard deviations from 300
    rest_ml = ((ct > 300) & ~skull.mask).sum() * MM3 / 1000
    assert [n.code for n in read.warnings] == ["parts-removed"]
    assert f"({rest_ml:.0f} ml" in read.warnings[0].message and "head rest" in read.warnings[0].message


@pytest.mark.parametrize("name", AXES)
def test_the_ct_path_works_in_any_geometry(name):
    case = shell_skull((3.0, 2.5, 3.0), HOLE, axes=AXES[name])
    ct = head_ct(case, np.random.default_rng(2))
    mask, notices = bone_from_ct(ct, case.ijk_to_lps, 300.0)
    assert np.array_equal(mask, case.mask) and [n.code for n in notices] == ["parts-removed"]


def test_an_island_of_bone_in_the_hole_stays_and_specks_go(skull):
    complete = shell_skull(SPACING)
    points = head_points(skull.mask.shape, skull.ijk_to_lps)
    axis = np.array(HOLE[0].direction) / np.linalg.norm(HOLE[0].direction)
    island = complete.mask & (np.linalg.norm(np.cross(points, axis), axis=-1) < 15) & (points @ axis > 0)
    case = Skull(skull.mask | island, skull.ijk_to_lps)
    ct = head_ct(case, np.random.default_rng(3), rest_hu=-1000)
    ct[40, 40, 35] = 1500  # 0.03 ml inside the brain
    mask, notices = bone_from_ct(ct, case.ijk_to_lps, 300.0)
    assert np.array_equal(mask, case.mask) and notices == []


def test_metal_and_unusual_thresholds_are_said(skull):
    ct = head_ct(skull, np.random.default_rng(4), rest_hu=-1000)
    ct[(np.cumsum(skull.mask).reshape(skull.mask.shape) < 200) & skull.mask] = 3071
    assert [n.code for n in bone_from_ct(ct, skull.ijk_to_lps, 300.0)[1]] == ["metal"]
    assert [n.code for n in bone_from_ct(np.minimum(ct, 950), skull.ijk_to_lps, 90.0)[1]] == ["threshold"]


def test_a_threshold_without_bone_is_refused_with_the_highest_value(tmp_path, skull):
    error = refusal(load_skull, save(tmp_path, skull.mask, skull.ijk_to_lps), bone_threshold=300)
    assert error.code == "no-bone" and "300 HU; the highest value is 1." in error.message
    ct = np.where(skull.mask, np.float32(900), np.float32(np.nan))
    assert bone_from_ct(ct, skull.ijk_to_lps, 300.0)[0].sum() == skull.mask.sum()  # NaN is air


def test_a_threshold_within_soft_tissue_is_refused(skull):
    ct = head_ct(skull, np.random.default_rng(5))
    error = refusal(bone_from_ct, ct, skull.ijk_to_lps, -500.0)
    assert error.code == "threshold-too-low" and "-500 HU" in error.message and "%" in error.message


def test_a_threshold_that_is_no_number_is_refused(skull):
    with pytest.raises(OptionError, match="bone-threshold is nan"):
        bone_from_ct(head_ct(skull, np.random.default_rng(6)), skull.ijk_to_lps, float("nan"))
