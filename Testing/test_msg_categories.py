"""The table of categories: what users, panels and networks rely on."""

import re

import pytest
from MedShapeGenLib.categories import CATEGORIES, FEW_SUBJECTS, SOURCES, category, checked_sources, class_number
from skull_cases import refusal

NAMES = [row.name for row in CATEGORIES]


def test_class_numbers_are_the_alphabet():
    # The weights know a category by its number: a name in the middle would rename all behind it.
    assert NAMES == sorted(NAMES) and len(set(NAMES)) == len(NAMES) == 25
    assert [class_number(name) for name in NAMES] == list(range(25))


@pytest.mark.parametrize("row", CATEGORIES, ids=NAMES)
def test_a_row_is_complete(row):
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", row.name)
    assert all(0 <= part <= 1 for part in row.colour) and len(row.colour) == 3
    assert row.code[0] == "SCT" and row.code[1].isdigit() and row.code[2]
    low, high = row.longest_mm
    assert 10 < low < high < 400  # mm, an organ's size
    assert 8 <= row.training_subjects <= row.training_shapes and row.components == 1
    assert row.sources and all(SOURCES[key].bundled for key in row.sources)
    assert not row.paired or row.modifier[2] == "Left"


def test_few_subjects_and_no_patients_are_marked():
    assert {row.name for row in CATEGORIES if row.few} == {"duodenum", "esophagus", "gallbladder", "liver", "stomach"}
    assert all(row.few == (row.training_subjects < FEW_SUBJECTS) for row in CATEGORIES)
    assert {row.name for row in CATEGORIES if row.synthetic} == {"artery_tree"} == {r.name for r in CATEGORIES if r.tubular}
    assert "synthetic" in category("artery_tree").label


def test_paired_organs_are_those_of_which_people_have_two():
    assert {r.name for r in CATEGORIES if r.paired} == {
        "eyeball", "hippocampus", "kidney", "parotid_gland", "submandibular_gland"
    }  # fmt: skip


def test_a_licence_names_those_of_all_sources():
    assert category("kidney").licence == "CC BY-NC-SA 4.0; CC BY 4.0"
    assert category("mandible").licence == "CC BY 4.0"


def test_sources_without_a_licence_for_release_are_not_bundled():
    for source in SOURCES.values():
        assert source.bundled == source.licence.startswith("CC")


@pytest.mark.parametrize(
    "wrong, meant", [("kidny", "kidney"), ("KIDNEYS", "kidney"), ("lobe", "lung_lobe_left_lower"), ("Parotid gland", "parotid_gland")]
)
def test_an_unknown_category_is_refused_with_what_may_be_meant(wrong, meant):
    error = refusal(category, wrong)
    assert error.code == "unknown-category" and repr(wrong) in error.message
    assert error.hint.startswith("Did you mean") and meant in error.hint


@pytest.mark.parametrize("wrong", ["zzz", ""])
def test_an_unknown_category_like_none_is_refused_with_all_names(wrong):
    assert all(name in refusal(category, wrong).hint for name in NAMES)


def test_an_unknown_source_is_refused():
    assert checked_sources(("kits23", "skullfix")) == ("kits23", "skullfix")
    error = refusal(checked_sources, ("kits23", "kits"))
    assert error.code == "unknown-source" and "'kits'" in error.message and "kits23" in error.hint
