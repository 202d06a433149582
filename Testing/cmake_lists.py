"""The lists of files in the modules' CMakeLists.txt: what stands there and what should.

    python Testing/cmake_lists.py        writes the lists from the files that are there (`make lists`)

Slicer packages what is listed and nothing else. The lists are explicit, as is usual for Slicer's extensions: a pattern
(file(GLOB ...)) would not notice a new file until CMake is configured again.
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = ("CranialImplant", "MedShapeGen")
SCRIPTS, RESOURCES = "MODULE_PYTHON_SCRIPTS", "MODULE_PYTHON_RESOURCES"


def wanted(folder: Path) -> dict[str, list[str]]:
    """Paths that a module's CMakeLists.txt must list: every .py file as a script, every other file as a resource."""
    paths = sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in path.parts)
    )
    paths = [path for path in paths if path.name != "CMakeLists.txt" and path.parts[0] != "Testing"]
    return {
        SCRIPTS: [path.as_posix() for path in paths if path.suffix == ".py"],
        RESOURCES: [path.as_posix() for path in paths if path.suffix != ".py"],
    }


def listed(text: str) -> dict[str, list[str]]:
    """Paths that the text of a CMakeLists.txt lists."""
    found = {}
    for name in (SCRIPTS, RESOURCES):
        block = re.search(rf"set\({name}\s([^)]*)\)", text)
        if block is None:
            raise ValueError(f"there is no set({name} ...)")
        found[name] = [line.strip() for line in block.group(1).splitlines() if line.strip()]
    return found


def rewritten(text: str, lists: dict[str, list[str]]) -> str:
    """The text of a CMakeLists.txt with other lists."""
    for name, paths in lists.items():
        lines = "".join(f"  {path}\n" for path in paths)
        text = re.sub(rf"set\({name}\s[^)]*\)", lambda _, n=name, block=lines: f"set({n}\n{block}  )", text)
    return text


if __name__ == "__main__":
    for module in MODULES:
        file = ROOT / module / "CMakeLists.txt"
        file.write_text(rewritten(file.read_text(encoding="utf-8"), wanted(ROOT / module)), encoding="utf-8")
