"""How the commands speak: progress, messages and exit codes, the same in both. Needs the standard library alone.

Exit codes: 0 success, 1 crash (our fault), 2 refused input or wrong usage, 3 a result that fails its checks or does
not exist, 4 cancelled. They are a contract: other programs call these commands.
"""

from __future__ import annotations

import argparse
import math
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn, TextIO

import MedShapeCore

from .errors import MedShapeError
from .jobs import explain
from .notices import Notice

NOTICE = "For research, not for clinical use."
# name, purpose, what adds its arguments, what does its work and returns the exit code
Command = tuple[str, str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]


class ProgressBar:
    """Shows progress on a terminal as one line that is drawn again, elsewhere as a line per stage and ten percent."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._start = time.monotonic()
        self._shown: tuple[str, int] | None = None

    def __call__(self, stage: str, fraction: float, event: dict | None = None) -> None:
        percent = math.floor(100 * min(max(fraction, 0.0), 1.0) + 1e-6)
        seconds = time.monotonic() - self._start
        if self._is_terminal:
            filled = 30 * percent // 100
            line = f"[{'#' * filled}{'.' * (30 - filled)}] {percent:3d} %  {seconds:5.0f} s  {stage}"
            self._draw(line)
        elif (stage, percent // 10) != self._shown:
            self._shown = (stage, percent // 10)
            self._stream.write(f"{seconds:7.1f} s  {percent:3d} %  {stage}\n")
        self._stream.flush()

    def close(self) -> None:
        """Takes the bar off the terminal, so that the next message starts on a clean line."""
        if self._is_terminal:
            self._draw("")
            self._stream.write("\r")
            self._stream.flush()

    def _draw(self, line: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        self._stream.write("\r" + line[:width].ljust(width))


@contextmanager
def progress_bar(stream: TextIO) -> Iterator[ProgressBar]:
    """A progress bar that is off the terminal when the block ends, however it ends."""
    bar = ProgressBar(stream)
    try:
        yield bar
    finally:
        bar.close()


def say(line: str) -> None:
    """A line of a long run, at once: its output is often a file that somebody watches."""
    print(line, flush=True)


def tell(kind: str, said: Notice | MedShapeError) -> None:
    """One sentence with its code, and what to do about it, on standard error."""
    print(f"{kind}: {said.message} [{said.code}]", file=sys.stderr)
    if said.hint:
        print(f"hint: {said.hint}", file=sys.stderr)


def add_device(parser: argparse.ArgumentParser) -> None:
    """The option which both commands have wherever a network runs."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: %(default)s")


def build_parser(name: str, purpose: str, commands: Sequence[Command]) -> argparse.ArgumentParser:
    """The parser of a command with subcommands; each says in its help that it is for research."""
    parser = argparse.ArgumentParser(prog=name, description=f"{purpose} {NOTICE}")
    parser.add_argument("--version", action="version", version=f"%(prog)s {MedShapeCore.__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for word, does, add_arguments, work in commands:
        command = subparsers.add_parser(
            word, help=does, description=f"{does[0].upper()}{does[1:]}. {NOTICE}", allow_abbrev=False
        )
        add_arguments(command)
        command.set_defaults(work=work)
    return parser


def run_command(args: argparse.Namespace) -> int:
    """Does the work of a parsed command line; says what went wrong and returns the exit code."""
    before = signal.signal(signal.SIGTERM, _interrupt)  # so that a half-written folder is removed
    try:
        return args.work(args)
    except (Exception, KeyboardInterrupt) as error:
        code, shown = explain(error)
        if code == 1:
            traceback.print_exception(error)
        tell("error", shown)
        return code
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
