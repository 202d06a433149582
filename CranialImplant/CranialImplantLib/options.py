"""What a run can be asked for, checked once."""

from __future__ import annotations

from dataclasses import dataclass

from MedShapeCore.errors import OptionError

MAX_MEMBERS = 50


@dataclass(frozen=True)
class ImplantOptions:
    """Options of `generate_implants`; points and boxes in LPS mm."""

    members: int = 5  # the paper's ensemble
    seed: int = 0
    device: str = "auto"  # auto, cpu or cuda
    quality: str = "best"  # best or fast: finer or coarser Poisson grid and fewer evaluations
    steps: int | None = None  # evaluations of the point network; None = the quality's own number
    point_lps: tuple[float, float, float] | None = None  # a point in or near the hole
    roi_lps: tuple[float, float, float, float, float, float] | None = None  # low L, P, S, high L, P, S of a box around it
    hole: int | None = None  # which of several holes, 1 = largest

    def __post_init__(self) -> None:
        if not isinstance(self.members, int) or not 1 <= self.members <= MAX_MEMBERS:
            raise OptionError("members", self.members, f"a whole number from 1 to {MAX_MEMBERS}")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise OptionError("seed", self.seed, "a whole number from 0 to 2147483647")
        if self.device not in ("auto", "cpu", "cuda"):
            raise OptionError("device", self.device, "auto, cpu or cuda")
        if self.quality not in ("fast", "best"):
            raise OptionError("quality", self.quality, "fast or best")
        if self.steps is not None and (not isinstance(self.steps, int) or not 2 <= self.steps <= 100):
            raise OptionError("steps", self.steps, "a whole number from 2 to 100")
        if self.point_lps is not None and len(self.point_lps) != 3:
            raise OptionError("point", self.point_lps, "three numbers L,P,S in mm")
        if self.roi_lps is not None:
            low, high = self.roi_lps[:3], self.roi_lps[3:]
            if len(self.roi_lps) != 6 or any(a >= b for a, b in zip(low, high, strict=True)):
                raise OptionError("roi", self.roi_lps, "six numbers L0,P0,S0,L1,P1,S1 in mm, low corner first")
        if self.hole is not None and (not isinstance(self.hole, int) or self.hole < 1):
            raise OptionError("hole", self.hole, "a whole number from 1")
