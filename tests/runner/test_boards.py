"""TensorBoard and Weights & Biases show the same run."""

import json
import shutil
import sys

import numpy as np
import pytest
from helpers.tiny import CATCH
from tensorboardX.proto.event_pb2 import Event

from ez_jax.config import to_dict
from ez_jax.runner.boards import ID, TensorBoard, WeightsAndBiases, check_wandb, open_boards
from ez_jax.runner.metrics import MetricsFile

RESULT = {"eval_mean": 0.5, "human_normalized": None}


class Recorder:
    """A board that remembers."""

    takes_videos = True

    def __init__(self):
        self.seen = []

    def scalars(self, values, updates):
        self.seen.append((updates, dict(values)))

    def result(self, result, video):
        self.seen.append((result, video))

    def close(self):
        self.seen.append("closed")


def events(workdir):
    """Events of TensorBoard: records of a length, its checksum, the event, its checksum."""
    found = []
    for path in sorted(workdir.glob("events.out.tfevents*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def test_a_board_sees_finite_numbers_the_result_and_the_end(tmp_path):
    board = Recorder()
    with MetricsFile(tmp_path, 0, [board]) as file:
        row = {"updates": 10, "wall_s": 1.0, "loss/total": 2.0, "env_steps": 40}
        file.write(row | {"episode_return": None, "loss/value": float("nan")})
        file.result(RESULT, None)
    shown = {"loss/total": 2.0, "run/env_steps": 40}
    assert board.seen == [(10, shown), (RESULT, None), "closed"]
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss/value"] is None


def test_a_board_is_closed_when_training_fails(tmp_path):
    board = Recorder()
    with pytest.raises(RuntimeError), MetricsFile(tmp_path, 0, [board]):
        raise RuntimeError
    assert board.seen == ["closed"]


def test_tensorboard_holds_settings_curves_and_result(tmp_path):
    boards = open_boards(tmp_path, 0, False, to_dict(CATCH))
    assert [type(board) for board in boards] == [TensorBoard]
    boards[0].scalars({"loss/total": 2.0}, 10)
    boards[0].result(RESULT, None)
    boards[0].close()
    values = {v.tag: v for event in events(tmp_path) for v in event.summary.value}
    assert values["loss/total"].simple_value == 2.0
    texts = {tag: v.tensor.string_val[0].decode() for tag, v in values.items() if "text" in tag}
    assert '"num_simulations"' in texts["config/text_summary"]
    assert '"eval_mean": 0.5' in texts["result/text_summary"]


def test_weights_and_biases_keeps_a_run_here_and_goes_on_with_it(tmp_path, monkeypatch):
    imageio = pytest.importorskip("imageio.v2")
    monkeypatch.setenv("WANDB_MODE", "offline")
    video = tmp_path / "eval.mp4"
    with imageio.get_writer(video, fps=15) as writer:
        writer.append_data(np.zeros((160, 160, 3), np.uint8))
    # The library names a record by the second in which it began: each part in its own folder.
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    board = WeightsAndBiases(first, to_dict(CATCH), 0)
    board.scalars({"loss/total": 2.0}, 10)
    board.close()
    shutil.copytree(first, second, ignore=shutil.ignore_patterns("wandb"))
    board = WeightsAndBiases(second, to_dict(CATCH), 10)
    board.scalars({"loss/total": 2.0}, 20)
    board.result(RESULT, video)
    board.close()
    check_wandb().teardown()  # a process of its own writes the files: waits for its end
    name = (first / ID).read_text().strip()
    records = [next(part.glob(f"wandb/offline-run-*-{name}/*.wandb")) for part in (first, second)]
    for held in (b"num_simulations", b"loss/total"):
        assert held in records[0].read_bytes()
    assert b"eval_mean" in records[1].read_bytes()
    assert len(list(records[1].parent.glob("files/media/videos/evaluation/*.mp4"))) == 1


def test_a_run_that_begins_again_is_another_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    (tmp_path / ID).write_text("before\n")
    WeightsAndBiases(tmp_path, {}, 10).close()
    assert (tmp_path / ID).read_text() == "before\n"
    WeightsAndBiases(tmp_path, {}, 0).close()
    assert (tmp_path / ID).read_text() != "before\n"


def test_without_the_extra_nothing_begins(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[wandb\]'"):
        check_wandb()
