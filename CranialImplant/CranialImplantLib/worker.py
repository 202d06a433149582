"""The worker process of CranialImplant: one job folder in, five implants out.

    python -m CranialImplantLib.worker JOB_DIR
    python /path/to/CranialImplantLib/worker.py JOB_DIR --packages FOLDER [FOLDER ...] --parent-pid PID

The second form needs nothing installed: the folders that hold CranialImplantLib and MedShapeCore are named, or found
beside this file. The protocol is that of MedShapeCore.jobs; request.json has

    task            "generate"
    input           the skull's file, relative to the job folder or absolute
    segment         name of the segment in a .seg.nrrd, or null
    bone_threshold  HU above which a CT volume is bone, or null
    options         the fields of ImplantOptions; those left out keep their defaults

and the result says passed, failed (names of the mean implant's failed checks), ranking, members, mean, notices, files.
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

REQUEST_KEYS = {"task", "input", "segment", "bone_threshold", "options"}


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
    from CranialImplantLib.pipeline import generate_implants
    from CranialImplantLib.skull import load_skull

    progress("reading the skull", 0.0)
    skull = load_skull(source, segment=segment, bone_threshold=bone_threshold)
    ensemble = generate_implants(skull, options, part_of(progress, 0.03, 0.9))
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
    """The worker's one task, see the head of this file."""
    from MedShapeCore.errors import RefusedInput

    unknown = sorted(set(request) - REQUEST_KEYS)
    if unknown or request.get("task") != "generate" or not isinstance(request.get("input"), str):
        raise RefusedInput(
            "request",
            f"This worker knows the task 'generate' with {', '.join(sorted(REQUEST_KEYS))}, "
            f"not {request.get('task')!r} with {', '.join(sorted(request))}.",
        )
    job_dir = folder.parent
    ensemble = generate_files(
        job_dir / request["input"],
        folder,
        options_from(request.get("options") or {}),
        with_previews(progress, job_dir),
        request.get("segment"),
        request.get("bone_threshold"),
    )
    return {
        "passed": ensemble.mean_report.passed,
        "failed": ensemble.mean_report.failed,
        "ranking": ensemble.ranking,
        "members": ensemble.checks,
        "mean": ensemble.mean_report,
        "notices": ensemble.notices,
        "files": sorted(entry.name for entry in folder.iterdir()),
    }


def with_previews(progress: Progress, job_dir: Path) -> Progress:
    """A progress that writes an event's surface to previews/member_K.vtp and sends the path instead.

    The event is {"member": K, "surface": (vertices_lps (V, 3), triangles (T, 3)), ...}; others pass as they are.
    """

    def report(stage: str, fraction: float, event: dict | None = None) -> None:
        if event is not None and isinstance(event.get("surface"), tuple):
            from MedShapeCore.surfaces import write_vtp

            path = job_dir / "previews" / f"member_{event['member']}.vtp"
            path.parent.mkdir(exist_ok=True)
            vertices_lps, triangles = event["surface"]
            write_vtp(path, vertices_lps, triangles, {})
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

    return run_job(arguments.job_dir, handle, parent_pid=arguments.parent_pid)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # everything is said and written; libraries that hang or crash while closing cannot change that
