"""The command `cranial-implant`: arguments, progress, messages and exit codes over the calls of the library.

Exit codes: 0 success, 1 crash (our fault), 2 refused input or wrong usage, 3 a result that fails its checks or does
not exist, 4 cancelled. Names, options and exit codes are a contract: other programs call this.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from MedShapeCore.delivery import delivered_whole
from MedShapeCore.errors import OptionError
from MedShapeCore.jobs import plain
from MedShapeCore.terminal import NOTICE, add_device, build_parser, progress_bar, run_command, say, tell

if TYPE_CHECKING:
    from .ensemble import ImplantEnsemble, MemberReport

NUMBER_LISTS = ("--point", "--roi")
EARLIER_MEMBERS = r"implant_\d+\.(nrrd|stl)"  # of a run with more members, into the same folder


# ---- one function for the arguments and one for the work of each subcommand


def generate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="INPUT", type=Path, help="skull: .nrrd, .nii, .nii.gz, .seg.nrrd, or a CT")
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="folder for the results")
    parser.add_argument("--segment", metavar="NAME", help="which segment of a .seg.nrrd is the bone")
    parser.add_argument("--bone-threshold", metavar="HU", type=float, help="INPUT is a CT; bone is at or above this")
    parser.add_argument("--members", metavar="N", type=int, default=5, help="how many implants (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same implants (default: %(default)s)")
    add_device(parser)
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--point", metavar="X,Y,Z", type=numbers(3), help="a point in the hole, LPS mm")
    place.add_argument(
        "--roi", metavar="X0,Y0,Z0,X1,Y1,Z1", type=numbers(6), help="a box around the hole, LPS mm, low corner first"
    )
    parser.add_argument("--hole", metavar="K", type=int, help="which of several holes, 1 is the largest")
    parser.add_argument("--steps", metavar="N", type=int, help="evaluations of the point network (default: by quality)")
    add_quality(parser)


def generate(args: argparse.Namespace) -> int:
    from .options import ImplantOptions
    from .worker import generate_files

    options = ImplantOptions(
        members=args.members, seed=args.seed, device=args.device, quality=args.quality, steps=args.steps,
        point_lps=args.point, roi_lps=args.roi, hole=args.hole,
    )  # fmt: skip
    with progress_bar(sys.stderr) as bar, delivered_whole(args.output, stale=EARLIER_MEMBERS) as folder:
        ensemble = generate_files(args.input, folder, options, bar, args.segment, args.bone_threshold)
    return summary(ensemble, args.output)


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--skull", metavar="FILE", type=Path, required=True, help="the skull with the hole")
    parser.add_argument("--truth", metavar="FILE", type=Path, required=True, help="the true implant")
    parser.add_argument("--prediction", metavar="FILE", type=Path, required=True, help="the implant to judge")


def evaluate(args: argparse.Namespace) -> int:
    from .benchmark import evaluate_files

    print(json.dumps(plain(evaluate_files(args.skull, args.truth, args.prediction)), indent=2, allow_nan=False))
    return 0


def benchmark_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="folder of cases")
    parser.add_argument("-o", "--out", metavar="DIR", type=Path, required=True, help="folder for the tables")
    parser.add_argument(
        "--members", metavar="N", type=int, nargs="+", default=[1, 5], help="ensemble sizes (default: 1 5)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", metavar="N", type=int, help="only the first N cases")
    add_device(parser)
    add_quality(parser)


def benchmark(args: argparse.Namespace) -> int:
    from .benchmark import run

    with progress_bar(sys.stderr) as bar:
        table = run(
            args.directory, args.out, args.members,
            seed=args.seed, cases=args.cases, device=args.device, quality=args.quality, progress=bar,
        )  # fmt: skip
    print(table)
    return 0


def train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "stage", metavar="STAGE",
        help="kernel, dome, cases, a network, or export; in this order. An unknown name lists them",
    )  # fmt: skip
    parser.add_argument("--data", metavar="PACK", type=Path, help="made by the command pack; for kernel, dome, cases and look")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder of checkpoints, old and new")
    parser.add_argument("--minutes", metavar="M", type=float, default=60.0, help="wall-clock (default: %(default)s)")
    parser.add_argument("--weights", metavar="DIR", type=Path, help="for export: the folder to write")
    parser.add_argument("--with-development", action="store_true", help="the development skulls too: for final weights")
    parser.add_argument("--threads", metavar="N", type=int, help="processor cores to use (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    add_device(parser)


def train(args: argparse.Namespace) -> int:
    if args.stage == "export":
        from .training.export import ABOUT, export_weights

        if args.weights is None:
            raise OptionError("weights", None, "the folder that export writes")
        export_weights(args.out, args.weights, ABOUT)
        return 0
    from .training.train import train as run

    written = run(
        args.stage, args.data, args.out, args.minutes, device=args.device, seed=args.seed,
        with_development=args.with_development, threads=args.threads, progress=say,
    )  # fmt: skip
    print(f"The result is {written}.")
    return 0


def pack_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", metavar="SOURCE", type=Path, nargs="+", help="folders or files with skulls")
    parser.add_argument("--out", metavar="PACK", type=Path, required=True, help="the file to write")


def pack(args: argparse.Namespace) -> int:
    from .training.pack import build_pack

    build_pack(args.sources, args.out, progress=say)
    return 0


COMMANDS = (
    ("generate", "implants for the hole of one skull", generate_arguments, generate),
    ("evaluate", "figures of one implant against the truth, as JSON", evaluate_arguments, evaluate),
    ("benchmark", "figures over a folder of cases, beside the baselines", benchmark_arguments, benchmark),
    ("train", "train one network, or go on with it", train_arguments, train),
    ("pack", "make the one data file that training reads", pack_arguments, pack),
)


# ---- what they share


def add_quality(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quality", choices=("fast", "best"), default="best", help="default: %(default)s")


def numbers(count: int) -> Callable[[str], tuple[float, ...]]:
    """Argument type for `count` finite numbers with commas between them."""

    def parse(text: str) -> tuple[float, ...]:
        try:
            values = tuple(float(part) for part in text.split(","))
        except ValueError:
            values = ()
        if len(values) != count or not all(map(math.isfinite, values)):
            raise argparse.ArgumentTypeError(f"{text!r} is not {count} numbers with commas between them")
        return values

    return parse


def join_number_lists(argv: list[str]) -> list[str]:
    """`--point -10,5,3` becomes `--point=-10,5,3`: argparse takes a value that begins with a minus for an option."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] in NUMBER_LISTS and word[:1] == "-" and word[1:2] in "0123456789.":
            joined[-1] += "=" + word
        else:
            joined.append(word)
    return joined


