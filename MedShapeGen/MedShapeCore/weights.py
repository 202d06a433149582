"""Bundled weights: safetensors files beside a manifest with their SHA-256, checked before use; nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import FailedResult

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
REPAIR = "Install the extension again; a file of it was changed or is missing."


@dataclass(frozen=True)
class WeightsFolder:
    """A folder of weights and what its manifest says."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def digest(self) -> str:
        """One hash over all files, short enough for a report."""
        parts = [f"{name}:{entry['sha256']}" for name, entry in sorted(self.manifest["files"].items())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """float32 tensors of one file (integers and bools stay); FailedResult where file, hash or values are wrong."""
        import torch
        from safetensors.torch import load

        path = self.folder / f"{name}.safetensors"
        entry = self.manifest["files"].get(path.name)
        if entry is None or not path.is_file():
            raise FailedResult("weights-missing", f"The weights {path.name} are missing.", REPAIR)
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise FailedResult("weights-changed", f"The weights {path.name} are not the ones of the manifest.", REPAIR)
        tensors = {n: t.float() if t.is_floating_point() else t for n, t in load(data).items()}
        if not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
            raise FailedResult("weights-values", f"The weights {path.name} hold values that are no numbers.", REPAIR)
        return tensors


def open_weights(folder: Path) -> WeightsFolder:
    """Reads the manifest of a weights folder; FailedResult where it is missing or no manifest."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        _ = [entry["sha256"] for entry in manifest["files"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FailedResult("weights-missing", f"The weights' {MANIFEST} cannot be read: {error}.", REPAIR) from error
    return WeightsFolder(folder, manifest)


def write_manifest(folder: Path, about: dict[str, Any]) -> None:
    """Writes manifest.json: `about` plus size and SHA-256 of every safetensors file in the folder."""
    files = {
        path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
        for path in sorted(folder.glob("*.safetensors"))
    }
    (folder / MANIFEST).write_text(json.dumps(about | {"files": files}, indent=2) + "\n", encoding="utf-8")
