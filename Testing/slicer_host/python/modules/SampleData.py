"""The module SampleData: registers sources, and loads those that lie in a file here."""

import os
import types
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import slicer

sources: list[types.SimpleNamespace] = []


class SampleDataLogic:
    @staticmethod
    def registerCustomSampleDataSource(
        category: str, sampleName: str, uris: str, fileNames: str, nodeNames: str, loadFileTypes: str, thumbnailFileName: str
    ) -> None:
        if not os.path.isfile(thumbnailFileName):
            raise FileNotFoundError(thumbnailFileName)
        sources.append(types.SimpleNamespace(**locals()))

    def downloadSample(self, name: str) -> Any:
        source = next(s for s in sources if s.sampleName == name)
        if not source.uris.startswith("file:"):
            raise RuntimeError(f"the Slicer host downloads nothing: {source.uris}")
        path = url2pathname(urlparse(source.uris).path)
        return slicer.util.loadNodeFromFile(path, source.loadFileTypes, {"name": source.nodeNames})


def downloadSample(sampleName: str) -> Any:
    return SampleDataLogic().downloadSample(sampleName)
