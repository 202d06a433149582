"""The PyTorch extension's module: what is asked of it is recorded in `requests`; torch is never imported or installed."""

from typing import Any

requests: list[dict[str, Any]] = []


class PyTorchUtilsLogic:
    def torchInstalled(self) -> bool:
        raise AssertionError("torchInstalled() imports torch into Slicer's process: ask importlib.metadata")

    def installTorch(self, askConfirmation: bool = False, forceComputationBackend: Any = None, torchVersionRequirement: Any = None) -> Any:
        requests.append({"install": torchVersionRequirement, "askConfirmation": askConfirmation})
        return object()

    def uninstallTorch(self) -> None:
        requests.append({"uninstall": True})
