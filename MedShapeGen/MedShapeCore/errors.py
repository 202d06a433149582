"""Errors a person can act on: each has a code, one sentence and a hint."""

from __future__ import annotations

import errno

# numbers of an OSError for want of room: on the disk, in the quota, in one file
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class MedShapeError(Exception):
    """Base of all errors that are meant for people; `str()` gives the sentence."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


class RefusedInput(MedShapeError):
    """The input cannot be used; nothing was changed."""


class FailedResult(MedShapeError):
    """The work was done, but its result fails a check or does not exist."""


class Cancelled(MedShapeError):
    """The user stopped the work."""

    def __init__(self) -> None:
        super().__init__("cancelled", "The work was cancelled; nothing was written.")


class OptionError(RefusedInput):
    """An option has a value that it cannot have."""

    def __init__(self, name: str, value: object, expected: str) -> None:
        super().__init__("option", f"The option {name} is {value!r}; it must be {expected}.")
