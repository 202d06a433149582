"""From the rows of a benchmark to tables for people, in Markdown: per category, then all categories alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .set_metrics import Agreement, agreement, frechet_distance, kernel_distance

Row = dict[str, Any]

# The bars of the project: figure of the summary, words, limit, whether it must stay below.
RECONSTRUCTION_BARS = (
    ("mean_percent", "mean distance, % of the longest side", 0.5, True),
    ("cd_over_floor", "CD over its floor", 1.15, True),
    ("f1_percent", "F1 at 0.06, %", 99.0, False),
    ("surface_dice_1pct", "surface Dice at 1 % of the longest side", 0.95, False),
)
NONE = "-"


def tables_text(rows: dict[str, list[Row]], settings: Row) -> str:
    """All tables, each with what its columns mean."""
    parts = [f"Weights {settings['weights']}, device {settings['device']}, seed {settings['seed']}."]
    if rows.get("reconstruction"):
        parts += [reconstruction_text(rows["reconstruction"], settings["split"])]
    if rows.get("generation"):
        parts += [generation_text(rows["generation"], settings["draws"], settings["seed"])]
    return "\n\n".join(parts)


# ---- reconstruction


def summarized(rows: Sequence[Row]) -> list[Row]:
    """Means per category in the order in which they appear; failed shapes are counted and enter no mean."""
    summary = []
    for name in dict.fromkeys(row["category"] for row in rows):
        some = [r for r in rows if r["category"] == name]
        whole = [r for r in some if not r["failed"]]
        entry: Row = {"category": name, "shapes": len(some), "failed": len(some) - len(whole)}
        keys = dict.fromkeys(key for r in whole for key, value in r.items() if not isinstance(value, str))
        entry |= {key: mean_of([r[key] for r in whole if key in r]) for key in keys}
        entry["cd_over_floor"] = entry.get("cd_x100", np.nan) / entry.get("cd_x100_floor", np.nan)
        entry["pca_cd_over_floor"] = entry.get("pca_cd_x100", np.nan) / entry.get("cd_x100_floor", np.nan)
        entry["one_body"] = mean_of([r["components"] == r["true_components"] for r in whole])
        entry["same_ends"] = mean_of([r["ends"] == r["true_ends"] for r in whole if "ends" in r])
        entry["same_genus"] = mean_of([r["genus"] == r["true_genus"] for r in whole])
        summary.append(entry)
    return summary


def over_categories(summary: Sequence[Row]) -> Row:
    """The mean of the categories' means: a category with few shapes counts as much as one with many."""
    keys = dict.fromkeys(key for entry in summary for key, value in entry.items() if not isinstance(value, str))
    means = {key: mean_of([entry[key] for entry in summary if key in entry]) for key in keys}
    counts = {key: sum(int(entry[key]) for entry in summary) for key in ("shapes", "failed")}
    return {"category": "mean of categories", **means, **counts}


def mean_of(values: Sequence[Any]) -> float:
    """Of the finite values; NaN without any."""
    finite = [float(v) for v in values if np.isfinite(v)]
    return float(np.mean(finite)) if finite else float("nan")


def reconstruction_text(rows: Sequence[Row], split: str) -> str:
    summary = summarized(rows)
    everything = over_categories(summary)
    columns = [
        ("category", "category", None), ("n", "shapes", 0), ("mean mm", "mean_mm", 3), ("% of side", "mean_percent", 3),
        ("p95 mm", "p95_mm", 2), ("HD mm", "hausdorff_mm", 2), ("surface Dice", "surface_dice_1pct", 4), ("cos", "normal_consistency", 3),
        ("CD", "cd_x100", 3), ("floor", "cd_x100_floor", 3), ("ratio", "cd_over_floor", 3), ("EMD", "emd_x10", 3),
        ("floor", "emd_x10_floor", 3), ("F1 %", "f1_percent", 2), ("volume %", "volume_error_percent", 2), ("closed", "watertight", 2),
        ("bodies", "one_body", 2), ("genus", "same_genus", 2), ("ends", "same_ends", 2), ("asked %", "asked_percent", 1),
        ("s", "decode_s", 1), ("PCA mean mm", "pca_mean_mm", 3), ("PCA %", "pca_mean_percent", 3), ("PCA Dice", "pca_surface_dice_1pct", 3),
        ("PCA ratio", "pca_cd_over_floor", 2), ("failed", "failed", 0),
    ]  # fmt: skip
    shown = [entry | {"asked_percent": 100 * entry.get("asked", np.nan)} for entry in [*summary, everything]]
    text = [
        f"## Reconstruction, split {split}", "",
        "Distances both ways between the surfaces. CD x 100, EMD x 10 and F1 in halves of the longest side, each beside the floor: "
        "two samplings of the true surface. Bodies, genus, ends (of tubes): share of the shapes that keep the true number.", "",
        markdown(columns, shown), "", *bars_text(everything),
    ]  # fmt: skip
    failures = [f"{r['category']} {r['shape']}: {r['failed']}" for r in rows if r["failed"]]
    return "\n".join(text + (["", "Failed: " + "; ".join(failures)] if failures else []))


def bars_text(everything: Row) -> list[str]:
    """One line per bar: the figure, the limit, and whether it is met."""
    lines = []
    for key, words, limit, below in RECONSTRUCTION_BARS:
        value = everything.get(key, float("nan"))
        met = value <= limit if below else value >= limit
        lines.append(f"- {words}: {value:.4g} ({'at most' if below else 'at least'} {limit:g}: {'met' if met else 'NOT met'})")
    return lines


# ---- generation


