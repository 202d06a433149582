"""Judges implants: one prediction against its truth, or a folder of cases beside the baselines.

A case is a label map NAME.nrrd (1 bone, 2 true implant). Methods get the bone and nothing else. What kind of hole it is
comes from cases.csv (columns file, skull, place; more are ignored) or from the name PLACE__SKULL.nrrd.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import platform
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from MedShapeCore import __version__
from MedShapeCore.errors import Cancelled, FailedResult, MedShapeError, RefusedInput
from MedShapeCore.metrics import implant_metrics, pairwise_dice
from MedShapeCore.volumes import (
    Volume,
    box_of,
    lps_from_ijk,
    read_volume,
)

from .baselines import HoleCase
from .benchmark_table import Row, write_results
from .ensemble import ImplantEnsemble, placed
from .model_baselines import BASELINES
from .options import ImplantOptions
from .reliability import spread_error_correlation
from .skull import Skull

Progress = Callable[..., None]  # (stage, fraction, event=None); may raise Cancelled
Work = Callable[[], tuple[np.ndarray, Row]]  # a method's implant (K, J, I) bool and figures of its own

BONE, IMPLANT = 1, 2  # labels of a case
SAME_GRID_MM = 0.01  # corners of two grids may differ by the rounding of file formats, not by more


@dataclass(frozen=True)
class Case:
    """One label map, whose skull it is, and the place of its hole."""

    path: Path
    skull: str
    place: str


@dataclass(frozen=True)
class Settings:
    """What a benchmark runs on each case; `ImplantOptions` explains seed, device and quality."""

    members: tuple[int, ...] = (1, 5)
    seed: int = 0
    device: str = "auto"
    quality: str = "best"
    baselines: bool = True

    def options(self, members: int) -> ImplantOptions:
        return ImplantOptions(members=members, seed=self.seed, device=self.device, quality=self.quality)


def evaluate_files(skull_path: str | Path, truth_path: str | Path, prediction_path: str | Path) -> dict:
    """Figures of `implant_metrics` for three masks on one grid: skull with the hole, true implant, prediction.

    One path for both skull and truth means a label map with 1 = bone and 2 = implant. Refuses different grids (by
    position, not only shape), masks with several labels, and an empty truth or skull.
    """
    skull_path, truth_path, prediction_path = Path(skull_path), Path(truth_path), Path(prediction_path)
    if skull_path == truth_path:
        skull, bone, implant = read_case(skull_path)
    else:
        skull, truth = read_volume(skull_path), read_volume(truth_path)
        refuse_another_grid(skull, truth, skull_path.name, truth_path.name)
        bone, implant = mask_of(skull.array, skull_path.name), mask_of(truth.array, truth_path.name)
    prediction = read_volume(prediction_path)
    refuse_another_grid(skull, prediction, skull_path.name, prediction_path.name)
    return implant_metrics(mask_of(prediction.array, prediction_path.name), implant, bone, skull.spacing_mm[::-1])


def mask_of(array: np.ndarray, name: str) -> np.ndarray:
    """(K, J, I) bool of an array with 0 and one other value; refuses others, because "not zero" would mix segments."""
    highest = array.max()
    if highest == 1 and array.dtype == np.uint8:
        return array.view(bool)  # the usual mask, in a tenth of the time
    mask = array == highest if highest else np.zeros(array.shape, bool)
    if np.count_nonzero(array) != np.count_nonzero(mask):
        raise RefusedInput("several-labels", f"{name} has more than one label.", "Export the one segment alone.")
    return mask


def refuse_another_grid(a: Volume, b: Volume, name_a: str, name_b: str) -> None:
    """Raises RefusedInput unless both volumes have one shape and all their corners within 0.01 mm."""
    apart_mm = np.inf
    if a.array.shape == b.array.shape:
        corners = np.stack(np.meshgrid(*[(0, n - 1) for n in a.array.shape]), -1).reshape(-1, 3)
        apart_mm = np.abs(lps_from_ijk(a.ijk_to_lps, corners) - lps_from_ijk(b.ijk_to_lps, corners)).max()
    if apart_mm > SAME_GRID_MM:
        message = f"{name_a} and {name_b} lie on different grids ({a}; {b})."
        raise RefusedInput("grid", message, "Resample the implant onto the skull's grid.")


def list_cases(directory: str | Path) -> list[Case]:
    """Cases of a folder in the order of cases.csv, else of their names; refuses a folder without any."""
    directory = Path(directory)
    table = directory / "cases.csv"
    if table.is_file():
        with open(table, newline="", encoding="utf-8") as file:
            cases = [Case(directory / row["file"], row["skull"], row["place"]) for row in csv.DictReader(file)]
    else:
        names = sorted(p.name for p in directory.glob("*.nrrd"))
        parts = [name.removesuffix(".nrrd").rpartition("__") for name in names]
        cases = [Case(directory / n, skull, place or "any") for n, (place, _, skull) in zip(names, parts, strict=True)]
    missing = [c.path.name for c in cases if not c.path.is_file()]
    if missing or not cases:
        what = f"no file {missing[0]}" if missing else "no case: no .nrrd file and no cases.csv"
        raise RefusedInput("no-cases", f"{directory.name} has {what}.", "A case is a label map: 1 bone, 2 implant.")
    return cases


def silent(stage: str, fraction: float, event: dict | None = None) -> None:
    """Progress that nobody watches."""


def run(
    directory: str | Path,
    out: str | Path,
    members: Sequence[int] = (1, 5),
    *,
    seed: int = 0,
    cases: int | None = None,
    device: str = "auto",
    quality: str = "best",
    baselines: bool = True,
    jobs: int = 1,
    progress: Progress = silent,
) -> str:
    """Runs the ensemble (once per number of members) and the baselines on each case; returns the table as text.

    Writes benchmark.json (settings, rows, summary), cases.csv (the rows) and table.md into `out`, anew after each case.
    A case that fails is a row with the reason and the scores of an empty implant; only cancelling stops the run.

    cases : only the first so many.
    jobs  : cases at once, each in a process of its own (a crash costs one case); 1 = one by one in this process.
    Refuses a folder without cases and wrong options.
    """
    chosen = list_cases(directory)[:cases]
    settings = Settings(tuple(members), seed, device, quality, baselines)
    for n in settings.members:
        settings.options(n)  # a wrong option is refused here, not counted as a failure of each case
    rows: list[Row] = []
    table = ""
    pool = ThreadPoolExecutor(max(jobs, 1))
    try:
        here, apart = partial(run_case, settings=settings), partial(_run_case_apart, settings=settings)
        for done, result in enumerate(map(here, chosen) if jobs == 1 else pool.map(apart, chosen), start=1):
            rows += result
            table = write_results(Path(out), {"version": __version__, **asdict(settings)}, rows)
            progress(f"{chosen[done - 1].place} {chosen[done - 1].skull}", done / len(chosen), {"rows": result})
    finally:
        pool.shutdown(cancel_futures=True)
    return table


def _run_case_apart(case: Case, settings: Settings) -> list[Row]:
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(run_case, case, settings).result()
    except BrokenProcessPool:  # killed, most likely for its memory
        return _failed_rows(case, settings, "the process ended")


def run_case(case: Case, settings: Settings) -> list[Row]:
    """All rows of one case: one per number of members and one per baseline."""
    try:
        volume, bone, truth = read_case(case.path)
    except MedShapeError as error:
        return _failed_rows(case, settings, f"{error.code}: {error}")
    skull = Skull(bone, volume.ijk_to_lps, case.skull)
    rows = []
    for n in settings.members:
        work = partial(_ensemble, skull, truth, settings.options(n))
        rows.append(_judged(case, f"ensemble n={n}", work, volume, bone, truth))
    if settings.baselines:
        found = _attempted(partial(_found_hole, skull, settings.options(1)))
        for name in BASELINES:
            rows.append(_judged(case, name, partial(_baseline, name, found, truth), volume, bone, truth))
    return rows


def read_case(path: Path) -> tuple[Volume, np.ndarray, np.ndarray]:
    """A label map with its bone and its true implant, (K, J, I) bool; refuses what has other labels or lacks one."""
    volume = read_volume(path)
    bone, truth = volume.array == BONE, volume.array == IMPLANT
    if not bone.any() or not truth.any() or np.count_nonzero(volume.array) != np.count_nonzero(bone | truth):
        message = f"{path.name} is no label map of 1 bone and 2 implant."
        raise RefusedInput("no-case", message, "Write the bone as 1, the true implant as 2, and nothing else.")
    return volume, bone, truth


@dataclass(frozen=True)
class _Attempt:
    """What came of a call that may fail, and what it took."""

    result: Any  # None after a failure
    failed: str  # the reason, "" for success
    seconds: float
    peak_mb: float | None  # of this process, since the start of the call where the system can tell


def _attempted(work: Callable[[], Any]) -> _Attempt:
    reset_peak_memory()
    start = time.perf_counter()
    result, failed = None, ""
    try:
        result = work()
    except Cancelled:
        raise
    except MedShapeError as error:
        failed = f"{error.code}: {error}"
    except Exception as error:  # a crash on one case is a finding about that case
        failed = f"{type(error).__name__}: {error}"
    return _Attempt(result, failed, round(time.perf_counter() - start, 2), peak_memory_mb())


def _judged(case: Case, method: str, work: Work, volume: Volume, bone: np.ndarray, truth: np.ndarray) -> Row:
    """The row of one method on one case, whatever comes of it."""
    attempt = _attempted(work)
    nothing: tuple[np.ndarray, Row] = np.zeros(bone.shape, bool), {}
    prediction, figures = attempt.result or nothing
    row = _named(case, method) | {"failed": attempt.failed, "seconds": attempt.seconds, "peak_mb": attempt.peak_mb}
    row |= implant_metrics(prediction, truth, bone, volume.spacing_mm[::-1]) | figures
    if not row["failed"]:
        row["failed"] = "no implant" if row["empty"] else "another hole" if figures.get("hole_found") is False else ""
    return row


def _named(case: Case, method: str) -> Row:
    return {"file": case.path.name, "skull": case.skull, "place": case.place, "method": method}


def _failed_rows(case: Case, settings: Settings, reason: str) -> list[Row]:
    """Rows of a case on which nothing could be run: the scores of an empty implant."""
    worst: Row = {"dsc": 0.0, "bdsc": 0.0, "hd95_mm": None, "empty": True}
    try:
        volume, bone, truth = read_case(case.path)
        worst |= implant_metrics(np.zeros(bone.shape, bool), truth, bone, volume.spacing_mm[::-1])
    except MedShapeError:
        pass  # the file is no case: there is no truth to measure a distance from
    methods = [f"ensemble n={n}" for n in settings.members] + (list(BASELINES) if settings.baselines else [])
    return [_named(case, method) | {"failed": reason} | worst for method in methods]


def _ensemble(skull: Skull, truth: np.ndarray, options: ImplantOptions) -> tuple[np.ndarray, Row]:
    from .pipeline import generate_implants

    start = time.perf_counter()
    ensemble = generate_implants(skull, options, silent)
    seconds, peak_mb = time.perf_counter() - start, peak_memory_mb()  # before the judging
    figures: Row = {"seconds": round(seconds, 2), "peak_mb": peak_mb, "weights": str(ensemble.report.get("weights"))}
    return placed(ensemble.mean, ensemble.box, truth.shape), figures | ensemble_figures(ensemble, truth)


def _found_hole(skull: Skull, options: ImplantOptions) -> HoleCase:
    from .pipeline import describe_hole

    return describe_hole(skull, options)


def _baseline(name: str, found: _Attempt, truth: np.ndarray) -> tuple[np.ndarray, Row]:
    if found.failed:
        raise FailedResult("no-hole-case", found.failed)
    hole: HoleCase = found.result
    start = time.perf_counter()
    implant = placed(BASELINES[name](hole), hole.box, truth.shape)
    seconds = time.perf_counter() - start
    share = int((truth[hole.box] & hole.region).sum()) / int(truth.sum())
    return implant, {"seconds": round(seconds, 2), "region_share": share}


def ensemble_figures(ensemble: ImplantEnsemble, truth: np.ndarray) -> Row:
    """What an ensemble says beyond its mean implant, against the truth (K, J, I) bool on the skull's grid.

    hole_found, hole_iou     : whether the truth's centroid lies in the box around the mean implant, and the common
                               share of that box and the truth's.
    member_dsc, pairwise_dsc : mean over members to truth, and over pairs of members; an honest ensemble has both alike.
    spread_rank, spread_mm, error_mm : see SpreadError. These and the pairs are None for a single member.
    """
    count = len(ensemble.implants)
    inside, whole = truth[ensemble.box], int(truth.sum())
    to_truth = [2 * int((m & inside).sum()) / (int(m.sum()) + whole) for m in ensemble.implants]
    pairs = pairwise_dice(ensemble.implants)[np.triu_indices(count, 1)]
    figures = _boxes(truth, placed(ensemble.mean, ensemble.box, truth.shape))
    figures |= {"member_dsc": float(np.mean(to_truth)), "pairwise_dsc": float(pairs.mean()) if count > 1 else None}
    if count > 1:
        skull = ensemble.skull
        spread = spread_error_correlation(ensemble.spread, truth, skull.mask, skull.ijk_to_lps)
        figures |= {"spread_rank": spread.rank_correlation, "spread_mm": spread.spread_mm, "error_mm": spread.error_mm}
    return figures


def _boxes(truth: np.ndarray, mean: np.ndarray) -> Row:
    a, b = box_of(truth), box_of(mean)
    if a is None or b is None:
        return {"hole_found": False, "hole_iou": 0.0}
    centroid = np.argwhere(truth[a]).mean(0) + [s.start for s in a]
    found = all(s.start <= c < s.stop for s, c in zip(b, centroid, strict=True))
    common, volumes = 1, [1, 1]
    for p, q in zip(a, b, strict=True):
        common *= max(min(p.stop, q.stop) - max(p.start, q.start), 0)
        volumes = [volumes[0] * (p.stop - p.start), volumes[1] * (q.stop - q.start)]
    return {"hole_found": found, "hole_iou": common / (sum(volumes) - common)}


def reset_peak_memory() -> None:
    """Forgets the process's peak of resident memory where the system allows it (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_mb() -> float | None:
    """Peak of this process's resident memory in MB, since `reset_peak_memory` where that works; None on Windows."""
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        if found := re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE):
            return round(int(found.group(1)) * 1024 / 1e6, 1)
    if importlib.util.find_spec("resource") is None:
        return None
    import resource

    unit = 1 if platform.system() == "Darwin" else 1024  # bytes there, kB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
