"""The files of a result, each read back by something that did not write it."""

import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from CranialImplantLib.outputs import plain, report_of, write_outputs
from CranialImplantLib.skull import Notice
from MedShapeCore.errors import Cancelled, FailedResult, RefusedInput
from MedShapeCore.surfaces import components, is_watertight, read_stl, surface_centroid_lps, surface_volume_ml
from MedShapeCore.volumes import cropped_matrix, lps_from_ijk, read_volume
from shell_ensemble import shell_ensemble

NOTICES = (Notice("vault-cut", "The vault is cut.", "Scan the whole head."), Notice("thin", "The bone is thin."))


@pytest.fixture(scope="module")
def ensemble():
    return shell_ensemble(members=3, notices=NOTICES, failed=(1,))


@pytest.fixture
def without_picture(monkeypatch):
    """The picture has its own tests; without it a run takes a tenth of the time."""
    monkeypatch.setattr("CranialImplantLib.outputs.overview", lambda ensemble, path, members: path.touch())


@pytest.fixture(scope="module")
def folder(ensemble, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "a result" / "of today"
    write_outputs(ensemble, folder)
    return folder


def read_nrrd(path: Path) -> tuple[dict[str, str], np.ndarray]:
    """A reader of its own: header fields and key/values by name, array with the slowest axis first."""
    head, _, body = path.read_bytes().partition(b"\n\n")
    lines = head.decode("ascii").splitlines()
    assert lines[0] == "NRRD0004"
    fields = {}
    for line in lines[1:]:
        if not line.startswith("#"):
            name, _, value = line.partition(":=") if ":=" in line else line.partition(": ")
            assert name not in fields
            fields[name] = value
    dtype = {"unsigned char": "u1", "float": "<f4"}[fields["type"]]
    sizes = [int(v) for v in fields["sizes"].split()]
    assert len(sizes) == int(fields["dimension"]) and fields["encoding"] == "gzip" and fields["endian"] == "little"
    return fields, np.frombuffer(gzip.decompress(body), dtype).reshape(sizes[::-1])


def vectors(text: str) -> np.ndarray:
    return np.array([[float(v) for v in part.strip("()").split(",")] for part in text.split() if part != "none"])


def padded(ensemble, crop):
    whole = np.zeros(ensemble.skull.mask.shape, crop.dtype)
    whole[ensemble.box] = crop
    return whole


def test_the_promised_files_are_there_and_no_others(ensemble, folder):
    names = {"mean_implant.nrrd", "variance.nrrd", "agreement.nrrd", "spread_mm.vtp", "ensemble.seg.nrrd"}
    names |= {"mean_implant.stl", "report.json", "overview.png"}
    names |= {f"implant_{k}.{kind}" for k in (1, 2, 3) for kind in ("nrrd", "stl")}
    assert {path.name for path in folder.iterdir()} == names
    assert json.loads((folder / "report.json").read_text())["files"][-1] == "report.json"


def test_volumes_lie_on_the_inputs_grid_with_its_geometry(ensemble, folder):
    matrix = ensemble.skull.ijk_to_lps
    arrays = {f"implant_{k + 1}.nrrd": implant for k, implant in enumerate(ensemble.implants)}
    arrays |= {"mean_implant.nrrd": ensemble.mean, "variance.nrrd": ensemble.variance}
    arrays |= {"agreement.nrrd": ensemble.agreement}
    for name, crop in arrays.items():
        fields, array = read_nrrd(folder / name)
        assert fields["type"] == ("float" if name == "variance.nrrd" else "unsigned char")
        assert fields["space"] == "left-posterior-superior" and fields["kinds"] == "domain domain domain"
        assert "research" in fields["MedShapeGen.Notice"]
        assert np.array_equal(vectors(fields["space directions"]).T, matrix[:3, :3])
        assert np.array_equal(vectors(fields["space origin"])[0], matrix[:3, 3])
        assert np.array_equal(array, padded(ensemble, crop).astype(array.dtype))
        volume = read_volume(folder / name)  # SimpleITK's opinion
        assert np.array_equal(volume.array, array)
        assert np.allclose(volume.ijk_to_lps, matrix, atol=1e-9)


def test_the_segmentation_holds_every_overlapping_member_in_its_own_layer(ensemble, folder):
    fields, array = read_nrrd(folder / "ensemble.seg.nrrd")
    assert fields["kinds"] == "list domain domain domain" and fields["space directions"].startswith("none (")
    assert array.shape[3] == 4
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = vectors(fields["space directions"]).T, vectors(fields["space origin"])[0]
    offset = np.array([int(v) for v in fields["Segmentation_ReferenceImageExtentOffset"].split()])
    # The file's first voxel lies where the offset says it is in the input's grid.
    expected = lps_from_ijk(ensemble.skull.ijk_to_lps, offset[None, ::-1])[0]
    assert np.allclose(matrix[:3, 3], expected, atol=1e-9)
    for number, mask in enumerate([ensemble.mean, *ensemble.implants]):
        layer = array[..., int(fields[f"Segment{number}_Layer"])] == int(fields[f"Segment{number}_LabelValue"])
        i, j, k = offset
        placed = np.zeros(ensemble.skull.mask.shape, bool)
        placed[k : k + layer.shape[0], j : j + layer.shape[1], i : i + layer.shape[2]] = layer
        assert np.array_equal(placed, padded(ensemble, mask))
        extent = [int(v) for v in fields[f"Segment{number}_Extent"].split()]
        used = np.argwhere(layer)[:, ::-1]
        assert extent == [v for pair in zip(used.min(axis=0), used.max(axis=0), strict=True) for v in pair]
    assert "Segment4_ID" not in fields
    ids = [fields[f"Segment{n}_ID"] for n in range(4)]
    assert len(set(ids)) == 4
    assert [fields[f"Segment{n}_Name"] for n in range(4)] == ["Mean implant", "Implant 1", "Implant 2", "Implant 3"]


def test_segments_have_colours_and_slicers_terms(folder):
    fields, _ = read_nrrd(folder / "ensemble.seg.nrrd")
    assert fields["Segmentation_MasterRepresentation"] == "Binary labelmap"
    colors = set()
    for number in range(4):
        color = tuple(float(v) for v in fields[f"Segment{number}_Color"].split())
        assert len(color) == 3 and all(0 <= v <= 1 for v in color)
        colors.add(color)
        tags = dict(tag.split(":", 1) for tag in fields[f"Segment{number}_Tags"].split("|") if tag)
        term = tags["TerminologyEntry"].split("~")  # context, category, type, modifier, context, region, modifier
        assert len(term) == 7 and all(len(term[n].split("^")) == 3 for n in (1, 2, 3, 5, 6))
        assert term[2] == "SCT^40388003^Implant" and term[5] == "SCT^89546000^Skull"
        assert tags["CranialImplant.Member"] == (str(number) if number else "mean")
        assert tags.get("Segmentation.Status") == ("flagged" if number == 2 else None)  # member 2 fails its checks
    assert len(colors) == 4
    assert "CranialImplant.Rank:3" in fields["Segment1_Tags"] and "CranialImplant.Rank:1" in fields["Segment3_Tags"]


def test_the_segmentation_remembers_the_inputs_grid_in_ras(ensemble, folder):
    fields, _ = read_nrrd(folder / "ensemble.seg.nrrd")
    name, value, description = fields["Segmentation_ConversionParameters"].rstrip("&").split("|")
    numbers = [float(v) for v in value.rstrip(";").split(";")]
    assert name == "Reference image geometry" and len(numbers) == 22 and description
    ras = np.diag([-1, -1, 1, 1]) @ ensemble.skull.ijk_to_lps
    assert np.allclose(np.reshape(numbers[:16], (4, 4)), ras)
    k, j, i = ensemble.skull.mask.shape
    assert numbers[16:] == [0, i - 1, 0, j - 1, 0, k - 1]


def test_simpleitk_reads_the_segmentation_as_one_component_per_layer(ensemble, folder):
    image = sitk.ReadImage(str(folder / "ensemble.seg.nrrd"))
    assert image.GetNumberOfComponentsPerPixel() == 4
    assert image.GetMetaData("Segment0_Name") == "Mean implant"
    points = lps_from_ijk(cropped_matrix(ensemble.skull.ijk_to_lps, ensemble.box), np.argwhere(ensemble.implants[2]))
    for point in points[::97]:
        assert image[image.TransformPhysicalPointToIndex(point.tolist())][3] == 1


@pytest.mark.parametrize("mirrored", [False, True])
def test_every_stl_is_one_closed_body_where_its_mask_is(tmp_path, mirrored, without_picture):
    ensemble = shell_ensemble(members=2, mirrored=mirrored)
    write_outputs(ensemble, tmp_path)
    matrix = cropped_matrix(ensemble.skull.ijk_to_lps, ensemble.box)
    masks = {"mean_implant.stl": ensemble.mean, "implant_1.stl": ensemble.implants[0]}
    masks["implant_2.stl"] = ensemble.implants[1]
    for name, mask in masks.items():
        vertices, triangles = read_stl(tmp_path / name)
        volume_ml = mask.sum() * abs(np.linalg.det(matrix[:3, :3])) / 1000
        assert is_watertight(triangles) and components(triangles) == 1
        # Coarse voxels of 1.6 to 2.1 mm: the rounded rim costs 1.2 % of a cap 4 voxels thick.
        assert surface_volume_ml(vertices, triangles) == pytest.approx(volume_ml, rel=0.015)
        centre = lps_from_ijk(matrix, np.argwhere(mask)).mean(axis=0)
        assert np.linalg.norm(surface_centroid_lps(vertices, triangles) - centre) < 0.2  # mm
        assert b"SPACE=LPS" in (tmp_path / name).read_bytes()[:80]


def test_the_report_says_everything_in_strict_json(ensemble, folder):
    text = (folder / "report.json").read_text(encoding="utf-8")
    report = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert report["notice"] == "For research, not for clinical use."
    assert report["case"] == "shell" and report["ranking"] == [3, 2, 1]
    assert report["options"] == {"seed": 7, "point_lps": None}
    assert report["seconds"]["completion"] == 1.5 and report["seconds"]["outputs"] >= 0
    assert [m["implant"] for m in report["implants"]] == [1, 2, 3] and [m["rank"] for m in report["implants"]] == [
        3,
        2,
        1,
    ]
    assert report["implants"][1]["failed"] == ["thin"] and not report["implants"][1]["passed"]
    assert report["mean_implant"]["volume_ml"] == pytest.approx(ensemble.mean_report.volume_ml)
    assert [w["code"] for w in report["warnings"]] == ["vault-cut", "thin"]
    assert report["input"]["size_ijk"] == [72, 70, 60]
    assert np.allclose(report["input"]["ijk_to_lps"], ensemble.skull.ijk_to_lps)
    assert report["spread_mm"]["all"]["max"] == pytest.approx(float(ensemble.spread.spread_mm.max()))
    assert str(folder.parent) not in text


def test_report_values_become_plain_json():
    value = plain({"a": (np.float32(1.5), np.nan, np.inf), 2: np.arange(3), "p": Path("miller", "scan.nrrd"),
                   "b": np.bool_(True), "n": None, "notice": NOTICES[1]})  # fmt: skip
    assert value == {"a": [1.5, None, None], "2": [0, 1, 2], "p": "scan.nrrd", "b": True, "n": None,
                     "notice": {"code": "thin", "message": "The bone is thin.", "hint": ""}}  # fmt: skip


def test_the_same_warning_is_reported_once(ensemble):
    skull = dataclasses.replace(ensemble.skull, warnings=NOTICES[:1])
    assert len(report_of(dataclasses.replace(ensemble, skull=skull))["warnings"]) == 2


def test_a_second_run_replaces_its_own_files_and_no_others(tmp_path, without_picture):
    write_outputs(shell_ensemble(members=3), tmp_path)
    (tmp_path / "my notes.txt").write_text("mine")
    (tmp_path / "implant_final.stl").write_text("mine")
    files = write_outputs(shell_ensemble(members=1), tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == set(files) | {"my notes.txt", "implant_final.stl"}
    assert "implant_2.stl" not in files and all(path.is_file() for path in files.values())


def test_a_cancelled_or_failed_run_leaves_the_folder_as_it_was(tmp_path, monkeypatch, without_picture):
    ensemble = shell_ensemble(members=1)
    write_outputs(ensemble, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def cancel(stage, fraction, event=None):
        if fraction > 0.5:
            raise Cancelled

    with pytest.raises(Cancelled):
        write_outputs(shell_ensemble(members=2), tmp_path, cancel)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("CranialImplantLib.outputs.write_stl", full)
    with pytest.raises(FailedResult, match="could not be written"):
        write_outputs(ensemble, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, without_picture):
    (tmp_path / "out").write_text("a file")
    for place in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(RefusedInput) as refusal:
            write_outputs(shell_ensemble(members=1), place)
        assert refusal.value.code == "output-folder"


def test_an_ensemble_without_a_mean_voxel_is_still_written(tmp_path, without_picture):
    ensemble = shell_ensemble(members=2)
    nothing = np.zeros_like(ensemble.mean)
    spread = dataclasses.replace(
        ensemble.spread, vertices_lps=np.zeros((0, 3), np.float32), triangles=np.zeros((0, 3), np.int32),
        spread_mm=np.zeros(0, np.float32), side=np.zeros(0, np.int8),
    )  # fmt: skip
    empty = dataclasses.replace(ensemble, mean=nothing, implants=ensemble.implants & False, spread=spread)
    for number, case in enumerate([dataclasses.replace(ensemble, mean=nothing, spread=spread), empty]):
        write_outputs(case, tmp_path / str(number))
        fields, array = read_nrrd(tmp_path / str(number) / "ensemble.seg.nrrd")
        assert fields["Segment0_Extent"] == "0 -1 0 -1 0 -1" and not array[..., 0].any()
        assert read_stl(tmp_path / str(number) / "mean_implant.stl")[1].shape == (0, 3)
