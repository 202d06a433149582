"""The worker process of MedShapeGen: one job folder in, shapes out.

    python -m MedShapeGenLib.worker JOB_DIR
    python /path/to/MedShapeGenLib/worker.py JOB_DIR --packages FOLDER [FOLDER ...] --parent-pid PID

The second form needs nothing installed: the folders that hold MedShapeGenLib and MedShapeCore are named, or found
beside this file. The protocol is that of MedShapeCore.jobs; request.json has

    task            "generate", "reconstruct", "interpolate" or "complete"
    inputs          files, relative to the job folder or absolute: none, one, two, one
    segment         name of the segment in a .seg.nrrd, or null; of both inputs of interpolate
    options         the fields of the task's options (options.py); those left out keep their defaults

or the task "computer" alone, whose result lists what was found on this computer; it works without torch too. Otherwise
the result says passed, shapes (each with file, sizes, failed checks), figures, warnings, files: what report.json in
the results says of them. An event {"shape": K, "surface": "previews/shape_K.vtp"} comes for every finished shape.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from MedShapeCore.jobs import Progress

    from MedShapeGenLib.options import RunOptions

REQUEST_KEYS = {"task", "inputs", "segment", "options"}
INPUTS = {"generate": 0, "reconstruct": 1, "interpolate": 2, "complete": 1}


def run_files(
    task: str, inputs: Sequence[Path], folder: Path, options: RunOptions, progress: Progress, segment: str | None = None
) -> dict:
    """Reads the inputs, does one task and writes all files into `folder`: what worker and command line both do.

    Returns what report.json says. Inputs are read before the weights are loaded, so that a bad one is refused at once.
    """
    from MedShapeCore.jobs import part_of

    from MedShapeGenLib.categories import category
    from MedShapeGenLib.options import SampleOptions
    from MedShapeGenLib.shapes import read_shape, read_surface

    if isinstance(options, SampleOptions):
        category(options.category)
    progress("reading", 0.0)
    read = read_surface if task == "complete" else read_shape
    given = [read(path, segment=segment) for path in inputs]

    from MedShapeCore.devices import choose_device  # torch from here on

    from MedShapeGenLib import complete, generate, interpolate, outputs, reconstruct
    from MedShapeGenLib.models import load_models

    progress("loading the model", 0.02)
    device, reason = choose_device(options.device)
    models = load_models(device)
    run: dict[str, tuple[Callable, Callable]] = {
        "generate": (generate.sample_shapes, outputs.write_generated),
        "reconstruct": (reconstruct.reconstruct, outputs.write_reconstruction),
        "interpolate": (interpolate.interpolate, outputs.write_interpolation),
        "complete": (complete.complete, outputs.write_completions),
    }
    work, write = run[task]
    result = work(*given, models, options, part_of(progress, 0.05, 0.9))
    progress("writing the results", 0.9)
    write(result, folder, outputs.RunFacts(f"{device}: {reason}", models.weights, models.digest, models.versions))
    progress("done", 1.0)
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def options_from(task: str, fields: dict) -> RunOptions:
    """The task's options from the request's JSON; refuses unknown and missing names."""
    from MedShapeCore.errors import RefusedInput

    from MedShapeGenLib import options

    kinds = {
        "generate": options.GenerateOptions,
        "reconstruct": options.ReconstructOptions,
        "interpolate": options.InterpolateOptions,
        "complete": options.CompleteOptions,
    }
    kind = kinds[task]
    known = {field.name for field in dataclasses.fields(kind)}
    needed = {field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING}
    wrong, missing = sorted(set(fields) - known), sorted(needed - set(fields))
    if wrong or missing:
        said = [f"unknown {', '.join(wrong)}"] * bool(wrong) + [f"missing {', '.join(missing)}"] * bool(missing)
        raise RefusedInput("request", f"Options of {task}: {'; '.join(said)}. Known are {', '.join(sorted(known))}.")
    return kind(**fields)


def handle(request: dict, folder: Path, progress: Progress) -> dict:
    """The worker's tasks, see the head of this file."""
    from MedShapeCore.errors import RefusedInput

    if request == {"task": "computer"}:
        from MedShapeCore.computer import check_computer

        return {"findings": check_computer(folder.parent, Path(__file__).parent / "weights", progress)}
    task, inputs = request.get("task"), request.get("inputs") or []
    fits = isinstance(task, str) and task in INPUTS and isinstance(inputs, list) and len(inputs) == INPUTS[task]
    if not fits or set(request) - REQUEST_KEYS or not all(isinstance(path, str) for path in inputs):
        raise RefusedInput(
            "request",
            f"This worker knows the tasks {', '.join(f'{name} ({count} inputs)' for name, count in INPUTS.items())} with "
            f"{', '.join(sorted(REQUEST_KEYS))}, not {task!r} with {', '.join(sorted(request))}.",
        )
    job_dir = folder.parent
    report = run_files(
        str(task),
        [job_dir / path for path in inputs],
        folder,
        options_from(str(task), request.get("options") or {}),
        with_previews(progress, job_dir),
        request.get("segment"),
    )
    return {
        "passed": all(shape["passed"] for shape in report["shapes"]),
        "shapes": report["shapes"],
        "figures": report.get("figures", {}),
        "warnings": report["warnings"],
        "files": sorted(entry.name for entry in folder.iterdir()),
    }


def with_previews(progress: Progress, job_dir: Path) -> Progress:
    """A progress that writes an event's surface to previews/shape_K.vtp and sends the path instead.

    The event is {"shape": K, "surface": (vertices_lps (V, 3), triangles (T, 3)), ...}; others pass as they are.
    """

    def report(stage: str, fraction: float, event: dict | None = None) -> None:
        if event is not None and isinstance(event.get("surface"), tuple):
            from MedShapeCore.surfaces import write_vtp

            path = job_dir / "previews" / f"shape_{event['shape']}.vtp"
            path.parent.mkdir(exist_ok=True)
            vertices_lps, triangles = event["surface"]
            write_vtp(path, vertices_lps, triangles, {})
            event = {**event, "surface": path.relative_to(job_dir).as_posix()}
        progress(stage, fraction, event)

    return report


def package_folders(named: list[str]) -> list[str]:
    """Folders for sys.path: the named ones, else the one that holds this package, and MedShapeCore beside it."""
    return [str(Path(folder).absolute()) for folder in named] or [str(Path(__file__).absolute().parents[1])]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="MedShapeGenLib.worker", description="Runs one MedShapeGen job folder.")
    parser.add_argument("job_dir", metavar="JOB_DIR")
    parser.add_argument("--packages", nargs="+", default=[], metavar="FOLDER", help="folders which hold the packages")
    parser.add_argument("--parent-pid", type=int, metavar="PID", help="a process whose end ends the job")
    arguments = parser.parse_args(argv)
    # A script's own folder comes first on the path, where `shapes` or `models` would be top-level names: take it off.
    own = str(Path(__file__).absolute().parent)
    sys.path[:] = package_folders(arguments.packages) + [entry for entry in sys.path if os.path.abspath(entry) != own]
    from MedShapeCore.jobs import run_job

    return run_job(arguments.job_dir, handle, parent_pid=arguments.parent_pid)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # everything is said and written; libraries that hang or crash while closing cannot change that
