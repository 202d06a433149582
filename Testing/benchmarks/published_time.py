"""One generated shape by the bundled model and by the published configuration (random weights): seconds, memory, ratio.

    python Testing/benchmarks/published_time.py [--category kidney] [--threads 1] [--share 1] [--repeats 3]

The published sizes are those of Zhang et al. 2026 (arXiv 2603.07504) for organs: a diffusion transformer of 24 blocks, 256
latent points of 16 numbers, 20 Heun steps with guidance in the corrector alone (58 evaluations); a decoder of 16 latent
blocks and 16 query layers, asked at 30 % of a 100^3 grid. It is built here anew from its layer sizes, with the latents' keys
and values computed once per shape, which is kinder than the original. What is not timed: loading, and for the published one
also meshing. Each part runs in a process of its own, one after the other; `processor s` is the time that was really worked, and
the right figure where other programs share the machine.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "MedShapeGen")]

from MedShapeGenLib.decoder import attention  # noqa: E402

POINTS, CHANNELS = 256, 16
WIDTHS = (64, 256, 256, 256, 512)  # before and after the first four blocks or layers; all later ones keep 512
STEPS, EVALUATIONS, SIGMA_DATA, WEIGHT, CLASSES = 20, 58, 0.5, 2.0, 14
QUERIES = 300_000  # 30 % of a 100^3 grid
CHUNK = 8192  # queries at once; more is slower on a processor
PUBLISHED = {"diffusion": 159.7, "decoder": 70.5 - 1.9}  # millions of parameters, less the class gates that are never called


class Gate(nn.Module):
    """x (1 + Linear(c)) + Linear(c): how time and class enter a block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Linear(128, width), nn.Linear(128, width, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return x * (1 + self.scale(condition)[:, None]) + self.shift(condition)[:, None]


class DiffusionBlock(nn.Module):
    """Pre-norm attention of 8 heads x 64, gates of time and class, MLP with two hidden layers of four times the width."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(before), nn.LayerNorm(before)])
        self.qkv, self.out = nn.Linear(before, 3 * 512), nn.Linear(512, before)
        self.gates = nn.ModuleList([Gate(before), Gate(before)])
        hidden = 4 * before
        self.mlp = nn.Sequential(nn.Linear(before, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
                                 nn.Linear(hidden, width), nn.GELU())  # fmt: skip
        self.skip = nn.Identity() if before == width else nn.Linear(before, width)

    def forward(self, x: Tensor, conditions: list[Tensor]) -> Tensor:
        x = x + self.out(attention(self.qkv(self.norms[0](x)), 8))
        for gate, condition in zip(self.gates, conditions, strict=False):  # without a class only the gate of time
            x = gate(x, condition)
        return self.skip(x) + self.mlp(self.norms[1](x))


class Diffusion(nn.Module):
    """The network F of the published EDM diffusion."""

    def __init__(self) -> None:
        super().__init__()
        widths = [*WIDTHS, *[512] * 20]
        self.embed, self.answer = nn.Linear(CHANNELS, 64), nn.Linear(512, CHANNELS)
        self.blocks = nn.ModuleList(DiffusionBlock(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.time = nn.Sequential(nn.Linear(32, 128), nn.SiLU(), nn.Linear(128, 128))
        self.category = nn.Sequential(nn.Linear(CLASSES, 64), nn.Linear(64, 128))

    def forward(self, x: Tensor, noise: float, label: Tensor | None) -> Tensor:
        angles = noise * 10000.0 ** -(torch.arange(16) / 15)
        conditions = [self.time(torch.cat([angles.sin(), angles.cos()])[None])]
        conditions += [] if label is None else [self.category(label)]
        x = self.embed(x)
        for block in self.blocks:
            x = block(x, conditions)
        return self.answer(x)


def sampled(network: Diffusion, steps: int = STEPS) -> tuple[Tensor, int]:
    """A latent (1, 256, 16) by 20 Heun steps, or the first of them, and how often the network was asked.

    Guidance in the corrector alone, and none in the last step.
    """
    label = nn.functional.one_hot(torch.tensor([0]), CLASSES).float()
    sigmas = [(80 ** (1 / 7) + k / (STEPS - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for k in range(STEPS)] + [0.0]
    asked = 0

    def slope(x: Tensor, sigma: float, weight: float) -> Tensor:
        nonlocal asked
        inputs = (x / math.sqrt(sigma**2 + SIGMA_DATA**2)).float()
        answer = network(inputs, math.log(sigma) / 4, label)
        asked += 1
        if weight:
            answer = (1 + weight) * answer - weight * network(inputs, math.log(sigma) / 4, None)
            asked += 1
        total = sigma**2 + SIGMA_DATA**2
        clean = SIGMA_DATA**2 / total * x + sigma * SIGMA_DATA / math.sqrt(total) * answer.double()
        return (x - clean) / sigma

    x = torch.randn(1, POINTS, CHANNELS, dtype=torch.float64) * sigmas[0]
    for now, then in list(zip(sigmas, sigmas[1:], strict=False))[:steps]:
        first = slope(x, now, 0.0)
        moved = x + (then - now) * first
        x = x + (then - now) * (first + slope(moved, then, WEIGHT)) / 2 if then else moved
    return x.float(), asked


class Cross(nn.Module):
    """Linear, norm, GELU, then attention of 3 heads to the latents with a shortcut; keys and values come from `prepared`."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.head = width // 3
        inner = 3 * self.head
        self.first = nn.Sequential(nn.Linear(before, width), nn.LayerNorm(width), nn.GELU())
        self.query, self.keys = nn.Linear(width, inner, bias=False), nn.Linear(512, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width)

    def prepared(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        key, value = self.keys(latents).view(1, POINTS, 2, 3, self.head).permute(2, 0, 3, 1, 4)
        return key, value

    def forward(self, x: Tensor, key: Tensor, value: Tensor) -> Tensor:
        x = self.first(x)
        query = self.query(x).view(1, -1, 3, self.head).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return x + self.out(mixed.transpose(1, 2).flatten(2))


class LatentBlock(nn.Module):
    """Pre-norm attention of 3 heads x 170 and an MLP of four times the width."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(512), nn.LayerNorm(512)])
        self.qkv, self.out = nn.Linear(512, 3 * 510), nn.Linear(510, 512)
        self.mlp = nn.Sequential(nn.Linear(512, 2048), nn.GELU(), nn.Linear(2048, 512), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.out(attention(self.qkv(self.norms[0](x)), 3))
        return x + self.mlp(self.norms[1](x))


class Decoder(nn.Module):
    """The published decoder: four stages of four latent blocks, then four query layers."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Sequential(nn.Linear(48, 64), nn.GELU(), nn.Linear(64, 64))
        self.embed, self.answer = nn.Linear(CHANNELS, 512), nn.Linear(512, 1)
        widths = [*WIDTHS, *[512] * 12]
        self.queries = nn.ModuleList(Cross(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.latents = nn.ModuleList(LatentBlock() for _ in range(16))

    def prepared(self, latents: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of all query layers, once per shape."""
        x, pairs = self.embed(latents), []
        for number in range(16):
            if number % 4 == 0:
                for block in self.latents[number : number + 4]:
                    x = block(x)
            pairs.append(self.queries[number].prepared(x))
        return pairs

    def forward(self, pairs: list[tuple[Tensor, Tensor]], places: Tensor) -> Tensor:
        angles = (places[..., None] * 10000.0 ** -(torch.arange(8) / 7)).flatten(-2)
        x = self.place(torch.cat([angles.sin(), angles.cos()], -1))
        for layer, pair in zip(self.queries, pairs, strict=True):
            x = layer(x, *pair)
        return self.answer(x)[..., 0]


def published(args: argparse.Namespace) -> dict[str, float]:
    torch.manual_seed(0)
    diffusion, decoder = Diffusion().eval(), Decoder().eval()
    sizes = {name: sum(p.numel() for p in net.parameters()) / 1e6 for name, net in (("diffusion", diffusion), ("decoder", decoder))}
    with torch.inference_mode():
        clock = Clock()
        latents, asked = sampled(diffusion, max(1, round(args.share * STEPS)))
        clock.stop("sampling", EVALUATIONS / asked)
        pairs = decoder.prepared(latents.clamp(-1, 1))
        clock.stop("latent attention")
        chunks = max(1, round(args.share * QUERIES / CHUNK))
        for _ in range(chunks):
            decoder(pairs, torch.rand(1, CHUNK, 3) * 2 - 1)
        clock.stop("decoding", QUERIES / (chunks * CHUNK))
    return clock.figures() | {"million parameters": sum(sizes.values()), "evaluations": EVALUATIONS, "places": QUERIES} | {
        f"{name} of {PUBLISHED[name]} M": round(size, 1) for name, size in sizes.items()}  # fmt: skip


def ours(args: argparse.Namespace) -> dict[str, float]:
    from MedShapeGenLib.generate import sample_shapes
    from MedShapeGenLib.models import load_models
    from MedShapeGenLib.options import GenerateOptions

    models = load_models(torch.device("cpu"))
    rows = []
    for seed in range(args.repeats):
        clock = Clock()
        made = sample_shapes(models, GenerateOptions(category=args.category, count=1, seed=seed, resolution=128))
        clock.stop("all")
        rows.append(clock.figures() | made.seconds | {"places": made.solids[0].figures.evaluated_fraction * 129**3})
    size = sum(p.numel() for net in (models.autoencoder, models.diffusion) for p in net.parameters()) / 1e6
    return {key: sorted(row[key] for row in rows)[len(rows) // 2] for key in rows[0]} | {
        "million parameters": size, "evaluations": 2 * GenerateOptions(category=args.category).steps - 1}  # fmt: skip


class Clock:
    """Wall-clock and processor seconds of stages; a stage of which only a part was run counts `times` as much."""

    def __init__(self) -> None:
        self.last, self.worked = time.perf_counter(), time.process_time()
        self.stages: dict[str, float] = {}
        self.processor = 0.0

    def stop(self, stage: str, times: float = 1.0) -> None:
        now, worked = time.perf_counter(), time.process_time()
        self.stages[stage] = times * (now - self.last)
        self.processor += times * (worked - self.worked)
        self.last, self.worked = now, worked

    def figures(self) -> dict[str, float]:
        return {"seconds": sum(self.stages.values()), "processor s": self.processor, **self.stages,
                "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--category", default="kidney")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="of the published model's work that is run; its time is scaled to all")
    parser.add_argument("--repeats", type=int, default=3, help="shapes of ours; the median counts")
    parser.add_argument("--part", choices=("ours", "published"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.part:
        print(json.dumps({"ours": ours, "published": published}[args.part](args)))
        return
    rows = {}
    for part in ("ours", "published"):
        done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--part", part], capture_output=True, text=True, check=True)
        rows[part] = json.loads(done.stdout.splitlines()[-1])
        print(f"{part:10s} " + ", ".join(f"{name} {value:.4g}" for name, value in rows[part].items()), flush=True)
    for name in ("seconds", "processor s", "peak GB"):
        print(f"{name}: published / ours = {rows['published'][name] / rows['ours'][name]:.1f}")


if __name__ == "__main__":
    main()
