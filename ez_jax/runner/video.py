"""A game as a video: its actions played again, in frames that people can see."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ez_jax.config import Config
from ez_jax.envs import Environments, EnvPool, describe, is_atari, make
from ez_jax.envs.seeds import evaluation_seeds

VIDEOS = (".mp4", ".gif", ".mkv", ".avi", ".mov")
"""Suffixes that tell the format."""
LEAST = 160
"""Pixels a side at least: smaller frames are enlarged by whole factors."""
FPS = 15.0


def check_video(config: Config, path: Path) -> None:
    """Checks that there is something to show and that it can be written; makes the folder.

    Raises:
      ValueError: the task has no frames to show, or the file no name that tells its format.
    """
    if not shows_frames(config):
        raise ValueError(f"{config.env.id} has no images of bytes: there are no frames to show")
    if path.suffix not in VIDEOS:
        raise ValueError(f"the name of a video ends in {', '.join(VIDEOS)}, not as {path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make {path.parent}: {error.strerror}") from error


def shows_frames(config: Config) -> bool:
    """Whether the task has frames to show: images of bytes, grey or in colour."""
    spec = describe(config.env, config.env.stack).spec
    image = len(spec.frame_shape) == 3 and spec.frame_shape[-1] in (1, 3)
    return image and np.dtype(spec.frame_dtype) == np.uint8


def record_video(
    config: Config,
    actions: list[np.ndarray],
    path: Path,
    beside: Callable[[int, int], np.ndarray] | None = None,
) -> None:
    """Plays the first evaluation episode's actions again and writes it as a video.

    Frames of Atari are in the game's own resolution, others are the observations, enlarged.

    Environments are deterministic for a seed and its actions, whatever the size of the frames.

    Args:
      config: of the run.
      actions: of the game.
      path: of the video.
      beside: makes from a step and a height what is shown on the right: `[height, W, 3]` bytes.
    """
    import imageio.v2 as imageio

    check_video(config, path)
    env: Environments
    if is_atari(config.env.id):
        large = dict(img_height=210, img_width=160, gray_scale=False)
        env = EnvPool(config.env, evaluation_seeds(1), training=False, **large)
    else:
        env = make(config.env, evaluation_seeds(1), training=False)
    # Browsers play each image of a GIF for its duration in milliseconds.
    options: dict[str, Any] = dict(fps=FPS, macro_block_size=2)
    if path.suffix == ".gif":
        options = dict(duration=1000 / FPS, loop=0)
    writer: Any = imageio.get_writer(path, **options)
    with writer as video:
        timestep = env.reset()
        for step in range(len(actions) + 1):
            shown = enlarged(np.asarray(timestep.frame[0]))
            if beside is not None:
                shown = np.concatenate([shown, beside(step, len(shown))], axis=1)
            video.append_data(shown)
            if step < len(actions):
                timestep = env.step(np.asarray(actions[step])[None])


def enlarged(frame: np.ndarray) -> np.ndarray:
    """A frame `[H, W, 1 or 3]` of bytes, `LEAST` pixels a side at least, in colour."""
    factor = -(-LEAST // min(frame.shape[:2]))
    grown = frame.repeat(factor, axis=0).repeat(factor, axis=1)
    return np.broadcast_to(grown, (*grown.shape[:2], 3))
