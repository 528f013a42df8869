"""Observations of all kinds as frames, and values that no image can have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ez_jax.config import EnvConfig
from ez_jax.envs import JaxEnvs, register
from ez_jax.envs.checks import check_values
from ez_jax.envs.drawn import Drawn, draw
from ez_jax.envs.functional import Reset, Step
from ez_jax.envs.registry import FUNCTIONAL, make
from ez_jax.observations import check_image, layout, to_frame

RAW = dict(clip_rewards=False, max_episode_steps=0, eval_max_episode_steps=0)


@pytest.mark.parametrize(
    "shape, kind",
    [
        ((84, 84, 3), "channels_last"),
        ((84, 84, 16), "channels_last"),
        ((3, 84, 84), "channels_first"),
        ((1, 16, 16), "channels_first"),
        ((84, 84), "grey"),
        ((10, 5), "vector"),
        ((10, 10, 4), "vector"),
        ((15, 16, 4), "vector"),
        ((8,), "vector"),
        ((), "vector"),
    ],
)
def test_layout(shape, kind):
    assert layout(shape) == kind


def test_channels_that_may_be_first_or_last_are_refused():
    with pytest.raises(ValueError, match=r"shape \[7, 84, 84\] may be images of 7 channels or"):
        layout((7, 84, 84))


@pytest.mark.parametrize("xp", [np, jnp], ids=["numpy", "jax"])
def test_values(xp):
    """Bytes stay, booleans are black and white, floats fill their bounds."""

    def shown(values, dtype, **bounds):
        image = xp.broadcast_to(xp.asarray(values, dtype), (2, 16, 16, len(values)))
        check_image(np.asarray(image), **bounds)
        frame = to_frame(image, **bounds)
        assert frame.dtype == np.uint8 and frame.shape == (2, 16, 16, len(values))
        return np.asarray(frame)[1, 3, 5].tolist()

    assert shown([0, 50, 255], np.uint8) == shown([0, 50, 255], np.int32) == [0, 50, 255]
    assert shown([False, True], bool) == [0, 255]
    assert shown([0.0, 0.2, 1.0], np.float32) == [0, 51, 255]
    assert shown([-1.0, 0.0, 1.0], np.float32, bounds=(-1.0, 1.0)) == [0, 128, 255]
    assert shown([0.0, 50.0, 255.0], np.float32, bounds=(0.0, 255.0)) == [0, 50, 255]
    assert shown([0.0, 1.0], np.float32, bounds=(-np.inf, np.inf)) == [0, 255]


@pytest.mark.parametrize(
    "value, message",
    [
        (np.float32(50), r"float32 must lie in \[0, 1\], not in \[50, 50\]"),
        (np.float32(-0.5), r"must lie in \[0, 1\], not in \[-0.5, -0.5\]"),
        (np.float32(np.nan), r"must lie in \[0, 1\], not in \[nan, nan\]"),
        (np.int32(256), r"int32 must lie in \[0, 255\], not in \[256, 256\]"),
        (np.int32(-1), r"must lie in \[0, 255\], not in \[-1, -1\]"),
    ],
)
def test_values_that_are_no_image(value, message):
    with pytest.raises(ValueError, match=message):
        check_image(np.full((1, 16, 16, 1), value))
    check_image(np.full((1, 8), value))  # a vector may hold anything


class Glow:
    """Gets brighter by 0.25 a step."""

    num_actions = 2

    def __init__(self, shape=(16, 20), **options):
        self.shape = shape
        for name, value in options.items():
            setattr(self, name, value)

    def reset(self, key):
        return Reset(jnp.zeros(()), jnp.zeros(self.shape))

    def step(self, state, action, key):
        state, no = state + 0.25, jnp.zeros((), bool)
        return Step(state, jnp.full(self.shape, state), jnp.zeros(()), no, no)


def test_images_of_pure_environments_are_looked_at_before_a_run():
    register("test/Glow", Glow)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], not in \[0, 8\]"):
        make(EnvConfig(id="test/Glow", **RAW), [0], training=True)
    check_values(Glow(bounds=(0.0, 10.0)))
    env = JaxEnvs(Glow(bounds=(0.0, 10.0)), EnvConfig(**RAW), [0], training=True)
    assert env.spec(1).frame_shape == (16, 20, 1)
    env.reset()
    frames = [env.step(np.array([0])).frame[0, 0, 0, 0] for _ in range(4)]
    assert frames == [6, 13, 19, 26]  # 255 * 0.025 k
    first = JaxEnvs(Glow((2, 16, 20), bounds=(0.0, 10.0)), EnvConfig(**RAW), [0], training=True)
    assert first.spec(1).frame_shape == (16, 20, 2)


def test_an_index_is_one_hot():
    env = make(EnvConfig(id="FrozenLake-v1", **RAW), [0, 1], training=True)
    spec = env.spec(1)
    assert spec.frame_shape == (16,) and spec.num_actions == 4
    first = env.reset()
    np.testing.assert_array_equal(first.frame, np.eye(16, dtype=np.uint8)[[0, 0]])


def test_drawn_boards():
    """A cell is a square; each channel has a grey level of its own, the brightest wins."""
    board = jnp.zeros((2, 4, 2)).at[0, 1, 0].set(1).at[1, 3].set(1)
    image = np.asarray(draw(board))
    assert image.shape == (16, 32, 1) and image.dtype == np.uint8
    cells = image.reshape(2, 8, 4, 8).transpose(0, 2, 1, 3).reshape(2, 4, -1)
    assert (cells == cells[..., :1]).all()
    assert cells[..., 0].tolist() == [[0, 128, 0, 0], [0, 0, 0, 255]]
    assert draw(jnp.ones((10, 5), bool)).shape == (40, 20, 1)


class Short(Glow):
    """Ends in full light."""

    def step(self, state, action, key):
        step = super().step(state, action, key)
        return step._replace(truncated=step.state >= 1)


def test_values_of_drawn_boards():
    """They lie in the environment's bounds, which is looked at before a run: bytes would wrap."""
    board = jnp.array([[-1.0, 0.0], [1.0, 9.0]])
    assert np.asarray(draw(board, (-1.0, 1.0)))[::8, ::8, 0].tolist() == [[0, 128], [255, 255]]
    assert np.asarray(draw(board))[::8, ::8, 0].tolist() == [[0, 0], [255, 255]]
    env = JaxEnvs(Drawn(Glow((4, 4), bounds=(0.0, 10.0))), EnvConfig(**RAW), [0], training=True)
    env.reset()
    assert [env.step(np.array([0])).frame.max() for _ in range(4)] == [6, 13, 19, 26]
    check_values(Drawn(Glow((4, 4), bounds=(0.0, 10.0))))
    check_values(Drawn(Short((4, 4))))  # what lies behind its end is never seen
    register("test/Board", lambda: Glow((4, 4)))
    with pytest.raises(ValueError, match=r"boards to be drawn must lie in \[0, 1\], not in \[0, 8"):
        make(EnvConfig(id="drawn/test/Board", **RAW), [0], training=True)
    register("test/Pushed", lambda: Glow((4, 4), num_actions=None, action_size=1))
    with pytest.raises(ValueError, match="boards to be drawn must lie in"):
        make(EnvConfig(id="drawn/test/Pushed", action_slots=3, **RAW), [0], training=True)


