"""Options of MedShapeGen: defaults, ranges, and what is refused."""

import pytest
from MedShapeCore.errors import OptionError
from MedShapeGenLib.options import CompleteOptions, GenerateOptions, InterpolateOptions, ReconstructOptions


def test_defaults():
    assert (GenerateOptions(category="kidney").count, CompleteOptions(category="kidney").count) == (8, 5)
    assert InterpolateOptions().steps == 7
    run = ReconstructOptions()
    assert (run.seed, run.resolution, run.device) == (0, 128, "auto")
    drawn = GenerateOptions(category="kidney")
    assert (drawn.side, drawn.guidance, drawn.steps) == ("left", 0.0, 8)


@pytest.mark.parametrize(
    ("kind", "fields", "name"),
    [
        (GenerateOptions, {"count": 0}, "count"),
        (GenerateOptions, {"count": 201}, "count"),
        (GenerateOptions, {"count": True}, "count"),
        (GenerateOptions, {"count": 2.0}, "count"),
        (GenerateOptions, {"seed": -1}, "seed"),
        (GenerateOptions, {"seed": 2**31}, "seed"),
        (GenerateOptions, {"category": None}, "category"),
        (GenerateOptions, {"side": "both"}, "side"),
        (GenerateOptions, {"guidance": float("nan")}, "guidance"),
        (GenerateOptions, {"guidance": "1"}, "guidance"),
        (GenerateOptions, {"steps": 1}, "steps"),
        (GenerateOptions, {"resolution": 31}, "resolution"),
        (GenerateOptions, {"resolution": 100}, "resolution"),
        (CompleteOptions, {"count": -1}, "count"),
        (InterpolateOptions, {"steps": 1}, "steps"),
        (InterpolateOptions, {"device": "tpu"}, "device"),
        (ReconstructOptions, {"resolution": 257}, "resolution"),
    ],
)
def test_a_wrong_value_is_refused_by_name_and_quoted(kind, fields, name):
    drawn = {} if kind in (InterpolateOptions, ReconstructOptions) else {"category": "kidney"}
    with pytest.raises(OptionError) as refused:
        kind(**{**drawn, **fields})
    assert f"The option {name} is {fields[name]!r}" in refused.value.message


def test_the_ends_of_every_range_are_allowed():
    GenerateOptions(category="kidney", count=200, seed=2**31 - 1, guidance=0, steps=2, resolution=32, side="right")
    InterpolateOptions(steps=2, resolution=256, device="cuda")
