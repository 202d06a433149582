"""A worker for self tests: the protocol and the files of the real ones, without torch, networks or weights.

It knows one skull, a shell of 100 mm with a hole on its left side (`implants.sphereWithHole`), and spheres as shapes.
Runs in a process of its own, started like the real workers; never imported by Slicer.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

COLOR = (0.9, 0.62, 0.0)


def handle(request: dict, folder: Path, progress: Any) -> dict:
    for number in range(20):
        progress("rehearsing", number / 20, first_member(request, folder.parent) if number == 10 else None)
        time.sleep(arguments.seconds / 20)
    ENDS[arguments.end](folder)
    return TASKS[request["task"]](request, folder)


def fill_memory(folder: Path) -> None:
    """The system refuses memory, where it can be told to."""
    try:
        import resource
    except ImportError:
        raise MemoryError from None
    resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
    bytearray(2**34)


def fill_disk(folder: Path) -> None:
    """The next file cannot be written: a device that is always full stands in its place, where there is one."""
    if not os.path.exists("/dev/full"):
        raise OSError(errno.ENOSPC, "No space left on device")
    (folder / "report.json").symlink_to("/dev/full")


def refuse(folder: Path) -> None:
    from MedShapeCore.errors import RefusedInput

    raise RefusedInput("no-hole", "This skull has no hole.", "Give a point.")


ENDS: dict[str, Any] = {
    "well": lambda folder: None, "die": lambda folder: os._exit(9), "crash": lambda folder: 1 // 0, "memory": fill_memory,
    "disk": fill_disk, "refuse": refuse,
}  # fmt: skip


def cap(shift_mm: float) -> Any:
    """(k, j, i) bool: what closes the hole, `shift_mm` farther out; grid of 2 mm from -59 mm."""
    import numpy as np

    k, j, i = (np.mgrid[:60, :60, :60] - 29.5) * 2.0
    radius = np.sqrt(i**2 + j**2 + k**2)
    return (radius < 50 + shift_mm) & (radius > 44 + shift_mm) & (i < 0) & (np.hypot(j, k) < 20)


def grid() -> Any:
    """(4, 4) IJK to LPS of `cap`, whose i runs to the right and j to the front."""
    import numpy as np

    matrix = np.diag([-2.0, -2.0, 2.0, 1.0])
    matrix[:3, 3] = (59.0, 59.0, -59.0)
    return matrix


def check(mask: Any, agreement: float) -> dict:
    return {
        "volume_ml": float(mask.sum() * 0.008), "area_cm2": 12.6, "thickness_mm": 6.0, "thickness_p05_mm": 5.0,
        "agreement": agreement, "bone_overlap_voxels": 0, "components": 1, "watertight": True, "passed": True,
        "failed": [], "tunnels": 0,
    }  # fmt: skip


def shapes(request: dict, folder: Path) -> dict:
    """Balls of 40 mm; a reconstruction of a ball with an error that grows from one side to the other."""
    import numpy as np
    from MedShapeCore.surfaces import mask_surface, write_stl, write_vtp

    task, options = request["task"], request["options"]
    count = {"reconstruct": 1, "interpolate": options.get("steps", 7)}.get(task, options.get("count", 3))
    k, j, i = (np.mgrid[:46, :46, :46] - 22.5) * 1.0
    matrix = np.eye(4)
    matrix[:3, 3] = -22.5
    vertices, triangles = mask_surface(i**2 + j**2 + k**2 < 400, matrix)
    made = []
    for number in range(1, count + 1):
        file = "reconstruction.stl" if task == "reconstruct" else f"shape_{number}.stl"
        write_stl(folder / file, vertices, triangles)
        made.append({"file": file, "longest_mm": 40.0, "volume_ml": 33.5, "failed": [], "passed": True})
    if task == "reconstruct":
        write_vtp(folder / "error.vtp", vertices, triangles, {"error_mm": (vertices[:, 0] / 20).astype(np.float32)})
        inner = np.eye(3, dtype=np.float32) * 5
        write_vtp(folder / "skeleton.vtp", inner, np.zeros((0, 3), np.int32), {"radius_mm": np.array([4, 5, 6], np.float32)})
    report = {"task": task, "options": options, "shapes": made, "weights": {"digest": "none"}}
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return {"passed": True, "shapes": made, "figures": {}, "warnings": [], "files": []}


def first_member(request: dict, job_dir: Path) -> dict | None:
    """The event with the first implant's surface, as the engine sends it before the end."""
    from MedShapeCore.surfaces import mask_surface, write_vtp

    if request["task"] != "generate" or "inputs" in request:
        return None
    (job_dir / "previews").mkdir()
    write_vtp(job_dir / "previews" / "member_1.vtp", *mask_surface(cap(0.0), grid()), {})
    return {"member": 1, "surface": "previews/member_1.vtp"}


