"""Auto-encoder and diffusion of shapes: what holds whatever the weights are."""

import numpy as np
import pytest
import torch
from MedShapeGenLib.autoencoder import AutoEncoder
from MedShapeGenLib.diffusion import SIGMA_MAX, LatentDiffusion, guided, sample, sigmas
from MedShapeGenLib.encoder import Standardised, spacing
from MedShapeGenLib.gaussian import ClassGaussians, fit_gaussians, harmonics_of, rest_of


@pytest.fixture(scope="module")
def autoencoder():
    torch.manual_seed(0)
    return AutoEncoder().eval()


@pytest.fixture(scope="module")
def ball():
    generator = torch.Generator().manual_seed(1)
    points = torch.nn.functional.normalize(torch.randn(1, 600, 3, generator=generator), dim=-1) * 0.8
    skeleton = torch.cat([points[:, :64] * 0.9, torch.full((1, 64, 1), 0.08)], -1)
    return points, points / 0.8, skeleton


def test_features_do_not_depend_on_the_order_of_the_points(autoencoder, ball):
    points, normals, skeleton = ball
    order = torch.randperm(points.shape[1], generator=torch.Generator().manual_seed(2))
    first = autoencoder.encode(points, normals, skeleton)
    second = autoencoder.encode(points[:, order], normals[:, order], skeleton)
    assert torch.allclose(first, second, atol=1e-4)
    assert torch.equal(first[..., :4], skeleton)  # place and radius are handed on as they are


def test_the_field_does_not_depend_on_the_order_of_the_latent_points(autoencoder, ball):
    latent = autoencoder.encode(*ball)
    order = torch.randperm(latent.shape[1], generator=torch.Generator().manual_seed(3))
    queries = torch.rand(1, 200, 3, generator=torch.Generator().manual_seed(4)) * 2 - 1
    assert torch.allclose(autoencoder.field(latent, queries), autoencoder.field(latent[:, order], queries), atol=1e-4)


def test_a_shape_is_the_same_alone_and_in_a_batch(autoencoder, ball):
    points, normals, skeleton = (torch.cat([part, part.flip(-1)]) if part.shape[-1] == 3 else torch.cat([part, part]) for part in ball)
    both = autoencoder.encode(points, normals, skeleton)
    alone = autoencoder.encode(points[1:], normals[1:], skeleton[1:])
    assert torch.allclose(both[1:], alone, atol=1e-4)


def test_the_field_is_continuous_where_the_nearest_latent_points_change(autoencoder, ball):
    latent = autoencoder.encode(*ball)
    # Not through the centre: all latent points of this ball are equally near there, and none has a last neighbour.
    line = torch.linspace(-1, 1, 20001)[None, :, None] * torch.tensor([0.6, 0.5, 0.3]) + torch.tensor([0.1, 0.3, -0.2])
    with torch.no_grad():
        values = autoencoder.field(latent, line)[0]
    step = 2 * float(np.linalg.norm([0.6, 0.5, 0.3])) / 20000
    assert float(values.diff().abs().max()) < 60 * step  # a jump would be a thousand steps high


def test_the_last_neighbour_of_a_query_has_no_weight(autoencoder, ball):
    latent = autoencoder.encode(*ball)
    decoder, query = autoencoder.decoder, torch.tensor([[[0.3, 0.2, 0.75]]])
    farthest = torch.cdist(query, latent[..., :3])[0, 0].topk(decoder.near + 1, largest=False).indices[-1]
    changed = latent.clone()
    changed[0, farthest, 4:] += 5  # without latent attention nothing but this token would notice
    tokens, other = decoder.tokens(latent), decoder.tokens(changed)
    swapped = type(tokens)(tokens.position, tokens.radius, tokens.spacing, tokens.key.clone(), tokens.plane.clone())
    swapped.key[0, farthest], swapped.plane[0, farthest] = other.key[0, farthest], other.plane[0, farthest]
    assert torch.allclose(decoder(tokens, query), decoder(swapped, query), atol=1e-5)


def test_spacing_of_a_grid():
    line = torch.stack([torch.arange(20.0), torch.zeros(20), torch.zeros(20)], -1)[None]
    assert float(spacing(line, neighbours=2)[0, 10]) == pytest.approx(1.0)


