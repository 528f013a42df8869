"""Will a run fit a pod, and how long will it take? Compiled here for devices that are not here.

    pip install -e ".[plan]"
    python experiments/plan.py --target=tpu:v5e:2x4 --preset=paper
    python experiments/plan.py --target=tpu:v4:2x2x2 --preset=v2 --output=plan.json
    python experiments/plan.py --target=gpu:h100:8 --preset=paper
    python experiments/plan.py --target=tpu:v5e:2x4 --network.dtype=bfloat16
    python experiments/plan.py --target=here --preset=cpu

The real compiler of the chip compiles every stage for the topology: memory, bytes (not of GPUs) and
collectives are its own; FLOP are counted from the network. The time is a roofline: a stage takes
as long as its arithmetic or its memory traffic, whichever is longer, and its collectives the
bandwidth between chips. What a chip really reaches is less.
"""

import importlib.util
import math
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from ez_jax.cli import option
from ez_jax.config import Config, EnvConfig, replace, to_dict, validate
from ez_jax.presets import ATARI_PRESETS, PAPER


class Chip(NamedTuple):
    """Published figures of a chip."""

    flops: float  # a second, in the precision that matrix products of float32 have by default
    memory: float  # bytes
    bandwidth: float  # bytes a second
    link: float  # bytes a second, to its neighbours
    per_host: tuple[int, ...]  # chips of a host


# Cloud TPU documentation, system architecture, November 2026: bfloat16 FLOP, HBM, ICI.
CHIPS = {
    "tpu:v4": Chip(275e12, 32e9, 1.228e12, 300e9, (2, 2, 1)),
    "tpu:v5e": Chip(197e12, 16e9, 0.819e12, 200e9, (2, 2, 1)),
    "tpu:v5p": Chip(459e12, 95e9, 2.765e12, 600e9, (2, 2, 1)),
    "tpu:v6e": Chip(918e12, 32e9, 1.64e12, 400e9, (2, 2, 1)),
    # NVIDIA H100 SXM data sheet: TensorFloat-32 without sparsity, HBM3, NVLink.
    "gpu:h100": Chip(495e12, 80e9, 3.352e12, 450e9, (8,)),
}
ACCELERATOR = {"v4": "v4-8", "v5e": "v5litepod-8", "v5p": "v5p-8", "v6e": "v6e-8"}
"""What the library must be told before it describes a topology."""

# The description that XLA asks for, from its own specification of this GPU.
H100 = """
gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
registers_per_block_limit: 65536 } platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 8 } device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclass(frozen=True)
class Args:
    target: str = "tpu:v5e:2x4"
    """tpu:<v4, v5e, v5p or v6e>:<topology>, gpu:h100:<devices> or gpu:h100:<hosts>x<devices>, or
    `here` for this machine's devices.
    """
    preset: str = "paper"
    """Settings of atari100k.py: paper, v2, cpu or debug."""
    game: str = "Pong"
    """The task."""
    output: Path | None = None
    """JSON file to write."""
    config: Annotated[tyro.conf.FlagConversionOff[Config], tyro.conf.arg(name="")] = field(
        default_factory=Config
    )


def fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    kind, _, topology = option(argv, "target", Args.target).rpartition(":")
    if kind in CHIPS:
        missing = prepare(kind)
        if missing:
            return fail(f'{missing} is missing: pip install -e ".[plan]"')
    preset = ATARI_PRESETS.get(option(argv, "preset", Args.preset), PAPER)
    args = tyro.cli(Args, args=argv, default=Args(config=preset), description=__doc__)
    if kind not in CHIPS and args.target != "here":
        return fail(
            f"unknown target {args.target!r}: here, or one of {', '.join(CHIPS)} and a topology, "
            "e.g. tpu:v5e:2x4"
        )
    if args.preset not in ATARI_PRESETS:
        return fail(f"unknown preset {args.preset!r}: there are {', '.join(ATARI_PRESETS)}")
    from ez_jax.envs import check_task
    from ez_jax.program.stages import check_divisible
    from ez_jax.runner.provenance import make_folders

    try:
        check_task(EnvConfig(id=f"{args.game}-v5"))
        validate(args.config)
        make_folders(args.output)
        chip, devices = find(args.target, kind, topology)
        config = sized(args.config, len(devices), f"{args.game}-v5")
        validate(config)
        check_divisible(config, len(devices))
    except (ValueError, OSError) as error:
        return fail(str(error))
    return report(args, config, chip, devices)


def sized(config: Config, devices: int, task: str) -> Config:
    """With as many environments as there are devices, or a multiple; updates keep their ratio."""
    envs = math.lcm(config.env.num_envs, devices)
    updates = config.cycle.updates_per_act * envs // config.env.num_envs
    return replace(config, env__id=task, env__num_envs=envs, cycle__updates_per_act=updates)


def prepare(kind: str) -> str:
    """Sets what the compiler of a chip reads when it is loaded; says what is missing."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if kind.startswith("tpu:"):
        if importlib.util.find_spec("libtpu") is None:
            return "the compiler of TPUs"
        os.environ |= {
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # it takes no chip
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": ACCELERATOR[kind.removeprefix("tpu:")],
            "TPU_WORKER_HOSTNAMES": "localhost",
        }
        return ""
    nvidia = importlib.util.find_spec("nvidia")
    folders = [Path(path) for path in (nvidia.submodule_search_locations or [])] if nvidia else []
    tools = [path / "cuda_nvcc" for path in folders if (path / "cuda_nvcc" / "nvvm").exists()]
    if importlib.util.find_spec("jax_cuda12_plugin") is None or not tools:
        return "the compiler of NVIDIA's GPUs"
    # Without a GPU nothing can be timed, and programs are compiled by rule.
    flags = "--xla_gpu_enable_triton_gemm=false --xla_gpu_autotune_level=0"
    before = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{before} {flags} --xla_gpu_cuda_data_dir={tools[0]}"
    return ""