def generate(request: dict, folder: Path) -> dict:
    if "inputs" in request:
        return shapes(request, folder)
    import numpy as np
    from MedShapeCore.surfaces import mask_surface, vertex_normals, write_vtp

    options = request["options"]
    count = options.get("members", 5)
    masks = [cap(0.5 * n) for n in range(count)]
    rows = [("mean_implant", "MeanImplant", masks[count // 2]), *((f"implant_{n}", f"Implant_{n}", m) for n, m in enumerate(masks, 1))]
    contents = []
    for file, identity, mask in rows:
        vertices, triangles = mask_surface(mask, grid())
        spread = {"spread_mm": np.linspace(0, 1, len(vertices), dtype=np.float32)}
        scalars = {**(spread if identity == "MeanImplant" else {}), "Normals": vertex_normals(vertices, triangles)}
        write_vtp(folder / f"{file}.vtp", vertices, triangles, scalars)
        np.save(folder / f"{file}.npy", mask.astype(np.uint8))
        name = identity.replace("_", " ").replace("MeanImplant", "Mean implant")
        contents.append({"id": identity, "name": name, "color": COLOR, "array": f"{file}.npy", "surface": f"{file}.vtp", "empty": False})
    stack = np.stack(masks)
    np.save(folder / "variance.npy", stack.var(0).astype(np.float32))
    np.save(folder / "agreement.npy", stack.sum(0).astype(np.uint8))
    members = [check(mask, 0.95 - 0.01 * n) for n, mask in enumerate(masks)]
    report = {
        "options": options, "versions": {"medshapegen": "rehearsal"}, "weights": "none", "mean_implant": check(masks[count // 2], 0.95),
        "implants": [{"implant": n, "rank": n, **member} for n, member in enumerate(members, 1)],
    }  # fmt: skip
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return {
        "passed": True, "failed": [], "members": members, "mean": members[0], "notices": [], "ranking": list(range(count)),
        "scene": {"ijk_to_lps": grid(), "members": contents, "terminology": "", "spread_max_mm": 2.0},
    }  # fmt: skip


def holes(request: dict, folder: Path) -> dict:
    import numpy as np

    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    outline = np.stack([np.full(24, 45.8), 20 * np.cos(turn), 20 * np.sin(turn)], -1)
    hole = {"number": 1, "side": "left", "area_cm2": 12.6, "length_mm": 40.0, "width_mm": 40.0, "centre_lps": [50.0, 0.0, 0.0]}
    return {"holes": [{**hole, "outline_lps": outline}], "notices": []}


def handover(request: dict, folder: Path) -> dict:
    from MedShapeCore.surfaces import mask_surface, write_stl

    found = check(cap(0.0), 1.0)
    write_stl(folder / f"{request['name']}.stl", *mask_surface(cap(0.0), grid()))
    (folder / f"{request['name']}.json").write_text(json.dumps({"clearance_mm": 0.0, "checks": found}), encoding="utf-8")
    return {"passed": True, "failed": [], "checks": found, "written": [f"{request['name']}.stl", f"{request['name']}.json"]}


def bone(request: dict, folder: Path) -> dict:
    import numpy as np

    np.save(folder / "bone.npy", cap(0.0).astype(np.uint8))
    return {"array": "bone.npy", "ijk_to_lps": grid(), "notices": []}


def computer(request: dict, folder: Path) -> dict:
    return {"findings": [{"item": "rehearsal", "value": "no engine", "good": True}]}


TASKS = {
    "generate": generate, "reconstruct": shapes, "interpolate": shapes, "complete": shapes,
    "holes": holes, "bone": bone, "handover": handover, "computer": computer,
}  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("job_dir")
    parser.add_argument("--packages", nargs="+", default=[])
    parser.add_argument("--parent-pid", type=int)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--end", choices=ENDS, default="well")
    arguments = parser.parse_args()
    sys.path[:0] = arguments.packages
    from MedShapeCore.jobs import run_job

    sys.exit(run_job(arguments.job_dir, handle, parent_pid=arguments.parent_pid, grace_s=2.0))