def test_channels_are_standardised_by_one_pair_for_all_points():
    layer = Standardised(2, momentum=0.1)
    x = torch.randn(8, 50, 2, generator=torch.Generator().manual_seed(5)) * torch.tensor([3.0, 0.1]) + torch.tensor([5.0, -1.0])
    for _ in range(100):
        layer(x)
    answer = layer.eval()(x).flatten(0, 1)
    assert torch.allclose(answer.mean(0), torch.zeros(2), atol=0.02)
    assert torch.allclose(answer.std(0), torch.ones(2), atol=0.02)


def known_gaussian(tokens=6, modes=3):
    """One category whose covariance is known, beside the row of the unknown."""
    generator = torch.Generator().manual_seed(6)
    model = ClassGaussians(1, tokens, modes)
    basis = torch.linalg.qr(torch.randn(tokens * 16, modes, generator=generator))[0].T
    model.mean[0] = torch.randn(tokens, 16, generator=generator)
    model.basis[0], model.variance[0] = basis, torch.tensor([9.0, 4.0, 1.0])
    model.rest[0] = 0.25
    return model


def covariance_of(model):
    basis = model.basis[0]
    inside = basis.T @ basis
    return basis.T @ torch.diag(model.variance[0]) @ basis + 0.25 * (torch.eye(len(inside)) - inside)


def test_the_linear_denoiser_is_the_posterior_mean_of_the_gaussian():
    model = known_gaussian()
    noisy = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(7))
    sigma, label = torch.tensor([0.5, 2.0]), torch.tensor([0, 0])
    answer = model.denoised(noisy, sigma, label, torch.zeros(2))
    covariance = covariance_of(model)
    for row in range(2):
        gain = covariance @ torch.linalg.inv(covariance + sigma[row] ** 2 * torch.eye(len(covariance)))
        expected = model.mean[0].flatten() + gain @ (noisy[row] - model.mean[0]).flatten()
        assert torch.allclose(answer[row].flatten(), expected, atol=1e-4)
        left = covariance - gain @ covariance
        assert float(model.error(sigma, label)[row]) == pytest.approx(float((left.trace() / len(left)).sqrt()), rel=1e-4)
        offset = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(8))
        spread = model.uncertain(offset, sigma[row : row + 1], label[:1])
        assert torch.allclose(spread.flatten(), left @ offset.flatten(), atol=1e-4)


def test_for_one_isotropic_gaussian_it_is_edms_own_preconditioning():
    model = ClassGaussians(1, 4, 2)
    model.rest[0] = 1.0
    noisy, sigma = torch.ones(1, 4, 16), torch.tensor([0.7])
    label = torch.tensor([0])
    assert torch.allclose(model.denoised(noisy, sigma, label, torch.zeros(1)), noisy / (0.7**2 + 1), atol=1e-6)
    # the two modes of this model have no variance: 62 of 64 numbers are uncertain
    assert float(model.error(sigma, label)) == pytest.approx(0.7 / (0.7**2 + 1) ** 0.5 * (62 / 64) ** 0.5, rel=1e-5)


def untrained(tokens=6):
    torch.manual_seed(9)
    network = LatentDiffusion(1, tokens, width=16, blocks=1, heads=2).eval()
    gaussians = known_gaussian(tokens, network.gaussians.basis.shape[1] and 3)
    state = network.gaussians.state_dict()
    for name, value in gaussians.state_dict().items():
        if state[name].shape == value.shape:
            state[name] = value
        else:
            state[name][:, : value.shape[1]] = value
    network.gaussians.load_state_dict(state)
    return network


def test_an_untrained_denoiser_samples_its_gaussian():
    network = untrained()
    noise = torch.randn(3000, 6, 16, generator=torch.Generator().manual_seed(10))
    label, size = torch.zeros(3000, dtype=torch.long), torch.zeros(3000)
    samples = sample(network, noise, label, size, steps=12).flatten(1)
    assert torch.allclose(samples.mean(0), network.gaussians.mean[0].flatten(), atol=0.25)
    along = (samples - samples.mean(0)) @ network.gaussians.basis[0, :3].T
    assert torch.allclose(along.var(0), torch.tensor([9.0, 4.0, 1.0]), rtol=0.15)


