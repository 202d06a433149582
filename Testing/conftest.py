"""Lets the tests run from a source tree that is not installed."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

for folder in (ROOT / "Testing", ROOT / "CranialImplant", ROOT / "MedShapeGen"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
