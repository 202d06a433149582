"""Rules of the repository: what is packaged, who imports whom, metadata that agrees."""

import ast
import fnmatch
import json
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from cmake_lists import MODULES, RESOURCES, ROOT, SCRIPTS, listed, rewritten, wanted

CMAKE = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CATALOGUE = json.loads((ROOT / "MedShapeGen.json").read_text(encoding="utf-8"))

SLICER = {"slicer", "qt", "ctk"}
ENGINES = {"CranialImplantLib", "MedShapeGenLib"}
# What each package may not import at all (DESIGN.md, section 2); absent packages are looked at once they exist.
FORBIDDEN = {
    "MedShapeCore": SLICER | ENGINES | {"MedShapeSlicer"},
    "CranialImplantLib": SLICER | {"MedShapeGenLib", "MedShapeSlicer"},
    "MedShapeGenLib": SLICER | {"CranialImplantLib", "MedShapeSlicer"},
    "MedShapeSlicer": ENGINES | {"torch"},
    "CranialImplant.py": ENGINES | {"torch"},
    "MedShapeGen.py": ENGINES | {"torch"},
}
HEAVY = ("torch", "vtk", "vtkmodules", "SimpleITK", "scipy", "skimage", "trimesh", "matplotlib", "safetensors")
NOT_ON_A_TRAINING_MACHINE = ("vtk", "vtkmodules", "SimpleITK", "skimage", "trimesh", "matplotlib")


def python_files(name):
    """Files of a package or module anywhere in the two module folders."""
    for module in MODULES:
        path = ROOT / module / name
        yield from [path] if path.is_file() else path.rglob("*.py")


