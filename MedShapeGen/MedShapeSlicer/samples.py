"""Sample data of both modules for the module Sample Data: bundled files, made by the project's own programs, no patient."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def register(module: Path, sample: str, files: Mapping[str, str], kind: str) -> None:
    """Offers files of a module's Resources/Samples as one sample, with the picture Resources/Icons/SAMPLE.png.

    files : file by the name of its node; kind : the application's word for their type, such as SegmentationFile.
    """
    try:
        import SampleData
    except ImportError:  # an application without this module
        return
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="MedShapeGen", sampleName=sample, nodeNames=list(files), fileNames=list(files.values()),
        uris=[(module / "Resources" / "Samples" / file).as_uri() for file in files.values()], loadFileTypes=[kind] * len(files),
        thumbnailFileName=str(module / "Resources" / "Icons" / f"{sample}.png"),
    )  # fmt: skip