def find(target: str, kind: str, topology: str) -> tuple[Chip, list]:
    """The chip and the devices of a target.

    Raises:
      ValueError: there is no such topology.
    """
    import jax
    from jax.experimental import topologies

    if target == "here":
        from ez_jax.runner.timing import ceilings

        found = ceilings()
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        chip = Chip(found.matmul_flops, memory, found.copy_bytes, math.inf, (1,))
        return chip, jax.devices()
    chip = CHIPS[kind]
    try:
        if kind == "gpu:h100":
            hosts, _, devices = topology.rpartition("x")
            described = topologies.get_topology_desc(
                platform="cuda", topology=f"1x{hosts or 1}x{int(devices)}", target_config=H100
            )
        else:
            described = topologies.get_topology_desc(
                platform="tpu",
                topology_name=f"{kind.removeprefix('tpu:')}:{topology}",
                chips_per_host_bounds=list(chip.per_host),
            )
    except Exception as error:  # of XLA's own kinds
        raise ValueError(f"no topology {target}: {str(error).splitlines()[0]}") from error
    devices_found = list(described.devices)
    # A topology of chips with two cores (v4) lists each core as a device.
    chips = math.prod(int(size) for size in topology.split("x"))
    share = max(chips / len(devices_found), 1 / 2)
    figures = (chip.flops, chip.memory, chip.bandwidth, chip.link)
    return Chip(*(figure * share for figure in figures), chip.per_host), devices_found


def report(args: Args, config: Config, chip: Chip, devices: list) -> int:
    """Compiles and prints."""
    import jax
    import numpy as np
    from jax.sharding import AxisType, Mesh

    from ez_jax.envs import describe
    from ez_jax.program import ahead
    from ez_jax.runner import spending
    from ez_jax.runner.provenance import write_result

    count, envs = len(devices), config.env.num_envs
    spec = describe(config.env, config.env.stack).spec
    axes = (AxisType.Auto,)
    mesh = Mesh(np.array(devices), ("data",), axis_types=axes)
    hosts = len({device.process_index for device in devices})
    print(f"{args.preset} on {args.target}: {count} devices on {hosts} hosts, {envs} environments")
    work = spending.of_config(config, spec)
    acts = (config.env_steps - config.cycle.warmup_steps) // envs
    apart = config.reanalyse.mode in ("sampled", "oldest")  # reanalysis is a stage of its own
    flops = {
        "select": work.act,
        "reanalyse": work.reanalysis,
        "update": work.update - (work.reanalysis if apart else 0.0),
    }
    runs = {"select": acts, "record": acts}
    print("| stage, a device | FLOP | bytes | temporaries | collectives | roofline | compiled in |")
    print("|---|---|---|---|---|---|---|")
    rows, total = [], 0.0
    for cost in ahead.costs(config, spec, mesh):
        share = flops.get(cost.stage, 0.0) / count
        link = cost.collective_bytes / chip.link
        seconds = max(share / chip.flops, cost.bytes / chip.bandwidth) + link
        total += seconds * runs.get(cost.stage, config.total_updates)
        rows.append(cost._asdict() | {"share": share, "roofline_s": seconds})
        amount = f"{cost.bytes:.2g}" if cost.bytes else "-"
        print(
            f"| {cost.stage} | {share:.2g} | {amount} | {cost.temporaries / 2**20:.0f} MiB "
            f"| {cost.collectives}, {cost.collective_bytes / 2**20:.2g} MiB | {1e3 * seconds:.2g} "
            f"ms | {cost.compile_s:.0f} s |",
            flush=True,
        )
    held = max(row["arguments"] for row in rows)
    used = held + max(row["temporaries"] for row in rows)
    seeds = int(chip.memory * 0.9 // used)
    print(
        f"memory: {used / 1e9:.2f} of {chip.memory / 1e9:.0f} GB a device, {held / 1e9:.2f} of "
        f"them the state with its share of replay; {seeds} seeds at once would fill it\n"
        f"{config.env_steps:,} steps, {config.total_updates:,} updates: {total / 3600:.2f} hours "
        "at the roofline"
    )
    found = {
        "target": args.target,
        "preset": args.preset,
        "devices": count,
        "hosts": hosts,
        "config": to_dict(config),
        "stages": rows,
        "memory_bytes": used,
        "seeds": seeds,
        "hours": float(f"{total / 3600:.4g}"),
        "chip": chip._asdict(),
        "compiler": jax.__version__,
    }
    write_result(args.output, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
