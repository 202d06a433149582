"""Results that arrive whole: written into a temporary folder, moved into place at the end."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import RefusedInput


def open_partial(directory: Path) -> Path:
    """A new empty folder on the file system of `directory`, for results which `deliver` moves there.

    It lies in `directory`, or in the nearest folder above that exists, so that moving is a rename and nothing else is
    made before there is a result. RefusedInput when that place is a file or cannot be written.
    """
    anchor = directory
    while not anchor.exists() and anchor != anchor.parent:
        anchor = anchor.parent
    partial = anchor / f".partial-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        partial.mkdir()
    except OSError as error:
        raise RefusedInput(
            "output",
            f"Results cannot be written to {directory} ({error.strerror}).",
            "Choose a folder that you may write to.",
        ) from error
    return partial


def deliver(partial: Path, directory: Path, stale: str = "") -> None:
    """Moves the results in `partial` to `directory`: in one step where that does not exist, else file by file.

    Files of the same names are replaced. Files of an earlier run whose whole name matches the regular expression
    `stale` and which are not among the results are removed; all other files stay.
    """
    if not directory.exists():
        directory.parent.mkdir(parents=True, exist_ok=True)
        _replace(partial, directory)
        return
    names = {entry.name for entry in partial.iterdir()}
    for name in sorted(names):
        target = directory / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        _replace(partial / name, target)
    for entry in directory.iterdir():
        if stale and entry.is_file() and entry.name not in names and re.fullmatch(stale, entry.name):
            entry.unlink()
    partial.rmdir()


def _replace(source: Path, target: Path) -> None:
    for pause_s in (0.1, 0.3, 1.0):  # on Windows a scanner or a viewer may hold a file for a moment
        try:
            os.replace(source, target)
            return
        except PermissionError:
            time.sleep(pause_s)
    os.replace(source, target)


@contextmanager
def delivered_whole(directory: Path, stale: str = "") -> Iterator[Path]:
    """Gives a folder to write results into; they move to `directory` when the block ends without an error.

    After an error nothing of `directory` has changed. For `stale` see `deliver`.
    """
    partial = open_partial(directory)
    try:
        yield partial
        deliver(partial, directory, stale)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
