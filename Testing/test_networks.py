"""The networks' parts against arithmetic: shapes, bounds, exact limits, and nothing that depends on an order."""

import numpy as np
import pytest
import torch
from CranialImplantLib.completion import JITTER_MM, OFFSET_MM, TRUST, CompletionNetwork, Source, flow
from CranialImplantLib.head import FIELD_LIMIT_MM
from CranialImplantLib.look import LookNetwork, look, look_matrix, similarity_from_look
from CranialImplantLib.networks import UNet3d, depth_to_space, space_to_depth
from CranialImplantLib.points import Exchange, grid_sample_points, pool_points, wave
from CranialImplantLib.refinement import (
    FAR_BOUND_MM,
    FREE_BOUND_MM,
    MEMBER_BOUND_MM,
    NEAR_MM,
    RefinementNetwork,
)
from CranialImplantLib.voxelization import COPIES, MAX_OFFSET_MM, VoxelizationNetwork, indicator
from synthetic import turned

SHAPE = (16, 16, 32)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_space_and_depth_are_exchanged_without_loss():
    x = torch.arange(2 * 3 * 4 * 6 * 8.0).reshape(2, 3, 4, 6, 8)
    packed = space_to_depth(x)
    assert packed.shape == (2, 24, 2, 3, 4) and torch.equal(depth_to_space(packed), x)
    assert set(packed[0, ::3, 0, 0, 0].tolist()) == set(x[0, 0, :2, :2, :2].flatten().tolist())  # one corner's voxels
    channels = torch.randn(1, 16, 2, 2, 2)
    assert torch.equal(space_to_depth(depth_to_space(channels)), channels)


