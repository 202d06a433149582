"""The command `medshapegen`: arguments, progress, messages and exit codes over the calls of the library.

Exit codes: 0 success, 1 crash (our fault), 2 refused input or wrong usage, 3 a result that fails its checks or does
not exist, 4 cancelled. Names, options and exit codes are a contract: other programs call this.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from MedShapeCore.delivery import delivered_whole
from MedShapeCore.notices import Notice
from MedShapeCore.terminal import NOTICE, Command, add_device, build_parser, progress_bar, run_command, say, tell

from .options import TABLES, CompleteOptions, GenerateOptions, InterpolateOptions, ReconstructOptions, RunOptions, SampleOptions

SHAPE_FILES = "mesh: .stl .ply .obj .vtp; or mask: .nrrd .nii .nii.gz .seg.nrrd"
SHOWN_FIGURES = (  # of `reconstruct` and `evaluate`: name in the report, words, format
    ("mean_mm", "mean distance between the surfaces", "{:.3f} mm"),
    ("mean_percent", "  of the longest side", "{:.2f} %"),
    ("p95_mm", "95 % of both surfaces within", "{:.3f} mm"),
    ("hausdorff_mm", "largest distance", "{:.2f} mm"),
    ("surface_dice_1pct", "surface Dice at 1 % of the longest side", "{:.4f}"),
    ("normal_consistency", "mean cosine between the normals", "{:.4f}"),
    ("volume_ml", "volume", "{:.2f} ml"),
    ("volume_error_percent", "  against the truth", "{:+.2f} %"),
    ("cd_x100", "chamfer distance x 100, in halves of the longest side", "{:.3f}"),
    ("cd_x100_floor", "  of two samplings of the truth", "{:.3f}"),
    ("f1_percent", "F1 at 0.06", "{:.2f} %"),
)


# ---- one function for the arguments and one for the work of each subcommand


def list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sources", action="store_true", help="the data sources too")


def list_categories(args: argparse.Namespace) -> int:
    from .categories import CATEGORIES, SOURCES

    print(f"{'category':24s} {'longest side':>13s} {'training shapes':>16s}  {'licence of the data':28s} remarks")
    for kind in CATEGORIES:
        low, high = kind.longest_mm
        remarks = ["few training shapes"] * kind.few + ["synthetic, not patients"] * kind.synthetic
        remarks += ["left, or right by --side"] * kind.paired
        size = f"{low:.0f} to {high:.0f} mm"
        print(f"{kind.name:24s} {size:>13s} {kind.training_shapes:16d}  {kind.licence:28s} {'; '.join(remarks)}".rstrip())
    if args.sources:
        print()
        for key in sorted({key for kind in CATEGORIES for key in kind.sources}):
            source = SOURCES[key]
            print(f"{key}: {source.title}; {source.licence}; {source.address}")
    print(f"The weights, and shapes made with them, are under CC BY-NC-SA 4.0. {NOTICE}")
    return 0


def generate_arguments(parser: argparse.ArgumentParser) -> None:
    add_sampling(parser, 8)
    add_run(parser)


def generate(args: argparse.Namespace) -> int:
    options = GenerateOptions(**sampling(args), **run_fields(args))
    return run("generate", [], args, options, rf"{re.escape(options.category)}_\d+\.(stl|vtp)")


def reconstruct_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="INPUT", type=Path, help=f"one closed shape; {SHAPE_FILES}")
    add_segment(parser)
    add_run(parser)


def reconstruct(args: argparse.Namespace) -> int:
    return run("reconstruct", [args.input], args, ReconstructOptions(**run_fields(args)))


def interpolate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="A", type=Path, help=f"one closed shape; {SHAPE_FILES}")
    parser.add_argument("second", metavar="B", type=Path, help="the same, where the way ends")
    parser.add_argument("--steps", metavar="N", type=int, default=7, help="shapes, A and B included (default: %(default)s)")
    add_segment(parser)
    add_run(parser)


def interpolate(args: argparse.Namespace) -> int:
    options = InterpolateOptions(steps=args.steps, **run_fields(args))
    return run("interpolate", [args.first, args.second], args, options, r"step_\d+\.stl")


def complete_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "partial", metavar="PARTIAL", type=Path,
        help=f"piece of a surface, open or closed, in its place and not turned against the scanner's axes; {SHAPE_FILES}",
    )  # fmt: skip
    add_segment(parser)
    add_sampling(parser, 5)
    add_run(parser)


def complete(args: argparse.Namespace) -> int:
    options = CompleteOptions(**sampling(args), **run_fields(args))
    return run("complete", [args.partial], args, options, r"completion_\d+\.(stl|vtp)")


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prediction", metavar="PREDICTION", type=Path, help=f"the shape to judge; {SHAPE_FILES}")
    parser.add_argument("truth", metavar="TRUTH", type=Path, help="the true shape, in the same place")
    parser.add_argument("--seed", type=int, default=0, help="of the points that are compared (default: %(default)s)")


def evaluate(args: argparse.Namespace) -> int:
    from .shape_metrics import reconstruction_figures
    from .shapes import read_shape

    truth = read_shape(args.truth)
    show_figures(reconstruction_figures(truth, read_shape(args.prediction), args.seed))
    return 0


def benchmark_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pack", metavar="PACK", type=Path, help="folder made by the command prepare")
    parser.add_argument("-o", "--out", metavar="DIR", type=Path, required=True, help="folder for the tables")
    parser.add_argument("--category", metavar="C", nargs="+", help="only these (default: all in the pack)")
    parser.add_argument("--split", choices=("train", "val", "test"), default="val", help="of the reconstruction (default: val)")
    parser.add_argument("--table", choices=TABLES, nargs="+", default=list(TABLES), help="only these (default: both)")
    parser.add_argument("--shapes", metavar="N", type=int, help="of a category, in the reconstruction (default: all of the split)")
    parser.add_argument("--no-baseline", action="store_true", help="leave the linear model out, which takes a third of the time")
    parser.add_argument("--weights", metavar="DIR", type=Path, help="a folder that the stage export wrote (default: the bundled one)")
    parser.add_argument("--seed", type=int, default=0)
    add_device(parser)


def benchmark(args: argparse.Namespace) -> int:
    from .benchmark import run as run_benchmark
    from .benchmark_shapes import BenchmarkOptions
    from .models import WEIGHTS

    options = BenchmarkOptions(
        categories=None if args.category is None else tuple(args.category), split=args.split,
        tables=tuple(args.table), shapes=args.shapes, baseline=not args.no_baseline, seed=args.seed,
        device=args.device,
    )  # fmt: skip
    with progress_bar(sys.stderr) as bar:
        table = run_benchmark(args.pack, args.out, options=options, progress=bar, weights=args.weights or WEIGHTS)
    print(table)
    return 0


def train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "stage", metavar="STAGE",
        help="skeletons, autoencoder, level, ordered, latents, diffusion, features or export; in this order",
    )  # fmt: skip
    parser.add_argument("--data", metavar="PACK", type=Path, help="folder made by the command prepare")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder of checkpoints, old and new")
    parser.add_argument(
        "--category", metavar="C", nargs="+",
        help="train on these alone, also on ones that are only for measurements (default: those of the bundled model)",
    )  # fmt: skip
    parser.add_argument(
        "--start", metavar="DIR", type=Path, help="weights to go on from where there is no checkpoint; `bundled` for the bundled ones"
    )
    parser.add_argument("--weights", metavar="DIR", type=Path, help="for export: the folder to write (default: the bundled one)")
    parser.add_argument("--minutes", metavar="M", type=float, default=30.0, help="wall-clock (default: %(default)s)")
    parser.add_argument(
        "--sources", metavar="KEY", nargs="+", help="train on these data sources alone; `medshapegen list --sources` has them"
    )
    parser.add_argument("--threads", metavar="N", type=int, help="processor cores to use (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    add_device(parser)


def train(args: argparse.Namespace) -> int:
    from .categories import SOURCES, checked_sources
    from .models import WEIGHTS
    from .training.train import train as run_training

    start = WEIGHTS if args.start == Path("bundled") else args.start
    chosen = SOURCES if args.sources is None else checked_sources(tuple(args.sources))
    written = run_training(
        args.stage, args.data, args.out, args.minutes, device=args.device, seed=args.seed,
        without_sources=frozenset(SOURCES) - frozenset(chosen), threads=args.threads, progress=say,
        names=None if args.category is None else tuple(args.category), start=start, weights=args.weights,
    )  # fmt: skip
    print(f"The result is {written}.")
    return 0


def prepare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", type=Path,
        help="folder with a folder of meshes or masks per category (kidney/, ...), or the project's data/anatomy",
    )  # fmt: skip
    parser.add_argument("-o", "--out", metavar="PACK", type=Path, required=True, help="folder to write")
    parser.add_argument("--category", metavar="C", nargs="+", default=[], help="only these (default: all)")
    parser.add_argument("--skulls", metavar="DIR", type=Path, help="the SkullFix skulls, for the category calvaria")
    parser.add_argument("--measure", action="store_true", help="the categories that are not bundled too, for measurements")
    parser.add_argument("--processes", metavar="N", type=int, help="default: one per processor core")
    parser.add_argument("--seed", type=int, default=0)


def prepare(args: argparse.Namespace) -> int:
    from .training.prepare import prepare as run_preparation

    pack = run_preparation(
        args.source, args.out, args.skulls, args.measure, tuple(args.category),
        processes=args.processes, seed=args.seed, progress=say,
    )  # fmt: skip
    print(f"The pack is {pack}.")
    return 0


COMMANDS: tuple[Command, ...] = (
    ("list", "the categories, with sizes, training data and licences", list_arguments, list_categories),
    ("generate", "new shapes of one category, in mm", generate_arguments, generate),
    ("reconstruct", "a given shape through the model, with its skeleton and the error in mm", reconstruct_arguments, reconstruct),
    ("interpolate", "shapes between two given shapes", interpolate_arguments, interpolate),
    ("complete", "whole shapes that agree with a piece of a surface", complete_arguments, complete),
    ("evaluate", "figures of one shape against the truth, in mm", evaluate_arguments, evaluate),
    ("benchmark", "figures over the test shapes of a pack, beside the baselines", benchmark_arguments, benchmark),
    ("train", "train one stage of the model, or go on with it", train_arguments, train),
    ("prepare", "make the pack that training reads", prepare_arguments, prepare),
)


# ---- what they share


def add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="folder for the results")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same shapes (default: %(default)s)")
    parser.add_argument(
        "--resolution", metavar="N", type=int, default=128, help="cells of the decoding grid (default: %(default)s)"
    )
    add_device(parser)


def add_sampling(parser: argparse.ArgumentParser, count: int) -> None:
    parser.add_argument("--category", metavar="C", required=True, help="see `medshapegen list`")
    parser.add_argument("--count", metavar="N", type=int, default=count, help="how many shapes (default: %(default)s)")
    parser.add_argument("--side", choices=("left", "right"), default="left", help="of a paired organ (default: %(default)s)")
    parser.add_argument(
        "--guidance", metavar="W", type=float, default=SampleOptions.guidance,
        help="how much more strongly than learned the category pulls; less variety (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--steps", metavar="N", type=int, default=SampleOptions.steps, help="of the sampler (default: %(default)s)"
    )


def add_segment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--segment", metavar="NAME", help="which segment of a .seg.nrrd")


def run_fields(args: argparse.Namespace) -> dict:
    return {"seed": args.seed, "resolution": args.resolution, "device": args.device}


def sampling(args: argparse.Namespace) -> dict:
    return {
        "category": args.category, "count": args.count, "side": args.side, "guidance": args.guidance, "steps": args.steps,
    }  # fmt: skip


def run(task: str, inputs: Sequence[Path], args: argparse.Namespace, options: RunOptions, stale: str = "") -> int:
    """One task into args.output, which gets all files or none; files of an earlier run that match `stale` go."""
    from .worker import run_files

    with progress_bar(sys.stderr) as bar, delivered_whole(args.output, stale=stale) as folder:
        report = run_files(task, inputs, folder, options, bar, getattr(args, "segment", None))
    return summary(report, args.output)


def summary(report: dict, directory: Path) -> int:
    """Says what was made and where; returns the exit code."""
    for warning in report["warnings"]:
        tell("warning", Notice(**warning))
    print(f"{'shape':30s} {'longest side':>12s} {'volume':>10s}  checks")
    for shape in report["shapes"]:
        print(row(shape))
    show_figures(report.get("figures", {}))
    print(f"Results are in {directory}; the picture to open is {directory / 'overview.png'}. {NOTICE}")
    failed = [shape["file"] for shape in report["shapes"] if not shape["passed"]]
    if not failed:
        return 0
    print(
        f"error: {', '.join(failed)} of {len(report['shapes'])} fail their checks. [checks]\n"
        "hint: The files were written all the same; look at overview.png and report.json before using any of them.",
        file=sys.stderr,
    )
    return 3


def row(shape: dict) -> str:
    """One shape in words."""
    checks = "passed" if shape["passed"] else "failed: " + ", ".join(shape["failed"])
    if "given_median_mm" in shape:
        checks += f"; given surface within {shape['given_median_mm']:.2f} mm (median)"
    if shape.get("differs_mm") is not None:
        checks += f", elsewhere {shape['differs_mm']:.1f} mm from the others"
    return f"{shape['file']:30s} {shape['longest_mm']:9.1f} mm {shape['volume_ml']:7.1f} ml  {checks}"


def show_figures(figures: dict) -> None:
    """The figures a person asks for first, a line each; nothing for none."""
    for name, words, form in SHOWN_FIGURES:
        if figures.get(name) is not None:
            print(f"{words:56s} {form.format(figures[name])}")


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code. Wrong usage and --help leave by SystemExit, as argparse does."""
    parser = build_parser("medshapegen", "Anatomical shapes in millimetres.", COMMANDS)
    return run_command(parser.parse_args(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