def summary(ensemble: ImplantEnsemble, directory: Path) -> int:
    """Says what was made and where; returns the exit code."""
    for notice in ensemble.notices:
        tell("warning", notice)
    print("implant        volume  thickness  agreement  checks")
    for index in ensemble.ranking:
        print(row(f"implant_{index + 1}", ensemble.checks[index]))
    print(row("mean_implant", ensemble.mean_report))
    print(f"Results are in {directory}; the picture to open is {directory / 'overview.png'}. {NOTICE}")
    if ensemble.mean_report.passed:
        return 0
    failed = ", ".join(ensemble.mean_report.failed)
    print(
        f"error: The mean implant fails its checks: {failed}. [checks]\n"
        "hint: The files were written all the same; look at overview.png and report.json before using any of them.",
        file=sys.stderr,
    )
    return 3


def row(name: str, report: MemberReport) -> str:
    checks = "passed" if report.passed else "failed: " + ", ".join(report.failed)
    return f"{name:12s} {report.volume_ml:6.1f} ml {report.thickness_mm:7.2f} mm {report.agreement:10.3f}  {checks}"


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code. Wrong usage and --help leave by SystemExit, as argparse does."""
    parser = build_parser("cranial-implant", "Implants for skulls with a hole.", COMMANDS)
    return run_command(parser.parse_args(join_number_lists(sys.argv[1:] if argv is None else argv)))


if __name__ == "__main__":
    sys.exit(main())