def test_a_sample_depends_on_its_own_noise_alone():
    network = untrained()
    noise = torch.randn(3, 6, 16, generator=torch.Generator().manual_seed(11))
    label, size = torch.zeros(3, dtype=torch.long), torch.tensor([0.3, -1.0, 0.0])
    together = sample(network, noise, label, size)
    assert torch.allclose(together[1:2], sample(network, noise[1:2], label[1:2], size[1:2]), atol=1e-5)


def test_guidance_leads_away_from_the_unknown_and_only_within_its_interval():
    network = untrained()
    x, label, size = torch.zeros(1, 6, 16), torch.tensor([0]), torch.zeros(1)
    plain = guided(network, x, 1.0, label, size, 0.0, (0.1, 2.0), None)
    unknown = network(x, torch.ones(1), torch.tensor([1]), size)
    both = guided(network, x, 1.0, label, size, 2.0, (0.1, 2.0), None)
    assert torch.allclose(both, 3 * plain - 2 * unknown, atol=1e-5)  # (1 + w) D(c) - w D(unknown), w = 2
    assert torch.equal(guided(network, x, 3.0, label, size, 2.0, (0.1, 2.0), None),
                       guided(network, x, 3.0, label, size, 0.0, (0.1, 2.0), None))  # fmt: skip


def test_a_guide_draws_the_sample_to_a_smaller_loss():
    network = untrained()
    target = network.gaussians.mean[0] + 2 * network.gaussians.basis[0, 0].view(6, 16)

    def guide(latents, sigma):
        return ((latents - target) ** 2).flatten(1).sum(1) * 5

    noise = torch.randn(20, 6, 16, generator=torch.Generator().manual_seed(12))
    label, size = torch.zeros(20, dtype=torch.long), torch.zeros(20)
    free = guide(sample(network, noise, label, size), 0).mean()
    assert guide(sample(network, noise, label, size, guide=guide), 0).mean() < 0.2 * free


def test_the_noise_levels_fall_from_the_highest_to_nothing():
    levels = sigmas(8)
    assert len(levels) == 9 and levels[0] == pytest.approx(SIGMA_MAX) and levels[-1] == 0
    assert all(a > b for a, b in zip(levels[:-1], levels[1:], strict=True))


def test_fitted_gaussians_find_mean_modes_and_what_is_left():
    generator = torch.Generator().manual_seed(13)
    basis = torch.linalg.qr(torch.randn(5 * 16, 2, generator=generator))[0].T
    draws = torch.randn(200, 2, generator=generator) * torch.tensor([4.0, 2.0])
    x = 3 + (draws @ basis).view(200, 5, 16) + 0.1 * torch.randn(200, 5, 16, generator=generator)
    model = fit_gaussians([x[:, None]], [torch.linspace(40, 60, 200)], modes=2)
    overlap = (model.basis[0] * model.scale.repeat(5)) @ basis.T
    assert float(torch.linalg.svdvals(overlap / overlap.norm(dim=1, keepdim=True)).prod()) > 0.9
    assert torch.allclose(model.restore(model.mean[0]), x.mean(0), atol=0.2)
    rest = (model.rest[0].sqrt() * model.scale).mean()  # white noise has the same variance in all harmonics
    assert float(rest) == pytest.approx(0.1, rel=0.2)  # mm-like units of the data
    assert float(model.log_size[0, 0].exp()) == pytest.approx(50, rel=0.02)
    assert torch.equal(model.restore(model.standardise(x)).round(decimals=3), x.round(decimals=3)) or torch.allclose(
        model.restore(model.standardise(x)), x, atol=1e-4)  # fmt: skip


def test_a_smooth_rest_is_found_in_the_broad_harmonics():
    generator = torch.Generator().manual_seed(14)
    places = torch.stack([torch.linspace(-1, 1, 40), torch.zeros(40), torch.zeros(40)], -1)
    harmonics = harmonics_of(places)
    assert torch.allclose(harmonics @ harmonics.T, torch.eye(40), atol=1e-4)
    bends = torch.exp(-(((places[:, None, 0] - places[None, :, 0]) / 0.5) ** 2)) @ torch.randn(40, 300 * 16, generator=generator)
    x = bends.view(40, 300, 16).transpose(0, 1) + 0.01 * torch.randn(300, 40, 16, generator=generator)
    rest = rest_of(x[:, None], torch.zeros(300), 0, harmonics)
    assert float(rest[:10].sum() / rest.sum()) > 0.95
    assert float(rest[30:].mean()) == pytest.approx(1e-4, rel=0.3)
