"""The worker process of CranialImplant: one job folder in, five implants out.

    python -m CranialImplantLib.worker JOB_DIR
    python /path/to/CranialImplantLib/worker.py JOB_DIR --packages FOLDER [FOLDER ...] --parent-pid PID

The second form needs nothing installed: the folders that hold CranialImplantLib and MedShapeCore are named, or found
beside this file. The protocol is that of MedShapeCore.jobs; request.json has a task and its own keys:

    generate   input (the skull's file, relative to the job folder or absolute), segment (name of the segment in a
               .seg.nrrd, or null), bone_threshold (HU above which a CT volume is bone, or null), options (the fields
               of ImplantOptions; those left out keep their defaults), outputs ("files" as the command line writes
               them, or "scene" for 3D Slicer). The result says passed, failed (names of the mean implant's failed
               checks), ranking, members, mean, notices, files, and for a scene its table of contents.
    holes      input, segment, bone_threshold, device. The result lists the holes, largest first.
    bone       input (a CT), bone_threshold. The result names the array (k, j, i) of the bone and gives its ijk_to_lps.
    handover   bone, implant (files of one grid), name, override, with_piece, provenance, agreement: see `handover`.
    computer   with_run. The result lists what was found on this computer; works without torch too.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from MedShapeCore.jobs import Progress

    from CranialImplantLib.ensemble import ImplantEnsemble
    from CranialImplantLib.options import ImplantOptions

INPUT_KEYS = {"task", "input", "segment", "bone_threshold"}
KEYS = {
    "generate": INPUT_KEYS | {"options", "outputs"},
    "holes": INPUT_KEYS | {"device"},
    "bone": {"task", "input", "bone_threshold"},
    "handover": {"task", "bone", "implant", "name", "override", "with_piece", "provenance", "agreement"},
    "computer": {"task", "with_run"},
}
NEEDED_FILES = {"generate": ("input",), "holes": ("input",), "bone": ("input",), "handover": ("bone", "implant"), "computer": ()}
GRACE_S = 2.0  # a client that vanishes leaves no worker for longer, even in the middle of a long call


def made_from(
    source: Path, options: ImplantOptions, progress: Progress, segment: str | None, bone_threshold: float | None
) -> ImplantEnsemble:
    """Reads a skull and makes its implants; the first nine tenths of the work."""
    from MedShapeCore.jobs import part_of

    from CranialImplantLib.pipeline import generate_implants
    from CranialImplantLib.skull import load_skull

    progress("reading the skull", 0.0)
    skull = load_skull(source, segment=segment, bone_threshold=bone_threshold)
    return generate_implants(skull, options, part_of(progress, 0.03, 0.9))


def generate_files(
    source: Path,
    folder: Path,
    options: ImplantOptions,
    progress: Progress,
    segment: str | None = None,
    bone_threshold: float | None = None,
) -> ImplantEnsemble:
    """Reads a skull, makes its implants and writes all files into `folder`: what worker and command line both do."""
    from MedShapeCore.jobs import part_of

    from CranialImplantLib.outputs import write_outputs

    ensemble = made_from(source, options, progress, segment, bone_threshold)
    write_outputs(ensemble, folder, part_of(progress, 0.9, 1.0))
    progress("done", 1.0)
    return ensemble


def options_from(fields: dict) -> ImplantOptions:
    """ImplantOptions from the request's JSON; refuses unknown names and values that are no numbers."""
    from MedShapeCore.errors import OptionError, RefusedInput

    from CranialImplantLib.options import ImplantOptions

    known = {field.name for field in dataclasses.fields(ImplantOptions)}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise RefusedInput("request", f"Unknown options {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
    fields = dict(fields)
    for name in ("point_lps", "roi_lps"):
        if fields.get(name) is not None:
            try:
                fields[name] = tuple(float(number) for number in fields[name])
            except (TypeError, ValueError) as error:
                raise OptionError(name, fields[name], "a list of numbers in mm") from error
    return ImplantOptions(**fields)


def handle(request: dict, folder: Path, progress: Progress) -> dict:
    """One task, see the head of this file."""
    from MedShapeCore.errors import RefusedInput

    task = str(request.get("task"))
    if (
        task not in KEYS
        or set(request) - KEYS[task]
        or any(not isinstance(request.get(key), str) for key in NEEDED_FILES[task])
        or request.get("outputs", "files") not in ("files", "scene")
    ):
        raise RefusedInput(
            "request",
            f"This worker knows the tasks {', '.join(KEYS)}, each with its own keys, "
            f"not {task!r} with {', '.join(sorted(request))}.",
        )
    return HANDLERS[task](request, folder, progress)


def handle_generate(request: dict, folder: Path, progress: Progress) -> dict:
    from MedShapeCore.jobs import part_of

    job_dir = folder.parent
    progress = with_previews(progress, job_dir)
    source, segment, threshold = job_dir / request["input"], request.get("segment"), request.get("bone_threshold")
    options = options_from(request.get("options") or {})
    contents = {}
    if request.get("outputs") == "scene":
        from CranialImplantLib.scene import write_scene_files

        ensemble = made_from(source, options, progress, segment, threshold)
        contents["scene"] = write_scene_files(ensemble, folder, part_of(progress, 0.9, 1.0))
    else:
        ensemble = generate_files(source, folder, options, progress, segment, threshold)
    return {
        "passed": ensemble.mean_report.passed,
        "failed": ensemble.mean_report.failed,
        "ranking": ensemble.ranking,
        "members": ensemble.checks,
        "mean": ensemble.mean_report,
        "notices": ensemble.notices,
        "files": sorted(entry.name for entry in folder.iterdir()),
        **contents,
    }


def handle_holes(request: dict, folder: Path, progress: Progress) -> dict:
    from MedShapeCore.devices import choose_device

    from CranialImplantLib.holes import views_of
    from CranialImplantLib.models import load_models
    from CranialImplantLib.preparation import locate
    from CranialImplantLib.skull import load_skull

    progress("reading the skull", 0.0)
    skull = load_skull(folder.parent / request["input"], request.get("segment"), request.get("bone_threshold"))
    models = load_models(choose_device(request.get("device") or "auto")[0])
    located = locate(skull, models, lambda stage, fraction, event=None: progress(stage, min(3.0 * fraction, 0.95)))
    progress("done", 1.0)
    return {"holes": views_of(located), "notices": skull.warnings}


def handle_bone(request: dict, folder: Path, progress: Progress) -> dict:
    import numpy as np
    from MedShapeCore.volumes import box_of, cropped_matrix

    from CranialImplantLib.skull import load_skull

    progress("looking for bone", 0.1)
    skull = load_skull(folder.parent / request["input"], bone_threshold=float(request.get("bone_threshold") or 300.0))
    box = box_of(skull.mask, 1) or (slice(0, 2), slice(0, 2), slice(0, 2))
    np.save(folder / "bone.npy", skull.mask[box].astype(np.uint8))
    progress("done", 1.0)
    return {"array": "bone.npy", "ijk_to_lps": cropped_matrix(skull.ijk_to_lps, box), "notices": skull.warnings}


def handle_handover(request: dict, folder: Path, progress: Progress) -> dict:
    from CranialImplantLib.handover import hand_over_files

    progress("checking the implant", 0.1)
    files = [folder.parent / request[key] for key in ("bone", "implant")]
    wishes = {key: value for key, value in request.items() if key not in ("task", "bone", "implant")}
    answer = hand_over_files(files[0], files[1], folder, **wishes)
    progress("done", 1.0)
    return answer


def handle_computer(request: dict, folder: Path, progress: Progress) -> dict:
    from MedShapeCore.computer import check_computer
    from MedShapeCore.jobs import part_of

    here = Path(__file__).parent

    def short_run() -> tuple[str, bool]:
        from CranialImplantLib.options import ImplantOptions
        from CranialImplantLib.pipeline import generate_implants
        from CranialImplantLib.skull import load_skull

        quiet = part_of(lambda stage, fraction, event=None: progress(stage, fraction), 0.4, 1.0)
        skull = load_skull(here / "demo" / "demo_skull.nrrd")
        made = generate_implants(skull, ImplantOptions(members=1, quality="fast"), quiet)
        volume_ml, device = made.mean_report.volume_ml, made.report["device"]["used"]
        return f"an implant of {volume_ml:.0f} ml for the bundled skull on {device}", made.mean_report.passed

    run = short_run if request.get("with_run", True) else None
    return {"findings": check_computer(folder.parent, here / "weights", progress, run)}


HANDLERS = {
    "generate": handle_generate,
    "holes": handle_holes,
    "bone": handle_bone,
    "handover": handle_handover,
    "computer": handle_computer,
}


def with_previews(progress: Progress, job_dir: Path) -> Progress:
    """A progress that writes an event's surface to previews/member_K.vtp and sends the path instead.

    The event is {"member": K, "surface": (vertices_lps (V, 3), triangles (T, 3)), ...}; others pass as they are.
    """

    def report(stage: str, fraction: float, event: dict | None = None) -> None:
        if event is not None and isinstance(event.get("surface"), tuple):
            from MedShapeCore.surfaces import vertex_normals, write_vtp

            path = job_dir / "previews" / f"member_{event['member']}.vtp"
            path.parent.mkdir(exist_ok=True)
            vertices_lps, triangles = event["surface"]
            write_vtp(path, vertices_lps, triangles, {"Normals": vertex_normals(vertices_lps, triangles)})
            event = {**event, "surface": path.relative_to(job_dir).as_posix()}
        progress(stage, fraction, event)

    return report


def package_folders(named: list[str]) -> list[str]:
    """Folders for sys.path: the named ones, else this package's and, in the source tree, MedShapeGen beside it."""
    if named:
        return [str(Path(folder).absolute()) for folder in named]
    here = Path(__file__).absolute().parents[1]
    beside = here.parent / "MedShapeGen"
    return [str(here), *([str(beside)] if (beside / "MedShapeCore").is_dir() else [])]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="CranialImplantLib.worker", description="Runs one CranialImplant job folder.")
    parser.add_argument("job_dir", metavar="JOB_DIR")
    parser.add_argument("--packages", nargs="+", default=[], metavar="FOLDER", help="folders which hold the packages")
    parser.add_argument("--parent-pid", type=int, metavar="PID", help="a process whose end ends the job")
    arguments = parser.parse_args(argv)
    # A script's own folder comes first on the path, where `skull` or `demo` would be top-level names: take it off.
    own = str(Path(__file__).absolute().parent)
    sys.path[:] = package_folders(arguments.packages) + [entry for entry in sys.path if os.path.abspath(entry) != own]
    from MedShapeCore.jobs import run_job

    return run_job(arguments.job_dir, handle, parent_pid=arguments.parent_pid, grace_s=GRACE_S)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # everything is said and written; libraries that hang or crash while closing cannot change that
