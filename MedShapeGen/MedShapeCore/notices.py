"""What a person should know about a run that goes on all the same."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Notice:
    """Something a person should know: a stable code, one sentence, and what to do about it."""

    code: str
    message: str
    hint: str = ""