def imported_names(source):
    """Top-level names that a file imports anywhere, those for type checkers included; not its relative imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from (a.value.split(".")[0] for a in node.args[:1] if isinstance(a, ast.Constant))


def python(code):
    """Runs code in a fresh interpreter that finds the packages of the source tree; returns what it printed."""
    path = [str(ROOT / module) for module in MODULES]
    code = f"import sys; sys.path[:0] = {path!r}\n{code}"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


def cmake_value(name):
    return re.search(rf'set\({name} "([^"]*)"\)', CMAKE).group(1)


# ---- packaging


@pytest.mark.parametrize("module", MODULES)
def test_cmake_lists_every_file_of_the_module(module):
    text = (ROOT / module / "CMakeLists.txt").read_text(encoding="utf-8")
    have, want = listed(text), wanted(ROOT / module)
    for name in (SCRIPTS, RESOURCES):
        missing = [path for path in want[name] if path not in have[name]]
        gone = [path for path in have[name] if path not in want[name]]
        assert not missing, f"{module}/CMakeLists.txt, {name}: add (`make lists` does) {' '.join(missing)}"
        assert not gone, f"{module}/CMakeLists.txt, {name}: remove (`make lists` does) {' '.join(gone)}"
        assert len(have[name]) == len(set(have[name])), f"{module}/CMakeLists.txt, {name}: a line stands there twice"


def test_rewriting_the_cmake_lists_changes_nothing_else(tmp_path):
    (tmp_path / "Lib").mkdir()
    for name in ("Lib/b.py", "Lib/a.py", "Lib/w.safetensors", ".hidden", "CMakeLists.txt"):
        (tmp_path / name).write_text("")
    before = f"# head\nset({SCRIPTS}\n  old.py\n  )\n\nset({RESOURCES}\n  )\n# foot\n"
    after = rewritten(before, wanted(tmp_path))
    scripts, resources = "  Lib/a.py\n  Lib/b.py\n", "  Lib/w.safetensors\n"
    assert after == f"# head\nset({SCRIPTS}\n{scripts}  )\n\nset({RESOURCES}\n{resources}  )\n# foot\n"
    assert listed(after) == wanted(tmp_path)


@pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake here")
def test_cmake_configures_with_a_stand_in_for_slicer(tmp_path):
    (tmp_path / "SlicerConfig.cmake").write_text(
        "set(Slicer_USE_FILE ${CMAKE_CURRENT_LIST_DIR}/use.cmake)\n"
        "set(Slicer_EXTENSION_GENERATE_CONFIG ${CMAKE_CURRENT_LIST_DIR}/nothing.cmake)\n"
        "set(Slicer_EXTENSION_CPACK ${CMAKE_CURRENT_LIST_DIR}/nothing.cmake)\n"
    )
    (tmp_path / "nothing.cmake").write_text("")
    (tmp_path / "use.cmake").write_text(
        "macro(slicerMacroBuildScriptedModule)\n"
        '  cmake_parse_arguments(MY "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})\n'
        "  if(MY_UNPARSED_ARGUMENTS)\n    message(FATAL_ERROR unknown ${MY_UNPARSED_ARGUMENTS})\n  endif()\n"
        "  foreach(file ${MY_SCRIPTS} ${MY_RESOURCES})\n"
        "    if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${file})\n"
        "      message(FATAL_ERROR missing ${file})\n    endif()\n"
        "  endforeach()\n"
        "  list(LENGTH MY_SCRIPTS count)\n"
        '  message(STATUS "module ${MY_NAME} has ${count} scripts")\n'
        "endmacro()\n"
        "macro(slicer_add_python_unittest)\nendmacro()\n"
    )
    # A project without languages needs no compiler: this wraps ours, whose project() would look for one.
    wrapper = tmp_path / "wrapper"
    wrapper.mkdir()
    text = CMAKE.replace("project(MedShapeGen)", "project(MedShapeGen NONE)")
    (wrapper / "CMakeLists.txt").write_text(
        re.sub(r"add_subdirectory\((\w+)\)", lambda m: f'add_subdirectory("{(ROOT / m[1]).as_posix()}" {m[1]})', text)
    )
    answer = subprocess.run(
        ["cmake", "-S", str(wrapper), "-B", str(tmp_path / "build"), f"-DSlicer_DIR={tmp_path}"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    for module in MODULES:
        count = len(listed((ROOT / module / "CMakeLists.txt").read_text(encoding="utf-8"))[SCRIPTS])
        assert f"module {module} has {count} scripts" in answer.stdout


def test_names_are_unique_where_slicer_merges_the_modules():
    seen = {}
    for module in MODULES:
        folder = ROOT / module
        apart = ("Resources", "Testing", "CMakeLists.txt", "__pycache__")
        tops = [p.name for p in folder.iterdir() if p.name not in apart]
        merged = [p.relative_to(folder).as_posix() for p in (folder / "Resources").rglob("*") if p.is_file()]
        for name in tops + merged:
            other = seen.setdefault(name.lower(), module)
            assert other == module, f"{name} is in {other} and in {module}"


def test_no_module_has_a_name_of_the_standard_library():
    # The worker is started by its path: until it mends sys.path, its own folder comes first there.
    names = {path.stem for path in (ROOT / "CranialImplant" / "CranialImplantLib").glob("*.py")}
    assert not names & set(sys.stdlib_module_names)


def test_pyproject_names_every_package_and_its_folder():
    found = {
        init.parent.relative_to(ROOT / module).as_posix().replace("/", "."): init.parent.relative_to(ROOT).as_posix()
        for module in MODULES
        for init in (ROOT / module).rglob("__init__.py")
        if init.relative_to(ROOT / module).parts[0] != "MedShapeSlicer"  # lives in Slicer alone
    }
    setuptools = PROJECT["tool"]["setuptools"]
    assert sorted(setuptools["packages"]) == sorted(found)
    assert setuptools["package-dir"] == found


def test_a_wheel_carries_every_file_that_slicer_gets():
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for module in MODULES:
        for path in wanted(ROOT / module)[RESOURCES]:
            package, _, rest = path.partition("/")
            if (ROOT / module / package / "__init__.py").exists():
                patterns = data.get(package, [])
                assert any(fnmatch.fnmatch(rest, pattern) for pattern in patterns), f"{path}: no package-data takes it"


def test_every_dependency_is_pinned_in_the_constraints():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    project = PROJECT["project"]
    pinned = {name.lower().replace("_", "-") for name in pins}
    for requirement in project["dependencies"] + project["optional-dependencies"]["test"]:
        assert re.match(r"[\w-]+", requirement).group(0).lower() in pinned
    assert pins["torch"] == "2.13.0"  # without a local part such as +cpu, so that any build of it satisfies


# ---- who imports whom


@pytest.mark.parametrize("name", FORBIDDEN)
def test_imports_keep_to_the_layers(name):
    for path in python_files(name):
        wrong = set(imported_names(path.read_text(encoding="utf-8"))) & FORBIDDEN[name]
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_the_reader_of_imports_sees_every_form():
    source = (
        "import a.b, c as d\nfrom e.f import g\nfrom .own import h\nfrom . import i\n"
        "def later():\n    import j\n    importlib.import_module('k.l')\n    __import__('m')\n"
    )
    assert sorted(imported_names(source)) == ["a", "c", "e", "j", "k", "m"]


def test_importing_the_packages_the_command_and_the_worker_pulls_nothing_heavy():
    modules = "MedShapeCore, CranialImplantLib, MedShapeCore.errors, MedShapeCore.jobs, CranialImplantLib.options"
    code = f"import {modules}, CranialImplantLib.cli, CranialImplantLib.worker\n"
    loaded = python(code + f"print([name for name in {HEAVY!r} if name in sys.modules])")
    assert loaded == "[]"


def test_training_needs_torch_numpy_and_scipy_alone():
    names = sorted(path.stem for path in (ROOT / "CranialImplant/CranialImplantLib/training").glob("*.py"))
    code = f"""
import importlib, importlib.abc
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {NOT_ON_A_TRAINING_MACHINE!r}:
            raise ModuleNotFoundError("a bare training machine has no " + name)
