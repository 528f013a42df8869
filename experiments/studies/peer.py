"""The same networks in PyTorch, timed on this machine: what `benchmark.py` is to be compared with.

    pip install torch
    python experiments/studies/peer.py --output=pytorch.json
    python experiments/benchmark.py --sizes paper --only encode search update --compare pytorch.json

Eager PyTorch at the preset `paper`, as EfficientZero's published implementations run it. A search
is the model's steps alone, without any tree: less than it takes them. An update is augmentation,
unroll, losses, gradient and optimiser, without targets, priorities and diagnostics: a little less
than ours. PyTorch is no dependency of ours.
"""

import copy
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional as F

from ez_jax.presets import PAPER
from ez_jax.runner.provenance import make_folders
from ez_jax.runner.timing import Ceilings, Row, seconds, time_calls, write
from ez_jax.runner.workloads import ACTIONS

NET, K = PAPER.network, PAPER.target.unroll_steps
LATENT = PAPER.env.height // 16
ATOMS = 2 * NET.support + 1


@dataclass(frozen=True)
class Args:
    output: Path | None = None
    """JSON file to write, of the same form as that of benchmark.py."""
    roots: tuple[int, ...] = (1, 8, 64, 256)
    """Images to encode at once, and roots of a search."""
    batches: tuple[int, ...] = (64, 256)
    """Batches of an update."""
    seconds: float = 3.0
    """Time to spend on each row."""
    channels_last: bool = False
    """Images with the channels as the last axis in memory, which the published implementations do
    not do.
    """


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)


class ResBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.first = nn.Sequential(
            conv(inputs, outputs, stride), nn.BatchNorm2d(outputs), nn.ReLU()
        )
        self.second = nn.Sequential(conv(outputs, outputs), nn.BatchNorm2d(outputs))
        self.skip = conv(inputs, outputs, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.skip(x))


def features() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(NET.channels, NET.head_channels, 1),
        nn.BatchNorm2d(NET.head_channels),
        nn.ReLU(),
        nn.Flatten(),
    )


def mlp(*widths: int) -> nn.Sequential:
    hidden = [
        nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())
        for a, b in itertools.pairwise(widths[:-1])
    ]
    return nn.Sequential(*hidden, nn.Linear(*widths[-2:]))


