"""slicer.packaging that installs nothing: what is asked for is recorded in `requests`."""

from pathlib import Path
from typing import Any

requests: list[dict[str, Any]] = []


def pip_install(requirements: Any, constraints: Any = None, *, blocking: bool = True, requester: str | None = None) -> None:
    asked = requirements.split() if isinstance(requirements, str) else list(requirements)
    limits = Path(constraints).read_text(encoding="utf-8").splitlines() if constraints is not None else []
    requests.append({"requirements": asked, "constraints": limits, "requester": requester, "blocking": blocking})