sys.meta_path.insert(0, Absent())
for name in {names!r}:
    importlib.import_module("CranialImplantLib.training." + name)
print("imported")
"""
    assert python(code) == "imported"


# ---- metadata


def test_catalogue_entry_agrees_with_cmake():
    project = re.search(r"project\((\w+)\)", CMAKE).group(1)
    assert (ROOT / f"{project}.json").exists() and (ROOT / f"{project}.s4ext").exists()
    assert CATALOGUE["build_dependencies"] == cmake_value("EXTENSION_DEPENDS").split()
    assert CATALOGUE["category"] == cmake_value("EXTENSION_CATEGORY")
    assert CATALOGUE["scm_url"] == cmake_value("EXTENSION_HOMEPAGE") + ".git"
    assert CATALOGUE["scm_url"].endswith(f"/Slicer{project}.git")


def test_catalogue_entry_keeps_to_its_schema():
    assert {"$schema", "category", "scm_url"} <= set(CATALOGUE) <= {
        "$schema", "category", "scm_url", "scm_revision", "scm_type", "build_dependencies", "dicom_support_rule",
        "build_subdirectory", "enabled", "tier",
    }  # fmt: skip
    assert "v1.0.2" in CATALOGUE["$schema"] and 1 <= CATALOGUE["tier"] <= 5
    assert b"\r" not in (ROOT / "MedShapeGen.json").read_bytes()


def test_description_file_agrees_with_cmake_and_catalogue():
    lines = (ROOT / "MedShapeGen.s4ext").read_text(encoding="utf-8").splitlines()
    described = dict(line.split(" ", 1) for line in lines)
    for key, name in (
        ("depends", "DEPENDS"), ("homepage", "HOMEPAGE"), ("contributors", "CONTRIBUTORS"), ("category", "CATEGORY"),
        ("iconurl", "ICONURL"), ("description", "DESCRIPTION"), ("screenshoturls", "SCREENSHOTURLS"),
    ):  # fmt: skip
        assert described[key] == cmake_value(f"EXTENSION_{name}")
    assert described["scmurl"] == CATALOGUE["scm_url"] and described["scmrevision"] == CATALOGUE["scm_revision"]
    assert described["build_subdirectory"] == CATALOGUE["build_subdirectory"]


def read_simple_yaml(text):
    """YAML of nested mappings and lists of mappings with one-line plain scalars; ValueError for anything else."""
    rows = [(len(line) - len(line.lstrip(" ")), line.strip()) for line in text.splitlines() if line.strip()]

    def block(start, indent):
        result = [] if rows[start][1].startswith("- ") else {}
        while start < len(rows) and rows[start][0] == indent:
            content = rows[start][1]
            if isinstance(result, list):
                if not content.startswith("- "):
                    raise ValueError(content)
                rows[start] = (indent + 2, content[2:])
                item, start = block(start, indent + 2)
                result.append(item)
                continue
            key, colon, value = content.partition(":")
            if not colon or not re.fullmatch(r"[\w-]+", key) or key in result or (value and value[0] != " "):
                raise ValueError(content)
            value = value.strip()
            if ": " in value or " #" in value or value[:1] in tuple("'\"[]{}>|&*!%@`#,?-"):
                raise ValueError(content)
            start += 1
            if value:
                result[key] = value
            elif start < len(rows) and rows[start][0] > indent:
                result[key], start = block(start, rows[start][0])
            else:
                raise ValueError(content)
        return result, start

    result, end = block(0, 0)
    if end != len(rows):
        raise ValueError(rows[end][1])
    return result


def test_citation_names_both_papers_and_this_version():
    cited = read_simple_yaml((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["cff-version"] == "1.2.0" and {"title", "message", "authors"} <= set(cited)
    assert cited["version"] == python("import MedShapeCore; print(MedShapeCore.__version__)")
    papers = {paper["identifiers"][0]["value"]: paper for paper in cited["references"]}
    assert sorted(papers) == ["arXiv:2303.08061", "arXiv:2603.07504"]
    for paper, first in (("arXiv:2303.08061", "Friedrich"), ("arXiv:2603.07504", "Zhang")):
        assert papers[paper]["authors"][0]["family-names"] == first
        assert {"type", "title", "year", "url"} <= set(papers[paper])


@pytest.mark.parametrize("text", ["a", "a: b\n  c: d", "a: b\na: c", "a: b: c", "a:\n  - b: c\n   d: e", "a:", "a: >-"])
def test_the_reader_of_the_citation_refuses_what_it_does_not_know(text):
    with pytest.raises(ValueError):
        read_simple_yaml(text)


def test_licences_are_stated():
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for words in ("Apache-2.0", "CC BY-NC-SA 4.0", "not for clinical"):
        assert words in readme


def test_pictures_and_links_of_the_readme_are_there():
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")) if ":" not in target]
    assert len(targets) >= 8 and not [target for target in targets if not (ROOT / target).exists()]
