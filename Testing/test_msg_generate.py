"""Generated shapes: sizes in mm, place, sides, seeds, checks, and what a person is told; with ellipsoids for organs."""

import dataclasses

import numpy as np
import pytest
from ellipsoid_models import SIZE_DEVIATION, SIZE_MM, ellipsoid_models, ellipsoid_shape
from MedShapeCore.errors import RefusedInput
from MedShapeCore.surfaces import is_watertight, surface_volume_ml
from MedShapeGenLib.categories import category
from MedShapeGenLib.generate import category_notices, centred, sample_shapes
from MedShapeGenLib.options import GenerateOptions
from MedShapeGenLib.solid import Solid, failed_checks, figures_of, mirrored

MODELS = ellipsoid_models()


def made(**fields):
    fields = {"category": "kidney", "count": 2, "resolution": 48, **fields}
    return sample_shapes(MODELS, GenerateOptions(**fields))


def test_shapes_are_closed_centred_and_measured_in_mm():
    result = made(count=3)
    assert len(result.solids) == 3 and result.passed
    for solid in result.solids:
        low, high = solid.vertices_lps.min(axis=0), solid.vertices_lps.max(axis=0)
        assert np.allclose((low + high) / 2, 0, atol=1e-4)
        figures = solid.figures
        assert np.allclose(figures.box_mm, high - low, atol=1e-3) and figures.longest_mm == max(figures.box_mm)
        # an ellipsoid fills pi / 6 of its box
        assert figures.volume_ml == pytest.approx(np.pi / 6 * np.prod(figures.box_mm) / 1000, rel=0.02)
        assert figures.watertight and is_watertight(solid.triangles) and surface_volume_ml(*solid.surface) > 0
        assert 0 < figures.evaluated_fraction < 0.5 and figures.seconds >= 0


def test_sizes_follow_the_category_s_distribution():
    sizes = [solid.figures.longest_mm / 2 for solid in made(count=40, resolution=32).solids]
    z = (np.log(sizes) - np.log(SIZE_MM)) / SIZE_DEVIATION
    assert abs(z.mean()) < 0.45 and 0.7 < z.std() < 1.3  # 40 draws: the mean is known within 0.16


def test_a_shape_depends_on_the_seed_and_its_number_alone():
    alone, batch = made(count=1), made(count=4)
    assert np.abs(alone.solids[0].vertices_lps - batch.solids[0].vertices_lps).max() < 0.05  # mm
    other = made(count=1, seed=1).solids[0]
    assert abs(other.figures.longest_mm - alone.solids[0].figures.longest_mm) > 0.5
    assert abs(batch.solids[1].figures.longest_mm - batch.solids[0].figures.longest_mm) > 0.1


def test_the_right_side_is_the_mirror_image_and_still_outward():
    left, right = made(count=1).solids[0], made(count=1, side="right").solids[0]
    assert np.allclose(right.vertices_lps, left.vertices_lps * [-1, 1, 1], atol=1e-4)
    assert surface_volume_ml(*right.surface) == pytest.approx(surface_volume_ml(*left.surface), rel=1e-6)
    assert np.allclose(mirrored(np.array([[1.0, 2.0, 3.0]])), [[-1, 2, 3]])


def test_an_organ_without_sides_is_not_mirrored_and_says_so():
    result = made(category="liver", count=1, side="right")
    assert {notice.code for notice in result.notices} >= {"few-training-shapes", "no-side"}
    assert np.allclose(result.solids[0].vertices_lps, made(category="liver", count=1).solids[0].vertices_lps)


def test_few_and_synthetic_shapes_are_announced():
    codes = {name: [n.code for n in category_notices(category(name), GenerateOptions(category=name))]
             for name in ("kidney", "stomach", "artery_tree")}  # fmt: skip
    assert codes == {"kidney": [], "stomach": ["few-training-shapes"], "artery_tree": ["synthetic"]}


def test_every_finished_shape_is_told_with_its_surface_and_progress_rises():
    events, fractions = [], []

    def progress(stage, fraction, event=None):
        fractions.append(fraction)
        events.extend([event] if event else [])

    result = sample_shapes(MODELS, GenerateOptions(category="kidney", count=3, resolution=32), progress)
    assert [event["shape"] for event in events] == [1, 2, 3] and fractions == sorted(fractions)
    assert events[2]["surface"][0] is result.solids[2].vertices_lps and fractions[-1] == pytest.approx(1.0)


def test_an_unknown_category_is_refused_with_what_comes_near():
    with pytest.raises(RefusedInput) as refused:
        made(category="kidny")
    assert refused.value.code == "unknown-category" and "kidney" in refused.value.hint


def test_checks_name_what_is_wrong():
    kidney = category("kidney")
    good = figures_of(*surface(50.0), kidney)
    assert good.failed == () and good.passed
    assert figures_of(*surface(90.0), kidney).failed == ("size",)  # 180 mm
    assert figures_of(*surface(90.0)).failed == ()  # nobody said what it is
    vertices, triangles = surface(50.0)
    assert figures_of(vertices, triangles[1:], kidney).failed == ("watertight",)
    assert failed_checks(dataclasses.replace(good, components=2), kidney) == ("components",)
    assert figures_of(np.zeros((0, 3)), np.zeros((0, 3), np.int32)).failed == ("watertight",)


def test_sizes_a_little_outside_the_training_data_pass():
    low, high = category("kidney").longest_mm
    for longest, failed in ((high * 1.1, ()), (high * 1.2, ("size",)), (low * 0.9, ()), (low * 0.8, ("size",))):
        assert figures_of(*surface(longest / 2), category("kidney")).failed == failed


def surface(half_mm):
    shape = ellipsoid_shape((half_mm, 0.6 * half_mm, 0.5 * half_mm), rings=12)
    return shape.vertices_lps, shape.triangles


def test_a_box_is_centred_and_not_the_mean_of_the_vertices():
    vertices, triangles = surface(10.0)
    shifted = centred(Solid(vertices[vertices[:, 2].argsort()] + [5, -7, 9], triangles, figures_of(vertices, triangles)))
    assert np.allclose(shifted.vertices_lps.min(axis=0), -shifted.vertices_lps.max(axis=0))


def test_generate_centres_what_the_model_made(monkeypatch):
    import MedShapeGenLib.generate as module

    made_by = module.solid_from_latent

    def off_centre(models, latent, centre_lps, *others):
        return made_by(models, latent, centre_lps + [3.0, 4.0, 5.0], *others)

    monkeypatch.setattr(module, "solid_from_latent", off_centre)
    vertices = made(count=1).solids[0].vertices_lps
    assert np.allclose(vertices.min(axis=0), -vertices.max(axis=0), atol=1e-3)


def test_a_solid_mirrors_its_triangles_too():
    vertices, triangles = surface(10.0)
    solid = Solid(vertices + [5, 0, 0], triangles, figures_of(vertices, triangles))
    assert surface_volume_ml(*solid.mirrored().surface) == pytest.approx(surface_volume_ml(*solid.surface))
    assert solid.mirrored().vertices_lps.mean(axis=0)[0] == pytest.approx(-5, abs=0.1)