def generation_text(rows: Sequence[Row], draws: int, seed: int) -> str:
    shown = [generation_entry(row, draws, seed) for row in rows]
    columns = [
        ("category", "category", None), ("real", "real", 0), ("made", "made", 0), ("1-NNA %", "nna", 1), ("chance", "nna_chance", 1),
        ("COV %", "coverage", 1), ("MMD x100", "mmd", 2), ("PCA 1-NNA %", "pca_nna", 1), ("PCA COV %", "pca_coverage", 1),
        ("PCA MMD", "pca_mmd", 2), ("to training", "training_generated", 2), ("unseen real", "training_unseen", 2),
        ("floor", "training_floor", 2), ("copies %", "copies", 0), ("closed %", "watertight", 0), ("bodies %", "one_body", 0),
        ("size %", "size_in_range", 0), ("longest mm", "longest", None), ("real", "real_longest", None), ("ml", "volume", None),
        ("real", "real_volume", None), ("named %", "made_named", 0), ("real %", "real_named", 0), ("s each", "seconds_each", 2),
    ]  # fmt: skip
    lines = [
        "## Generation, validation and test shapes", "",
        "Chamfer distances x 100 within a category, each shape scaled to its own box; equal numbers, repeated draws. "
        "To training: median distance to the nearest training shape, beside that of unseen real shapes and of two samplings of one "
        "shape. Sizes: median (10 to 90 %). Named: share that the feature network takes for the category.", "",
        markdown(columns, shown), "",
    ]  # fmt: skip
    lines += [pooled_line("All categories together", pooled(rows, "distances", draws, seed))]
    if any("pca_distances" in row for row in rows):
        lines += [pooled_line("PCA on the same draws", pooled(rows, "pca_distances", draws, seed))]
    lines += feature_lines(rows)
    for key, words in (("watertight", "closed"), ("one_body", "with the anatomy's number of bodies"), ("size_in_range", "in range")):
        share = np.average([row[key] for row in rows], weights=[max(row["made"], 1e-9) for row in rows])
        lines.append(f"- {words}: {100 * share:.1f} % of {sum(row['made'] for row in rows)} generated shapes")
    return "\n".join(lines)


def pooled(rows: Sequence[Row], key: str, draws: int, seed: int) -> Agreement:
    return agreement([(np.asarray(row[key]), row["real"]) for row in rows if key in row], draws, seed)


def pooled_line(name: str, a: Agreement) -> str:
    return (
        f"- {name}: 1-NNA-CD {100 * a.nna:.1f} % (95 % interval {100 * a.nna_low:.1f} to {100 * a.nna_high:.1f}; chance "
        f"{100 * a.nna_chance:.1f}), COV {100 * a.coverage:.1f} % ({100 * a.coverage_low:.1f} to {100 * a.coverage_high:.1f}; "
        f"equal distributions about {100 * a.coverage_real:.0f}), MMD-CD x100 {100 * a.mmd:.2f}; {a.shapes} of each kind, "
        f"{a.draws} draws"
    )


def feature_lines(rows: Sequence[Row]) -> list[str]:
    """FID and KID over all categories; nothing without features."""
    known = [row for row in rows if "real_features" in row]
    if not known:
        return []
    real, made = (np.concatenate([np.asarray(row[f"{name}_features"]) for row in known]) for name in ("real", "made"))
    return [
        f"- features of our own network (not the paper's, not comparable): FID {frechet_distance(real, made):.2f}, "
        f"KID {kernel_distance(real, made):.4f}; {len(real)} real, {len(made)} generated shapes"
    ]


def generation_entry(row: Row, draws: int, seed: int) -> Row:
    """What is shown of one category."""
    entry: Row = {key: row[key] for key in ("category", "real", "made")}
    for prefix, key in (("", "distances"), ("pca_", "pca_distances")):
        if key in row:
            a = pooled([row], key, draws, seed)
            entry |= {f"{prefix}nna": 100 * a.nna, f"{prefix}coverage": 100 * a.coverage, f"{prefix}mmd": 100 * a.mmd}
            entry["nna_chance"] = 100 * a.nna_chance
    for key in ("training_generated", "training_unseen", "training_floor"):
        entry[key] = 100 * row.get(key, np.nan)
    entry["copies"] = 100 * row.get("training_copies", np.nan)
    for key in ("watertight", "one_body", "size_in_range", "made_named", "real_named"):
        entry[key] = 100 * row.get(key, np.nan)
    entry |= {"longest": spread_text(row["longest_mm"]), "real_longest": spread_text(row["real_longest_mm"])}
    entry |= {"volume": spread_text(row["volume_ml"]), "real_volume": spread_text(row["real_volume_ml"])}
    entry["seconds_each"] = row["seconds"] / max(row["made"], 1)
    return entry


def spread_text(values: Sequence[float]) -> str:
    """Median (10th to 90th percentile)."""
    if len(values) == 0:
        return NONE
    low, middle, high = np.percentile(values, [10, 50, 90])
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


def markdown(columns: Sequence[tuple[str, str, int | None]], entries: Sequence[Row]) -> str:
    """A table; decimals None = text. Missing figures and NaN are a dash."""
    lines = ["| " + " | ".join(name for name, _, _ in columns) + " |", "|" + "---|" * len(columns)]
    for entry in entries:
        cells = []
        for _, key, decimals in columns:
            value = entry.get(key, float("nan"))
            if isinstance(value, str) or decimals is None:
                cells.append(str(value))
            else:
                cells.append(f"{value:.{decimals}f}" if np.isfinite(value) else NONE)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