@pytest.mark.parametrize("shape", [(8, 16, 24), (16, 8, 8)])
def test_a_unet_gives_features_at_half_resolution(shape):
    net = UNet3d(3, (16, 32, 48))
    out = net(torch.randn(2, 3, *shape))
    assert out.shape == (2, 16, *(n // 2 for n in shape)) and torch.isfinite(out).all()


def test_a_unet_answers_each_of_a_batch_as_if_alone():
    net = UNet3d(2, (16, 32)).eval()
    x = torch.randn(3, 2, 8, 8, 8)
    assert torch.allclose(net(x)[1:2], net(x[1:2]), atol=1e-5)


def test_cells_hold_the_mean_of_their_points():
    features = torch.tensor([[[1.0, 10.0], [3.0, 30.0], [5.0, 50.0]]])
    pooled = pool_points(features, torch.tensor([[2, 2, 0]]), 4)
    assert torch.equal(pooled, torch.tensor([[[5.0, 50.0], [0, 0], [2.0, 20.0], [0, 0]]]))


def test_a_grid_is_read_at_points_in_x_y_z_order_and_clamped():
    k, j, i = torch.meshgrid(torch.arange(4.0), torch.arange(5.0), torch.arange(6.0), indexing="ij")
    grid = torch.stack([i + 10 * j + 100 * k, -i])[None]
    read = grid_sample_points(grid, torch.tensor([[[1.5, 2.25, 0.5], [-3.0, 0.0, 9.0], [5.0, 4.0, 3.0]]]))
    assert torch.allclose(read, torch.tensor([[[74.0, -1.5], [300.0, 0.0], [345.0, -5.0]]]), atol=1e-3)


def test_points_exchange_whatever_their_order():
    exchange = Exchange(16).eval()
    h, place = torch.randn(2, 50, 16), torch.rand(2, 50, 3) * 15
    order = torch.randperm(50)
    out = exchange(h, place, SHAPE)
    assert out.shape == h.shape
    assert torch.allclose(exchange(h[:, order], place[:, order], SHAPE), out[:, order], atol=1e-5)
    assert torch.allclose(exchange(h[1:], place[1:], SHAPE), out[1:], atol=1e-5)
    far = exchange(h, place + 1000.0, SHAPE)  # points outside the grid fall into its border cells
    assert torch.isfinite(far).all()


def test_points_hear_of_each_other():
    exchange = Exchange(16).eval()
    h, place = torch.randn(1, 2, 16), torch.tensor([[[3.0, 3.0, 3.0], [5.0, 5.0, 5.0]]])
    changed = h.clone()
    changed[0, 1] += 1.0
    assert not torch.allclose(exchange(h, place, SHAPE)[0, 0], exchange(changed, place, SHAPE)[0, 0], atol=1e-4)


def test_waves_tell_times_apart():
    times = torch.linspace(0, 1, 33)
    waves = wave(times)
    assert waves.shape == (33, 8) and torch.allclose(waves[0], torch.tensor([0.0] * 4 + [1.0] * 4))
    assert torch.cdist(waves, waves)[~torch.eye(33, dtype=torch.bool)].min() > 0.1


def source_of(points):
    count = points.shape[1]
    normals = torch.zeros_like(points)
    normals[..., 2] = 5.0  # area normals
    kind = torch.arange(count) % 3
    return Source(points, normals, kind, points[:1] * 0, torch.tensor([-16.0, -16.0, -16.0]), 2.0)


def test_a_source_knows_its_normals_kinds_and_offsets():
    source = source_of(torch.randn(2, 7, 3))
    assert torch.allclose(source.normals.norm(dim=-1), torch.ones(2, 7))
    assert source.kind.shape == (1, 7, 3) and source.kind[0, 5].tolist() == [0, 0, 1]
    assert torch.allclose(source.offset, source.points[..., 2])


@pytest.mark.parametrize("steps", [2, 3, 8, 9])
def test_a_constant_velocity_moves_points_by_itself(steps):
    network = CompletionNetwork((16, 32), 16)
    velocity = torch.tensor([1.0, -2.0, 3.0])
    with torch.no_grad():
        network.head.bias.copy_(velocity / OFFSET_MM)
    source, noise = source_of(torch.randn(2, 30, 3) * 5), torch.randn(2, 30, 3)
    told = []
    moved = flow(network.eval(), torch.randn(1, 6, *SHAPE), source, noise, steps, told.append)
    assert torch.allclose(moved, source.points + TRUST * (velocity + JITTER_MM * noise), atol=1e-4)
    assert told[-1] == 1.0 and len(told) == (steps + 1) // 2 and sorted(told) == told


@pytest.mark.parametrize("steps", [2, 5, 8])
def test_as_many_evaluations_as_asked_for_and_second_order_in_time(steps):
    class Accelerating:
        times: list[float] = []

        def encoder(self, channels):
            return channels

        def velocity(self, encoded, channels, points, t, source):
            self.times.append(float(t[0]))
            return (2 * t)[:, None, None].expand_as(points)

    network = Accelerating()
    network.times = []
    source = source_of(torch.zeros(2, 4, 3))
    moved = flow(network, torch.zeros(1, 6, *SHAPE), source, torch.zeros(2, 4, 3), steps)  # type: ignore[arg-type]
    assert len(network.times) == steps and 0.0 == min(network.times) and max(network.times) <= 1.0
    last = 1.0 if steps % 2 == 0 else 1.0 - (1 / (steps // 2 + 1)) ** 2  # Heun is exact here, one Euler step is not
    assert torch.allclose(moved, torch.full_like(moved, TRUST * last), atol=1e-5)


def test_members_flow_as_if_alone_and_points_in_any_order():
    network = CompletionNetwork((16, 32), 16).eval()
    torch.nn.init.normal_(network.head.weight, std=0.1)
    channels, points, noise = torch.randn(1, 6, *SHAPE), torch.randn(3, 40, 3) * 8, torch.randn(3, 40, 3)

    def run(chosen):
        source = Source(points[chosen], points[chosen] + 1, torch.arange(40) % 3, points[:1], torch.zeros(3) - 16, 2.0)
        return flow(network, channels, source, noise[chosen], 4)

    together = run([0, 1, 2])
    assert (together - points).abs().max() > 0.1
    assert torch.allclose(run([1])[0], together[1], atol=1e-4)
    assert torch.allclose(run([2, 1])[0], together[2], atol=1e-4)


def channels_and_solid(batch=1):
    channels, solid = torch.rand(1, 6, *SHAPE) * 2 - 1, torch.rand(batch, 1, *SHAPE) * 2 - 1
    return channels, solid


@pytest.mark.parametrize("member", [True, False])
def test_an_untrained_refinement_joins_bone_and_solid(member):
    channels, solid = channels_and_solid(2)
    out = RefinementNetwork((16, 32)).eval()(channels, solid, member)
    assert torch.equal(out, torch.minimum(channels[:, :1], solid)) and out.shape == solid.shape


@pytest.mark.parametrize("sign", [-50.0, 50.0])
def test_a_members_surface_moves_no_farther_than_its_bound(sign):
    network = RefinementNetwork((16, 32)).eval()
    torch.nn.init.constant_(network.head.bias, sign)  # a network that wants all it may have
    channels, solid = channels_and_solid()
    base = torch.minimum(channels[:, :1], solid)
    for member, bound_mm in ((True, MEMBER_BOUND_MM), (False, FREE_BOUND_MM)):
        moved = (network(channels, solid, member) - base).abs() * FIELD_LIMIT_MM
        near = solid * FIELD_LIMIT_MM < NEAR_MM[0]  # inside the solid, and around it
        assert torch.allclose(moved[near], torch.tensor(bound_mm), atol=1e-4)
        assert moved.max() <= FAR_BOUND_MM + 1e-4 and moved[~near].min() >= bound_mm - 1e-4
        far = solid * FIELD_LIMIT_MM > NEAR_MM[1]
        assert torch.allclose(moved[far], torch.tensor(FAR_BOUND_MM), atol=1e-4)


def test_the_refinement_is_told_whether_it_sees_a_member():
    network = RefinementNetwork((16, 32)).eval()
    torch.nn.init.normal_(network.head.weight, std=0.01)
    channels, solid = channels_and_solid()
    base = torch.minimum(channels[:, :1], solid)
    inside = solid < 0
    change = [
        torch.atanh((network(channels, solid, m) - base) * FIELD_LIMIT_MM / b)[inside]
        for m, b in ((True, MEMBER_BOUND_MM), (False, FREE_BOUND_MM))
    ]
    assert (change[0] - change[1]).abs().max() > 1e-4


def test_voxelization_keeps_area_and_moves_points_little():
    network = VoxelizationNetwork((16, 32), 16).eval()
    points, normals = torch.randn(2, 60, 3) * 8, torch.randn(2, 60, 3) * 4
    kind = torch.nn.functional.one_hot(torch.arange(60) % 3, 3).float()[None]
    low = torch.tensor([-16.0, -16.0, -16.0])
    moved, oriented = network(torch.randn(1, 6, *SHAPE), points, normals, kind, low, 2.0)
    assert moved.shape == oriented.shape == (2, COPIES * 60, 3)
    copies = points.repeat_interleave(COPIES, 1)
    assert (moved - copies).abs().max() < 0.2  # as initialised it changes next to nothing
    assert torch.allclose(oriented, normals.repeat_interleave(COPIES, 1) / COPIES, rtol=0.2, atol=0.2)
    torch.nn.init.normal_(network.head.weight, std=10.0)
    moved, oriented = network(torch.randn(1, 6, *SHAPE), points, normals, kind, low, 2.0)
    assert (moved - copies).abs().max() <= MAX_OFFSET_MM + 1e-4
    ratio = oriented.norm(dim=-1) * COPIES / normals.norm(dim=-1).repeat_interleave(COPIES, 1)
    assert ratio.max() < np.e + 1e-3 and ratio.min() > 1 / np.e - 1e-3


def test_the_indicator_of_a_ball_lies_where_its_points_are():
    rng = np.random.default_rng(0)
    unit = rng.normal(size=(1500, 3))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    centre, radius_mm, step_mm = np.array([3.0, -4.0, 6.0]), 11.0, 1.5  # x, y, z
    points = torch.tensor(centre + radius_mm * unit, dtype=torch.float32)[None]
    normals = torch.tensor(unit * 4 * np.pi * radius_mm**2 / 1500, dtype=torch.float32)[None]
    low = torch.tensor([-21.0, -24.0, -10.5])
    shape = (23, 27, 30)
    solved = indicator(points, normals, low, shape, step_mm)[0].numpy()
    k, j, i = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    distance = np.linalg.norm(low.numpy() + step_mm * np.stack([i, j, k], -1) - centre, axis=-1) - radius_mm
    clear = np.abs(distance) > step_mm
    assert (np.sign(solved) == np.sign(distance))[clear].all()


def test_a_look_gives_probabilities_and_millimetres():
    network = LookNetwork((16, 32)).eval()
    with torch.no_grad():
        network.coordinates.weight.zero_()
        network.coordinates.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    missing, coordinates = look(network, np.zeros((2, 64, 64, 64), np.float32), torch.device("cpu"))
    assert missing.shape == (64, 64, 64) and 0 <= missing.min() <= missing.max() <= 1
    assert coordinates.shape == (32, 32, 32, 3)
    assert np.allclose(coordinates[3, 5, 7], [10.0, -20.0, 30.0], atol=1e-4)


def test_a_pose_is_read_from_coordinates_in_spite_of_a_wrong_patch():
    frame = look_matrix(np.array([5.0, -7.0, 90.0]))
    assert np.allclose((frame @ [31.5, 31.5, 31.5, 1])[:3], [5, -7, 90])  # the middle of 64 voxels
    truth = turned(50, (1, 1, 0), (8, 3, -95))
    truth[:3, :3] *= 0.9
    k, j, i = np.meshgrid(*[np.arange(32)] * 3, indexing="ij")
    lps = (2.0 * np.stack([i, j, k], -1) + 0.5) @ frame[:3, :3].T + frame[:3, 3]
    coordinates = lps @ truth[:3, :3].T + truth[:3, 3]
    radius = np.linalg.norm(lps - [5.0, -7.0, 90.0], axis=-1)
    bone = (np.abs(radius - 75) < 8).astype(np.float32)
    coordinates[(k > 24) & (bone > 0)] += 40.0
    channels = np.stack([bone.repeat(2, 0).repeat(2, 1).repeat(2, 2), np.zeros((64, 64, 64), np.float32)])
    found = similarity_from_look(channels, coordinates, frame)
    assert np.abs((found - truth)[:3, :3]).max() < 0.01
    centre = np.array([5.0, -7.0, 90.0, 1.0])
    assert np.abs((found @ centre - truth @ centre)[:3]).max() < 0.5
    assert np.array_equal(similarity_from_look(channels * 0, coordinates, frame), np.eye(4))  # no bone says nothing
