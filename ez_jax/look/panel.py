"""What the model believes, drawn beside each frame of a video: values, policies, the score."""

import jax
import numpy as np
from PIL import Image, ImageDraw

from ez_jax.actions import Actions, Continuous
from ez_jax.look.game import Game

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels."""
INK, FAINT, NETWORK, SEARCH = (30, 30, 30), (190, 190, 190), (31, 119, 180), (255, 127, 14)
WIDTH, EDGE, LINE = 200, 6, 12


class Panel:
    """Draws panels for the frames of a game.

    On top the step and the score, then the values so far of the network (blue) and of the search
    (orange) over the returns that came (grey), below the policy before (blue) and after the search
    (orange) with the action taken marked; of vectors the mean and deviation of each entry, with the
    entry of the action.
    """

    def __init__(self, game: Game, actions: Actions):
        self._game, self._actions = game, actions
        self._score = np.concatenate([[0.0], np.cumsum(game.score)])
        values = np.concatenate([game.returns, game.network_value, game.search_value])
        self._low, self._high = float(values.min()), float(max(values.max(), values.min() + 1e-3))

    def __call__(self, step: int, height: int) -> np.ndarray:
        """The panel beside observation `step`, of the last one too: `[height, WIDTH, 3]` bytes."""
        image = Image.new("RGB", (WIDTH, height), "white")
        draw = ImageDraw.Draw(image)
        draw.text((EDGE, EDGE // 2), f"step {step}   score {self._score[step]:g}", fill=INK)
        middle = LINE + EDGE + (height - LINE) // 2
        self._values(draw, step, (EDGE, LINE + EDGE, WIDTH - EDGE, middle - EDGE))
        if step < len(self._game.action):
            box = (EDGE, middle + EDGE, WIDTH - EDGE, height - EDGE)
            if isinstance(self._actions, Continuous):
                self._vector(draw, step, box)
            else:
                self._bars(draw, step, box)
        return np.asarray(image)

    def _values(self, draw: ImageDraw.ImageDraw, step: int, box: Box) -> None:
        left, top, right, bottom = box
        bottom -= LINE
        game = self._game

        def points(values: np.ndarray) -> list[tuple[float, float]]:
            x = left + (right - left) * np.arange(len(values)) / max(len(game.returns) - 1, 1)
            y = bottom - (bottom - top) * (values - self._low) / (self._high - self._low)
            return list(zip(x.tolist(), y.tolist()))

        for values, colour in (
            (game.returns, FAINT),
            (game.network_value[: step + 1], NETWORK),
            (game.search_value[: step + 1], SEARCH),
        ):
            draw.line(points(values), fill=colour, width=1)
        now = min(step, len(game.returns) - 1)
        network, search = game.network_value[now], game.search_value[now]
        draw.text((left, bottom + 1), f"value {network:.2f}", fill=NETWORK)
        draw.text((left + WIDTH // 2, bottom + 1), f"search {search:.2f}", fill=SEARCH)

    def _bars(self, draw: ImageDraw.ImageDraw, step: int, box: Box) -> None:
        left, top, right, bottom = box
        bottom -= LINE
        before = np.asarray(jax.nn.softmax(self._game.policy[step]))
        after, taken = self._game.target[step], int(self._game.action[step])
        room = (right - left) / len(before)
        for action, pair in enumerate(zip(before, after)):
            x = left + action * room
            for i, (share, colour) in enumerate(zip(pair, (NETWORK, SEARCH))):
                start = x + (0.1 + 0.4 * i) * room
                end = start + max(0.4 * room - 1, 1)
                y = bottom - (bottom - top) * float(share)
                draw.rectangle((start, min(y, bottom - 1), end, bottom), fill=colour)
            if action == taken:
                draw.rectangle((x, top, x + room - 1, bottom + LINE), outline=INK)
            if room >= LINE:
                draw.text((x + room / 2 - 3, bottom + 1), str(action), fill=INK)

    def _vector(self, draw: ImageDraw.ImageDraw, step: int, box: Box) -> None:
        left, top, right, bottom = box
        assert isinstance(self._actions, Continuous)
        mean, deviation = map(np.asarray, self._actions.gaussian(self._game.policy[step]))
        taken = self._game.action[step]
        room = (bottom - top) / len(mean)

        def x(entry: float) -> float:
            return left + (right - left) * (entry + 1) / 2

        for i in range(len(mean)):
            y = top + (i + 0.5) * room
            draw.line((left, y, right, y), fill=FAINT)
            ends = np.tanh([mean[i] - deviation[i], mean[i], mean[i] + deviation[i]])
            draw.line((x(ends[0]), y, x(ends[2]), y), fill=NETWORK, width=3)
            draw.line((x(ends[1]), y - 4, x(ends[1]), y + 4), fill=NETWORK, width=2)
            draw.line((x(taken[i]), y - 4, x(taken[i]), y + 4), fill=SEARCH, width=2)
