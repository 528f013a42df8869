"""Costs of a compiled program: time, work, memory, compilation, beside the machine's ceilings."""

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from ez_jax import lowering
from ez_jax.runner.provenance import software, write_result
from ez_jax.runner.spending import count_flops


class Ceilings(NamedTuple):
    """The best that plain programs reach here."""

    matmul_flops: float  # per second, float32
    bfloat16_flops: float  # per second
    copy_bytes: float  # per second, read and written in place, of an array that no cache holds


class Work(NamedTuple):
    """What a program has to do, as the plain lowering counts it."""

    flops: float
    bytes: float  # moved by the plain program once compiled, as XLA counts

    def __add__(self, other: "Work") -> "Work":  # type: ignore[override]  # a sum, no longer tuple
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def times(self, count: float) -> "Work":
        return Work(self.flops * count, self.bytes * count)


class Row(NamedTuple):
    """One measured program."""

    size: str  # of the networks: the preset
    name: str
    median_s: float
    minimum_s: float
    runs: int
    flops: float = 0.0  # 0 where there is nothing to count
    bytes: float = 0.0
    memory_bytes: int = 0  # arguments, results and temporaries; 0 where unknown
    compile_s: float = 0.0


def ceilings() -> Ceilings:
    """Measures the machine."""

    def matmul(size: int, dtype: Any) -> float:
        x = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
        return 2 * size**3 / time_calls(lowering.jit(lambda a, b: a @ b), (x, x), 1.0)[0]

    sizes = (1024, 2048, 4096) if jax.default_backend() == "cpu" else (4096, 8192, 16384)
    # In place, since fresh memory costs a page fault each 4 kB; several times in one program, since
    # a single pass may return early.
    passes, held = 8, [jnp.zeros(2**28 if jax.default_backend() != "cpu" else 2**26)]
    add = lowering.jit(
        lambda x: jax.lax.fori_loop(0, passes, lambda _, y: y + 1, x), donate_argnums=0
    )

    def copy() -> jax.Array:
        held[0] = add(held[0])
        return held[0][0]

    copied = 2 * held[0].nbytes * passes / time_calls(copy, (), 1.0)[0]
    # Emulated on most CPUs: one small product tells enough.
    half = max(
        matmul(size, jnp.bfloat16)
        for size in (sizes if jax.default_backend() != "cpu" else (1024,))
    )
    return Ceilings(max(matmul(size, jnp.float32) for size in sizes), half, copied)


def time_calls(
    fn: Callable, args: tuple, budget_s: float, least: int = 3, most: int = 200
) -> tuple[float, float, int]:
    """Minimum and median seconds of `fn(*args)` and the number of runs: as many as the budget
    allows, after one to warm up.
    """
    jax.block_until_ready(fn(*args))
    times: list[float] = []
    while len(times) < least or (sum(times) < budget_s and len(times) < most):
        start = time.perf_counter()
        jax.block_until_ready(fn(*args))
        times.append(time.perf_counter() - start)
    return min(times), float(np.median(times)), len(times)


def count_work(fn: Callable, *args: Any) -> Work:
    """Operations, and bytes of the compiled program, both of the plain lowering: a loop counts
    once.
    """
    options = lowering.compiler_options()
    with lowering.plain():
        lowered = jax.jit(lambda *a: fn(*a), compiler_options=options).lower(*args)
    moved: Any = lowered.compile().cost_analysis()
    moved = moved[0] if isinstance(moved, list) else moved
    return Work(count_flops(fn, *args), float((moved or {}).get("bytes accessed", 0.0)))


def measure(
    size: str,
    name: str,
    fn: Callable,
    args: tuple,
    work: Work | None = None,
    budget_s: float = 3.0,
    little_memory: bool = False,
) -> Row:
    """Compiles and times a pure function.

    Args:
      size: of the networks, for the row.
      name: for the row.
      fn: jittable.
      args: its arguments.
      work: where `count_work` cannot tell, because of loops.
      budget_s: seconds to spend on timing.
      little_memory: see `lowering.jit`.
    """
    work = work or count_work(fn, *args)
    start = time.perf_counter()
    jitted: Any = lowering.jit(fn, little_memory=little_memory)
    compiled = jitted.lower(*args).compile()
    compile_s = time.perf_counter() - start
    minimum, median, runs = time_calls(compiled, args, budget_s)
    memory = compiled.memory_analysis()
    total = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return Row(size, name, median, minimum, runs, work.flops, work.bytes, total, compile_s)


