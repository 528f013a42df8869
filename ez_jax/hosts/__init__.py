"""The processes of a run, one a host: who writes, what all agree on, who was lost.

All processes run the same program over one mesh. Process 0 owns files, screen and decisions; each
steps the environments of its own lanes. With one process everything here is the same code with
nobody to wait for. No other room knows how many processes there are.
"""

from ez_jax.hosts.group import (
    agree,
    describe,
    finish,
    first,
    guard,
    leave,
    meeting,
    own_part,
    same,
    say,
    shared_folder,
    together,
)
from ez_jax.hosts.start import connect, number_of_processes

__all__ = [
    "agree",
    "connect",
    "describe",
    "finish",
    "first",
    "guard",
    "leave",
    "meeting",
    "number_of_processes",
    "own_part",
    "same",
    "say",
    "shared_folder",
    "together",
]
