"""What a run can be asked for, checked once."""

from __future__ import annotations

from dataclasses import dataclass

from MedShapeCore.errors import OptionError

MAX_COUNT = 200  # they are sampled as one batch
SIDES = ("left", "right")
TABLES = ("reconstruction", "generation")  # of the benchmark


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What every run has."""

    seed: int = 0
    resolution: int = 128  # cells of the decoding grid along each side; the longest side of a shape has 116 of them
    device: str = "auto"  # auto, cpu or cuda

    def __post_init__(self) -> None:
        _check_whole("seed", self.seed, 0, 2**31 - 1)
        _check_whole("resolution", self.resolution, 32, 256)
        if self.resolution % 8:  # the decoding grid is halved three times
            raise OptionError("resolution", self.resolution, "a multiple of 8 from 32 to 256")
        if self.device not in ("auto", "cpu", "cuda"):
            raise OptionError("device", self.device, "auto, cpu or cuda")


@dataclass(frozen=True, kw_only=True)
class SampleOptions(RunOptions):
    """What every run has that draws new shapes."""

    category: str  # a name of categories.CATEGORIES; looked up when the run starts
    count: int
    side: str = "left"  # of a paired organ; the model knows left ones, right ones are mirrored
    guidance: float = 0.0  # how much more strongly than it was learned the category pulls
    steps: int = 8  # of the sampler, 2 steps - 1 evaluations

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_whole("count", self.count, 1, MAX_COUNT)
        if not isinstance(self.category, str):
            raise OptionError("category", self.category, "a category's name")
        if self.side not in SIDES:
            raise OptionError("side", self.side, "left or right")
        if not _is_number(self.guidance, 0.0, 10.0):
            raise OptionError("guidance", self.guidance, "a number from 0 to 10")
        _check_whole("steps", self.steps, 2, 200)


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(SampleOptions):
    """Options of `generate.sample_shapes`."""

    count: int = 8


@dataclass(frozen=True, kw_only=True)
class ReconstructOptions(RunOptions):
    """Options of `reconstruct.reconstruct`; the seed draws the surface points which the encoder sees."""


@dataclass(frozen=True, kw_only=True)
class InterpolateOptions(RunOptions):
    """Options of `interpolate.interpolate`."""

    steps: int = 7  # shapes, the two ends included

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_whole("steps", self.steps, 2, 100)


@dataclass(frozen=True, kw_only=True)
class CompleteOptions(SampleOptions):
    """Options of `complete.complete`."""

    count: int = 5


def _check_whole(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise OptionError(name, value, f"a whole number from {low} to {high}")


def _is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high  # NaN is not
