"""The table of categories that Slicer's panel reads says what the engine's table says.

    python Testing/test_slicer_categories.py        writes it
"""

import json

from cmake_lists import ROOT

TABLE = ROOT / "MedShapeGen" / "Resources" / "MedShapeGenCategories.json"


def wanted():
    """Rows with name, label, few, colour, paired, and the terminology in 3D Slicer's form; the panel may not import the engine."""
    from MedShapeGenLib.categories import ANATOMY, CATEGORIES

    rows = []
    for kind in CATEGORIES:
        modifier = "^".join(kind.modifier) if kind.modifier else "^^"
        parts = ["Segmentation category and type - DICOM master list", "^".join(ANATOMY), "^".join(kind.code), modifier]
        terminology = "~".join([*parts, "Anatomic codes - DICOM master list", "^^", "^^"])
        facts = {"label": kind.label, "few": kind.few, "colour": list(kind.colour), "paired": kind.paired}
        rows.append({"name": kind.name, **facts, "terminology": terminology})
    return rows


def test_the_panel_s_table_is_the_engine_s():
    assert json.loads(TABLE.read_text(encoding="utf-8")) == wanted(), "run python Testing/test_slicer_categories.py"


if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(ROOT / "MedShapeGen"))
    TABLE.write_text(json.dumps(wanted(), indent=1) + "\n", encoding="utf-8")