def peak_memory() -> dict[str, float]:
    """Largest memory so far, in GB: of this process, and of the first accelerator."""
    stats = jax.devices()[0].memory_stats() or {}
    peak = {"process_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}
    return peak | (
        {"device_gb": stats["peak_bytes_in_use"] / 1e9} if "peak_bytes_in_use" in stats else {}
    )


def write(path: Path | None, found: Ceilings, rows: list[Row], **versions: str) -> None:
    """One JSON file: the machine, the versions (of other packages too), the command, and a dict for
    each row.
    """
    if path is None:
        return
    content = {
        "versions": software()["versions"] | versions,
        "ceilings": found._asdict(),
        "peak_memory": peak_memory(),
        "rows": [r._asdict() for r in rows],
    }
    write_result(path, content)


def read(path: Path) -> tuple[Ceilings, list[Row]]:
    """The inverse of `write`."""
    content = json.loads(path.read_text())
    return Ceilings(**content["ceilings"]), [Row(**row) for row in content["rows"]]


def seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def table(rows: list[Row], found: Ceilings, old: tuple[Ceilings, list[Row]] | None) -> Table:
    """The rows, and with an earlier run how many times faster each is: bare, and relative to the
    matmul rate of its own run.
    """
    rates = f"{found.matmul_flops / 1e9:.0f} GFLOP/s, {found.copy_bytes / 1e9:.1f} GB/s"
    out = Table(title=f"matmul and copy: {rates}")
    for name in ("size", "stage", "median", "minimum", "GFLOP", "share", "memory", "compiled in"):
        out.add_column(name, justify="left" if name in ("size", "stage") else "right")
    before = {(r.size, r.name): r for r in old[1]} if old else {}
    if old:
        out.add_column("faster", justify="right")
        out.add_column("share x", justify="right")
    for r in rows:
        share = r.flops / r.minimum_s / found.matmul_flops
        cells = [
            r.size,
            r.name,
            seconds(r.median_s),
            seconds(r.minimum_s),
            f"{r.flops / 1e9:.3g}" if r.flops else "",
            f"{share:.0%}" if r.flops else "",
            f"{r.memory_bytes / 1e6:.0f} MB" if r.memory_bytes else "",
            f"{r.compile_s:.1f} s" if r.compile_s else "",
        ]
        if old:
            cells += ["", ""]
            if was := before.get((r.size, r.name)):
                ratio = was.minimum_s / r.minimum_s
                relative = ratio * old[0].matmul_flops / found.matmul_flops
                cells[-2:] = [f"{ratio:.2f}", f"{relative:.2f}"]
        out.add_row(*cells)
    return out


def roofline(path: Path, rows: list[Row], found: Ceilings) -> None:
    """Rate against operations for each byte moved, under the machine's two ceilings."""
    figure = Figure(figsize=(7, 4.5))  # not of pyplot, which would choose a backend
    axes = figure.subplots()
    x = np.logspace(-1, 4, 100)
    axes.plot(
        x, np.minimum(found.matmul_flops, x * found.copy_bytes) / 1e9, color="black", linewidth=1
    )
    for i, size in enumerate(dict.fromkeys(r.size for r in rows)):
        for kind, marker in zip(("encode", "search", "act", "update"), "os^D"):
            mine = [r for r in rows if r.size == size and r.name.split()[0] == kind and r.bytes]
            axes.plot(
                [r.flops / r.bytes for r in mine],
                [r.flops / r.minimum_s / 1e9 for r in mine],
                marker,
                color=f"C{i}",
                markersize=5,
                label=f"{size}: {kind}" if mine else None,
                linestyle="none",
                alpha=0.7,
            )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="operations per byte that XLA counts",
        ylabel="GFLOP/s",
        title=f"{jax.devices()[0].device_kind}: {found.matmul_flops / 1e9:.0f} GFLOP/s, "
        f"{found.copy_bytes / 1e9:.1f} GB/s",
    )
    if axes.get_legend_handles_labels()[0]:  # no row at all of these kinds: nothing to name
        axes.legend(fontsize=6, ncols=3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