def test_a_drawn_task_is_the_task():
    drawn, bare = (
        make(EnvConfig(id=task, **RAW), [0, 1, 2], training=True)
        for task in ("drawn/jax/Catch", "jax/Catch")
    )
    assert drawn.spec(4).frame_shape == (40, 20, 1)
    ours, theirs = drawn.reset(), bare.reset()
    for i in range(12):
        np.testing.assert_array_equal(ours.frame[:, ::4, ::4, 0].reshape(3, -1), 255 * theirs.frame)
        np.testing.assert_array_equal(ours.score, theirs.score)
        ours, theirs = drawn.step(np.full(3, i % 3)), bare.step(np.full(3, i % 3))
    with pytest.raises(ValueError, match=r"only boards \[H, W\] or \[H, W, C\] can be drawn"):
        Drawn(type("Vector", (Glow,), {"shape": (3,)})((3,)))
    assert "jax/Catch-12x12" in FUNCTIONAL


def test_drawn_tasks_take_vectors_too():
    board = Glow((4, 4), action_size=2, time_limit=7)
    board.num_actions = None
    drawn = Drawn(board)
    assert drawn.action_size == 2 and drawn.time_limit == 7
    env = JaxEnvs(drawn, EnvConfig(**RAW), [0], training=True)
    assert env.spec(1).action_size == 2 and env.spec(1).frame_shape == (16, 16, 1)
    env.reset()
    assert env.step(np.zeros((1, 2), np.float32)).frame.max() == 64  # 255 / 4


@pytest.mark.slow
def test_drawn_games_keep_their_legal_actions():
    pgx = pytest.importorskip("pgx")
    from ez_jax.envs.adapters import Pgx

    game = Pgx(pgx.make("2048"))
    legal = Drawn(game).legal_actions(game.reset(jax.random.key(0)).state)
    assert legal.shape == (4,) and legal.dtype == bool


@pytest.mark.parametrize("library", [np, jnp])
def test_boards_become_vectors_and_images_stay_images(library):
    def made(shape, dtype):
        # JAX has no float64 by default.
        return library.ones((2, *shape), "float32" if library is jnp and "64" in dtype else dtype)

    for shape, dtype, new_shape, new_dtype, value in [
        ((10, 5), "float32", (50,), "float32", 1),
        ((10, 10, 4), "bool", (400,), "uint8", 1),
        ((15, 16, 3), "uint8", (720,), "float32", 1),
        ((4,), "float64", (4,), "float32", 1),
        ((3, 2), "int32", (6,), "float32", 1),
        ((16, 16, 3), "uint8", (16, 16, 3), "uint8", 1),
        ((16, 20, 1), "float32", (16, 20, 1), "uint8", 255),
        ((16, 16, 2), "bool", (16, 16, 2), "uint8", 255),
    ]:
        frame = to_frame(made(shape, dtype))
        assert (frame.shape, frame.dtype) == ((2, *new_shape), new_dtype) and np.all(
            np.asarray(frame) == value
        ), (shape, dtype)
    # In the order of the board.
    numbers = library.arange(12).reshape(1, 2, 3, 2)
    assert to_frame(numbers).tolist() == [list(range(12))]
    image = library.linspace(0.0, 1.0, 256).reshape(1, 16, 16, 1)
    assert np.asarray(to_frame(image)).ravel().tolist() == list(range(256))
