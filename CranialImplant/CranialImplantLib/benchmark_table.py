"""From the rows of a benchmark to its files: summary with intervals, table for people, CSV and JSON.

A row is a flat dict: file, skull, place, method, failed ("" or the reason), the figures of `implant_metrics`, and for
ensembles those of `benchmark.ensemble_figures`. Failures stay in every mean, with the scores of an empty implant.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]

SCORES = {"dsc": ("DSC", 3), "bdsc": ("bDSC", 3), "hd95_mm": ("HD95 mm", 2)}  # heading and decimals
LOWER_IS_BETTER = ("hd95_mm",)
EVERYWHERE = "all"  # the group of all places
RESAMPLES = 2000  # of the bootstrap: its 95 % interval then moves by less than the third decimal
WORST = 5


def write_results(out: Path, settings: dict[str, Any], rows: Sequence[Row]) -> str:
    """Writes benchmark.json, cases.csv and table.md into the folder `out` (made if needed); returns the table."""
    out.mkdir(parents=True, exist_ok=True)
    summary = summarized(rows)
    table = table_text(summary, rows)
    (out / "table.md").write_text(table + "\n", encoding="utf-8")
    content = {"settings": settings, "summary": summary, "rows": list(rows)}
    (out / "benchmark.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with open(out / "cases.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return table


def groups(rows: Sequence[Row]) -> list[tuple[str, str, list[Row]]]:
    """(place, method, rows) in the order in which places and methods appear; at the end all places together."""
    places, methods = (list(dict.fromkeys(row[name] for row in rows)) for name in ("place", "method"))
    found = []
    for place in [*places, EVERYWHERE] if len(places) > 1 else places:
        for method in methods:
            some = [r for r in rows if r["method"] == method and place in (r["place"], EVERYWHERE)]
            if some:
                found.append((place, method, some))
    return found


def summarized(rows: Sequence[Row]) -> list[Row]:
    """One entry per place and method: cases, failures and, for each score, the figures of `described`."""
    summary = []
    for place, method, some in groups(rows):
        entry: Row = {"place": place, "method": method, "cases": len(some)}
        entry["failures"] = [f"{r['file']}: {r['failed']}" for r in some if r["failed"]]
        summary.append(entry | {name: described(name, some) for name in SCORES})
    return summary


def described(name: str, rows: Sequence[Row]) -> Row | None:
    """Mean, sd, median, min, max, the worst five cases, and a 95 % bootstrap interval of the mean over skulls.

    The skull is what is drawn: several holes of one skull are not independent. None where no row has the score.
    """
    known = [r for r in rows if r.get(name) is not None]
    if not known:
        return None
    values = np.array([r[name] for r in known], float)
    order = np.argsort(-values if name in LOWER_IS_BETTER else values, kind="stable")[:WORST]
    by_skull: dict[str, list[float]] = {}
    for row in known:
        by_skull.setdefault(row["skull"], []).append(row[name])
    sums = np.array([[sum(v), len(v)] for v in by_skull.values()])
    drawn = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    total, count = np.moveaxis(sums[drawn].sum(1), -1, 0)  # (RESAMPLES,)
    low, high = np.percentile(total / count, [2.5, 97.5])
    return {
        "mean": float(values.mean()), "sd": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "median": float(np.median(values)), "min": float(values.min()), "max": float(values.max()),
        "mean_low95": float(low), "mean_high95": float(high), "worst": [known[i]["file"] for i in order],
    }  # fmt: skip


def table_text(summary: Sequence[Row], rows: Sequence[Row]) -> str:
    """The scores per place and method as a Markdown table, then what the ensembles say about themselves."""
    lines = [["place", "method", "cases", "failures", *(f"{title}: mean (min to max)" for title, _ in SCORES.values())]]
    for entry in summary:
        line = [entry["place"], entry["method"], str(entry["cases"]), str(len(entry["failures"]))]
        for name, (_, digits) in SCORES.items():
            score = entry[name]
            spelled = [] if score is None else [f"{score[key]:.{digits}f}" for key in ("mean", "min", "max")]
            line.append(f"{spelled[0]} ({spelled[1]} to {spelled[2]})" if spelled else "unknown")
        lines.append(line)
    return aligned(lines) + _ensembles_text(rows) + _failures_text(rows)


def _ensembles_text(rows: Sequence[Row]) -> str:
    lines = [["place", "method", "hole found", "members to truth", "members to each other", "largest difference",
              "spread and error: rank correlation", "s: mean (max)", "peak MB"]]  # fmt: skip
    for place, method, some in groups([r for r in rows if str(r["method"]).startswith("ensemble")]):
        found = sum(r.get("hole_found") is True for r in some)
        apart = [abs(r["member_dsc"] - r["pairwise_dsc"]) for r in some if r.get("pairwise_dsc") is not None]
        seconds, peak = (_values(some, name) for name in ("seconds", "peak_mb"))
        lines.append([
            place, method, f"{found} of {len(some)}", _mean(_values(some, "member_dsc")),
            _mean(_values(some, "pairwise_dsc")), f"{max(apart):.3f}" if apart else "-",
            _mean(_values(some, "spread_rank")), f"{np.mean(seconds):.1f} ({max(seconds):.1f})" if seconds else "-",
            f"{max(peak):.0f}" if peak else "-",
        ])  # fmt: skip
    return "\n\n" + aligned(lines) if len(lines) > 1 else ""


def _failures_text(rows: Sequence[Row]) -> str:
    failed = [f"- {r['file']}, {r['method']}: {r['failed']}" for r in rows if r["failed"]]
    return "\n\nFailures:\n" + "\n".join(failed) if failed else "\n\nNo failures."


def _values(rows: Sequence[Row], name: str) -> list[float]:
    return [r[name] for r in rows if r.get(name) is not None]


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f}" if values else "-"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table of equally wide columns; the first line is its head."""
    widths = [max(len(line[c]) for line in lines) for c in range(len(lines[0]))]
    spelled = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([spelled[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *spelled[1:]])
