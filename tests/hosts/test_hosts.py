"""Agreements of processes, here threads with one store."""

import json
import threading
import time

import pytest

from ez_jax import hosts
from ez_jax.config import differences
from ez_jax.hosts import group as group_lib
from ez_jax.hosts import peers as peers_lib
from ez_jax.hosts import start
from ez_jax.hosts.meeting import Meeting
from ez_jax.hosts.peers import Peers
from ez_jax.hosts.store import Alone, Group


def groups(count):
    store = Alone()
    return [Group(i, count, store) for i in range(count)]


def in_threads(fn, items):
    """The results of `fn(item)`, all at once."""
    results = {}
    threads = [
        threading.Thread(target=lambda i=i, item=item: results.update({i: fn(item)}))
        for i, item in enumerate(items)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [results[i] for i in range(len(threads))]


def test_texts_are_exchanged_in_the_order_of_processes():
    three = groups(3)
    expected = ["text 0", "text 1", "text 2"]
    for _ in range(2):  # keys are not used twice
        found = in_threads(lambda g: g.exchange("name", f"text {g.index}"), three)
        assert found == 3 * [expected]
    told = in_threads(lambda g: g.exchange_from_first("said" if g.index == 0 else None), three)
    assert told == 3 * ["said"]


@pytest.mark.parametrize("caller", [0, 1, 2])
def test_all_stop_after_the_same_cycle(caller):
    """At unlike speeds, whoever calls: those that wait in a collective hold nobody up."""
    three, collective = groups(3), threading.Barrier(3, timeout=20)
    meetings = [Meeting(g, Peers(g), 0.0) for g in three]

    def run(index):
        meeting, pause = meetings[index], (0.001, 0.005, 0.01)[index]
        for cycle in range(1, 200):
            if index == caller and cycle == 20:
                meeting.call(15)
            time.sleep(pause)
            collective.wait()
            if meeting.end_of_cycle():
                return cycle, meeting.signal
        return None

    over = threading.Event()

    def beat():  # as the threads of `Peers` do
        while not over.wait(0.005):
            for meeting in meetings:
                meeting._notice()

    watcher = threading.Thread(target=beat)
    watcher.start()
    found = in_threads(run, range(3))
    over.set()
    watcher.join()
    assert found[0] == found[1] == found[2] and found[0][0] >= 20 and found[0][1] == 15


def test_a_process_alone_stops_at_the_end_of_its_cycle():
    with hosts.meeting(0.0) as meeting:
        assert [meeting.end_of_cycle() for _ in range(3)] == [False] * 3
        meeting.call(2)
        assert meeting.signal == 2 and meeting.end_of_cycle()


@pytest.fixture
def watched(monkeypatch):
    """Process 1 of two, whose peers beat fast; and what ended it."""
    monkeypatch.setattr(peers_lib, "BEAT_S", 0.01)
    monkeypatch.setattr(peers_lib, "LOST_S", 2.0)
    two, ends = groups(2), []
    two[0].store.put("host/0", "node7")
    peers = Peers(two[1])
    peers.lost = lambda status, message: (ends.append((status, message)), peers.stop())
    yield two[0].store, peers, ends
    peers.stop()


def until(condition, seconds=10):
    stop = time.monotonic() + seconds
    while not condition() and time.monotonic() < stop:
        time.sleep(0.01)
    return condition()


def test_a_silent_process_is_lost(watched):
    store, peers, ends = watched
    peers.start()
    for beat in range(50):  # longer than the patience
        store.put("alive/0", str(beat))
        time.sleep(0.05)
    assert not ends
    assert until(lambda: ends)
    assert ends[0][0] == 75 and "lost process 0 on node7" in ends[0][1] and "--resume" in ends[0][1]


def test_a_process_that_says_why_it_ended(watched):
    store, peers, ends = watched
    peers.start()
    store.put("ended/0", "2 error: no such game")
    assert until(lambda: ends) and ends == [(2, "error: no such game (process 0)")]


def test_a_process_that_is_done_is_not_missed(watched):
    store, peers, ends = watched
    store.put("ended/0", "0 ")
    peers.start()
    time.sleep(2.5)
    assert not ends


def test_a_cycle_without_end(watched):
    store, peers, ends = watched
    store.put("ended/0", "0 ")
    peers.start()
    peers.cycle(0.2)
    assert until(lambda: ends) and ends[0][0] == 75 and "no cycle has ended for" in ends[0][1]
    assert store.get("ended/1").startswith("75 no cycle")


def test_a_process_alone_is_stuck_too(monkeypatch):
    monkeypatch.setattr(peers_lib, "BEAT_S", 0.01)
    alone, ends = Peers(Group()), []
    alone.lost = lambda status, message: (ends.append((status, message)), alone.stop())
    monkeypatch.setattr(group_lib, "peers", alone)
    with hosts.meeting(2.0) as meeting:
        for _ in range(50):  # longer than that, and never stuck
            time.sleep(0.05)
            meeting.end_of_cycle()
        assert not ends
        assert until(lambda: ends) and ends[0][0] == 75


def test_differences_are_named(monkeypatch):
    two = groups(2)
    two[0].store.put("host/1", "node1")
    held = {0: {"config": {"seed": 0, "env": {"id": "a"}}}, 1: {"config": {"seed": 0, "env": {}}}}

    two[1].store.put("same/1/1", '{"config": {"seed": 0, "env": {"id": "b"}}}')
    monkeypatch.setattr(group_lib, "group", two[0])
    with pytest.raises(ValueError) as found:
        hosts.same(held[0], differences)
    assert str(found.value) == "process 1 on node1 is not as process 0: config.env.id: a -> b"


def test_an_error_of_another_process_is_everybodys(monkeypatch):
    two = groups(2)
    two[0].store.put("host/1", "node1")
    two[1].store.put("together/1/1", "no room")
    monkeypatch.setattr(group_lib, "group", two[0])
    with pytest.raises(ValueError, match=r"^no room \(process 1 on node1\)$"):
        hosts.together(lambda: 7)


def test_a_folder_that_another_process_does_not_see(monkeypatch, tmp_path):
    two = groups(2)
    two[0].store.put("host/0", "node0")
    two[0].exchange_from_first(json.dumps(str(tmp_path / "elsewhere" / "token")))
    two[0].store.put("together/1/0", "")
    two[0].store.put("together/2/0", "")
    monkeypatch.setattr(group_lib, "group", two[1])
    monkeypatch.setattr(group_lib, "SEEN_S", 0.2)
    with pytest.raises(ValueError, match="must be on a file system that all hosts share"):
        hosts.shared_folder(tmp_path / "run")


def test_alone_nothing_is_waited_for(tmp_path):
    assert hosts.first() and hosts.number_of_processes() == 1 and hosts.describe() == ""
    assert hosts.agree(lambda: {"a": 1}) == {"a": 1} and hosts.together(lambda: 3) == 3
    hosts.same({"a": 1}, differences)
    hosts.shared_folder(tmp_path / "new")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="bad"), hosts.guard(KeyError):
        raise ValueError("bad")


@pytest.mark.parametrize(
    "values, message",
    [
        (("host:1", "", ""), "JAX_NUM_PROCESSES, JAX_PROCESS_ID must be set too"),
        (("host", "2", "0"), "JAX_COORDINATOR_ADDRESS=host must be of the form host:port"),
        (("host:1", "2", "2"), "the second less than the first"),
        (("host:1", "two", "0"), "must be numbers"),
    ],
)
def test_variables_that_are_wrong(monkeypatch, values, message):
    for name, value in zip(start.GIVEN, values):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        hosts.connect()
    hosts.connect(local=True)
    assert hosts.number_of_processes() == 1
