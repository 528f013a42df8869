"""Stages compiled ahead of time, for devices that need not be there.

XLA compiles for a described topology: the programs are those that would run, and their memory,
bytes and collectives are read off.
"""

import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ez_jax import lowering
from ez_jax.config import Config
from ez_jax.program.stages import Stages
from ez_jax.program.transfer import SMALL, Packed
from ez_jax.types import EnvSpec

COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")
WITH_OPERANDS = ("all-gather", "collective-permute")
"""Whose asynchronous start gives operands and results."""
_BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8}


class Cost(NamedTuple):
    """One stage, a device."""

    stage: str
    flops: float  # as XLA counts, 0 where it does not
    bytes: float  # moved to and from memory, as XLA counts, 0 where it does not
    temporaries: int  # bytes
    arguments: int  # bytes
    collectives: int  # operations
    collective_bytes: int
    compile_s: float


def collectives(text: str) -> tuple[int, int]:
    """Number and bytes of the collectives in the text of a compiled program (HLO).

    Asynchronous ones count where they start, by their results.
    """
    number = size = 0
    for line in text.splitlines():
        found = re.search(rf" = (.*?) ({'|'.join(COLLECTIVES)})(-start)?\(", line)
        if found:
            parts = shapes(found[1])
            if found[3] and found[2] in WITH_OPERANDS:
                parts = [part for part in parts if part[1]]  # scalars are contexts
                parts = parts[len(parts) // 2 :]
            number += 1
            size += sum(_size(kind, shape) for kind, shape in parts)
    return number, size


def shapes(text: str) -> list[tuple[str, str]]:
    """Types and dimensions in the type of a result, a tuple's all."""
    return re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", text)


def _size(kind: str, shape: str) -> int:
    dimensions = [int(d) for d in shape.split(",") if d]
    return _BYTES.get(kind, 1) * int(np.prod(dimensions, dtype=np.int64))


def costs(config: Config, spec: EnvSpec, mesh: Mesh) -> Iterator[Cost]:
    """Compiles the stages of a run on environments of the host: select, record, draw, reanalyse,
    update.

    Args:
      config: of the run, its sizes multiples of the mesh's.
      spec: of the task.
      mesh: over the devices of a topology (`jax.experimental.topologies`).

    Raises:
      ValueError: the sizes cannot be split over the devices.
    """
    with lowering.plain():  # not for the CPU that compiles
        stages = Stages(config, spec, mesh)
        state = placed(stages.abstract, stages.shardings)
        selected = placed(jax.eval_shape(stages.agent.select, state)[1], stages.lane_sharding)
        drawn = placed(jax.eval_shape(stages.agent.draw, state)[1], stages.lane_sharding)
        count = config.env.num_envs

        def lanes(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((count, *shape), dtype, sharding=stages.lane_sharding)

        legal = lanes((spec.num_actions,), bool) if spec.masked else None
        step = Packed(
            lanes(spec.frame_shape, spec.frame_dtype), lanes((len(SMALL),), jnp.float32), legal
        )
        todo = {
            "select": (stages.select, (state,)),
            "record": (stages.record, (state, selected, step)),
            "draw": (stages.draw, (state,)),
            "reanalyse": (stages.reanalyse, (state, drawn)),
            "update": (stages.learn, (state, drawn)),
        }
        if config.reanalyse.mode in ("off", "teacher"):
            del todo["reanalyse"]  # nothing, or a part of the update
        for name, (stage, args) in todo.items():
            yield _compiled(name, stage, args)


def placed(tree: Any, shardings: Any) -> Any:
    """Shapes with their shardings, one for all of them or one each."""
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def _compiled(name: str, stage: Any, args: tuple) -> Cost:
    start = time.perf_counter()
    program = stage.lower(*args).compile()
    seconds = time.perf_counter() - start
    memory, counted = program.memory_analysis(), program.cost_analysis() or {}
    number, size = collectives(program.as_text())
    return Cost(
        name,
        float(counted.get("flops", 0.0)),
        float(counted.get("bytes accessed", 0.0)),
        int(memory.temp_size_in_bytes),
        int(memory.argument_size_in_bytes),
        number,
        size,
        round(seconds, 1),
    )
