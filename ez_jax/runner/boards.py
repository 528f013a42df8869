"""Where people look at curves: TensorBoard, and Weights & Biases where it is asked for.

Both take a run's settings, its scalars, and at the end its result and a video of its first
evaluation game.
"""

import json
import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tensorboardX import SummaryWriter

from ez_jax import hosts

ID = "wandb_id"
"""File of a work directory: the name that a resumed run goes on under."""


class Board(Protocol):
    """Something that shows runs."""

    takes_videos: bool

    def scalars(self, values: Mapping[str, float], updates: int) -> None:
        """Shows finite numbers at so many updates."""

    def result(self, result: Mapping[str, Any], video: Path | None) -> None:
        """Shows what `result.json` holds, and a game."""

    def close(self) -> None:
        """Flushes and closes."""


def open_boards(
    workdir: Path, updates: int, wandb: bool, settings: Mapping[str, Any]
) -> list[Board]:
    """Boards of a run that begins, or goes on after so many updates; none but in process 0.

    Raises:
      ValueError: Weights & Biases is wanted, and is not there or refuses.
    """
    if not hosts.first():
        return []
    boards: list[Board] = [TensorBoard(workdir, settings, updates)]
    if wandb:
        boards.append(WeightsAndBiases(workdir, settings, updates))
    return boards


class TensorBoard:
    """Events in the work directory. Browsers play the video from there: events hold none."""

    takes_videos = False

    def __init__(self, workdir: Path, settings: Mapping[str, Any], updates: int):
        self._writer = SummaryWriter(str(workdir), purge_step=updates + 1)
        self._updates = updates
        if not updates:
            self._writer.add_text("config", _as_text(settings), 0)

    def scalars(self, values: Mapping[str, float], updates: int) -> None:
        self._updates = updates
        for name, value in values.items():
            self._writer.add_scalar(name, value, updates)

    def result(self, result: Mapping[str, Any], video: Path | None) -> None:
        self._writer.add_text("result", _as_text(result), self._updates)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, whose files lie in the work directory too.

    Its own variables say where it goes: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE=offline.
    """

    takes_videos = True

    def __init__(self, workdir: Path, settings: Mapping[str, Any], updates: int):
        wandb = check_wandb()
        name = workdir / ID
        # A run that begins again in an emptied folder is another run.
        if not name.exists() or not updates:
            name.write_text(secrets.token_hex(4) + "\n")
        try:
            self._run = wandb.init(
                dir=workdir,
                id=name.read_text().strip(),
                name=workdir.name,
                config=dict(settings),
                resume="allow",
                reinit="create_new",
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.errors.Error as error:
            raise ValueError(
                f"Weights & Biases: {error}; WANDB_MODE=offline keeps the run here"
            ) from error
        self._video = wandb.Video
        # Lines that a resumed run writes again are the same, and left out.
        logging.getLogger("wandb").setLevel(logging.ERROR)

    def scalars(self, values: Mapping[str, float], updates: int) -> None:
        self._run.log(dict(values), step=updates)

    def result(self, result: Mapping[str, Any], video: Path | None) -> None:
        self._run.summary.update(dict(result))
        if video is not None:
            self._run.log({"evaluation/video": self._video(str(video), format=video.suffix[1:])})

    def close(self) -> None:
        self._run.finish()


def check_wandb() -> Any:
    """The package.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise ValueError(
            f"--wandb needs the extra `wandb`: pip install -e '.[wandb]' ({error})"
        ) from error
    return wandb


def _as_text(values: Mapping[str, Any]) -> str:
    """As Markdown that keeps its lines."""
    return "    " + json.dumps(values, indent=2).replace("\n", "\n    ")