class Network(nn.Module):
    """EfficientZero's model, the sizes of the paper."""

    def __init__(self):
        super().__init__()
        c, flat = NET.channels, NET.head_channels * LATENT**2
        self.representation = nn.Sequential(
            conv(3 * PAPER.env.stack, c // 2, 2),
            nn.BatchNorm2d(c // 2),
            nn.ReLU(),
            ResBlock(c // 2, c // 2),
            ResBlock(c // 2, c, 2),
            ResBlock(c, c),
            nn.AvgPool2d(3, 2, 1),
            ResBlock(c, c),
            nn.AvgPool2d(3, 2, 1),
            ResBlock(c, c),
        )
        self.transition = nn.Sequential(conv(c + 1, c), nn.BatchNorm2d(c))
        self.dynamics, self.trunk = ResBlock(c, c), ResBlock(c, c)
        self.prefix_features, self.value_features, self.policy_features = (
            features(),
            features(),
            features(),
        )
        self.lstm = nn.LSTM(flat, NET.lstm)
        self.prefix_norm = nn.Sequential(nn.BatchNorm1d(NET.lstm), nn.ReLU())
        self.prefix_head = mlp(NET.lstm, NET.head_hidden, ATOMS)
        self.value_head, self.policy_head = (
            mlp(flat, NET.head_hidden, ATOMS),
            mlp(flat, NET.head_hidden, ACTIONS),
        )
        p = NET.projection
        self.projector = nn.Sequential(nn.Flatten(), mlp(c * LATENT**2, p, p, p), nn.BatchNorm1d(p))
        self.predictor = mlp(p, NET.predictor, p)

    def predict(self, state: Tensor) -> tuple[Tensor, Tensor]:
        x = self.trunk(state)
        return self.value_head(self.value_features(x)), self.policy_head(self.policy_features(x))

    def advance(self, state: Tensor, action: Tensor) -> Tensor:
        plane = (action / ACTIONS)[:, None, None, None].expand(-1, 1, *state.shape[2:])
        return self.dynamics(F.relu(self.transition(torch.cat([state, plane], 1)) + state))

    def prefix(
        self, state: Tensor, memory: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        x, memory = self.lstm(self.prefix_features(state)[None], memory)
        return self.prefix_head(self.prefix_norm(x[0])), memory


def memory(batch: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(1, batch, NET.lstm), torch.zeros(1, batch, NET.lstm)


@torch.no_grad()
def model_steps(net: Network, state: Tensor, simulations: int) -> Tensor:
    """What a search asks of the model."""
    held = memory(len(state))
    action = torch.zeros(len(state))
    for _ in range(simulations):
        state = net.advance(state, action)
        logits, held = net.prefix(state, held)
        value, policy = net.predict(state)
        # A search reads scalars and priors on the host.
        atoms = torch.arange(ATOMS) - NET.support
        _ = (
            (value.softmax(-1) @ atoms.float()).numpy(),
            (logits.softmax(-1) @ atoms.float()).numpy(),
            policy.numpy(),
        )
    return state


def augmented(frames: Tensor) -> Tensor:
    """Random shift and intensity of bytes `[B, F, 3, H, W]`, to images `[B, F * 3, H, W]`."""
    size, pad = frames.shape[-1], PAPER.loss.shift
    padded = F.pad(frames.flatten(1, 2).float() / 255, (pad, pad, pad, pad), mode="replicate")
    offsets = torch.randint(0, 2 * pad + 1, (len(frames), 2)).tolist()
    shifted = torch.stack([x[:, i : i + size, j : j + size] for x, (i, j) in zip(padded, offsets)])
    return shifted * (1 + PAPER.loss.intensity * torch.randn(len(frames), 1, 1, 1).clamp(-2, 2))


def update(
    net: Network,
    optimizer: torch.optim.Optimizer,
    frames: Tensor,
    targets: Tensor,
    policies: Tensor,
) -> Tensor:
    """One update with all losses, on frames `[B, stack + K, 3, H, W]` (bytes) and distributions as
    targets.
    """
    stack = 3 * PAPER.env.stack
    first, later = augmented(frames[:, : PAPER.env.stack]), augmented(frames[:, 1:])
    # Slices along the channels lose the memory format.
    layout = (
        torch.channels_last
        if net.transition[0].weight.is_contiguous(memory_format=torch.channels_last)
        else (torch.contiguous_format)
    )

    def target(k: int) -> Tensor:
        return later[:, 3 * k : 3 * k + stack].contiguous(memory_format=layout)

    def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
        return -(target * logits.log_softmax(-1)).sum(-1)

    state, held, action = (
        net.representation(first.contiguous(memory_format=layout)),
        memory(len(frames)),
        torch.zeros(len(frames)),
    )
    value, policy = net.predict(state)
    loss = 0.25 * cross_entropy(value, targets) + cross_entropy(policy, policies)
    for k in range(K):
        state = net.advance(state, action)
        state.register_hook(lambda g: g / 2)
        logits, held = net.prefix(state, held)
        value, policy = net.predict(state)
        with torch.no_grad():
            encoded = net.representation(target(k))
            net.predict(encoded)
            projection = net.projector(encoded)
        similarity = F.cosine_similarity(net.predictor(net.projector(state)), projection)
        loss = (
            loss
            + 0.25 * cross_entropy(value, targets)
            + cross_entropy(policy, policies)
            + cross_entropy(logits, targets)
        )
        loss = loss - 2 * similarity
    optimizer.zero_grad()
    (loss.mean() / K).backward()
    nn.utils.clip_grad_norm_(net.parameters(), PAPER.optimizer.clip_norm)
    optimizer.step()
    return loss


def rows(args: Args) -> Iterator[Row]:
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    net = Network().to(memory_format=layout)

    def row(name: str, fn: Callable) -> Row:
        minimum, median, runs = time_calls(fn, (), args.seconds)
        return Row("paper", name, median, minimum, runs, 0.0, 0.0, 0, 0.0)

    inference = copy.deepcopy(net).eval()
    for roots in args.roots:
        shape = roots, 3 * PAPER.env.stack, PAPER.env.height, PAPER.env.width
        images = torch.randint(0, 256, shape, dtype=torch.uint8).contiguous(memory_format=layout)
        with torch.no_grad():
            yield row(f"encode {roots}", lambda: inference.representation(images.float() / 255))
            state = inference.representation(images.float() / 255)
        yield row(
            f"search {roots} x {PAPER.search.num_simulations}",
            lambda: model_steps(inference, state, PAPER.search.num_simulations),
        )
    # A rate of zero: on random data the same numbers again and again, and the same work.
    chosen = PAPER.optimizer
    optimizer = torch.optim.SGD(
        net.parameters(), 0.0, momentum=chosen.momentum, weight_decay=chosen.weight_decay
    )
    for size in args.batches:
        frames = torch.randint(
            0,
            256,
            (size, PAPER.env.stack + K, 3, PAPER.env.height, PAPER.env.width),
            dtype=torch.uint8,
        )
        targets, policies = (
            torch.rand(size, ATOMS).softmax(-1),
            torch.rand(size, ACTIONS).softmax(-1),
        )
        yield row(f"update {size}", lambda: update(net, optimizer, frames, targets, policies))


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(Args, args=argv, description=__doc__)
    try:
        make_folders(args.output)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    torch.set_flush_denormal(True)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    matmul = max(
        2 * n**3 / time_calls(lambda a: a @ a, (torch.rand(n, n),), 1.0)[0]
        for n in (1024, 2048, 4096)
    )
    print(f"PyTorch {torch.__version__}, matmul {matmul / 1e9:.0f} GFLOP/s", flush=True)
    found = []
    for row in rows(args):
        found.append(row)
        print(f"{row.name}: {seconds(row.minimum_s)}", flush=True)
        write(args.output, Ceilings(matmul, 0.0, 0.0), found, torch=torch.__version__)
    return 0


if __name__ == "__main__":
    sys.exit(main())
