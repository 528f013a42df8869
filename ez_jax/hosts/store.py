"""Short texts that all processes see: the store of JAX's coordination service, or a dict."""

import threading
import time
from typing import Any, Protocol

POLL_S = 0.05


class Store(Protocol):
    """Keys and texts."""

    def put(self, key: str, text: str) -> None:
        """Sets a key, also one that is there."""
        ...

    def get(self, key: str) -> str | None:
        """What a key holds, None where nobody has set it yet."""
        ...


class Alone:
    """The store of a single process."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def put(self, key: str, text: str) -> None:
        self._texts[key] = text

    def get(self, key: str) -> str | None:
        return self._texts.get(key)


class Service:
    """The store of several, which process 0 keeps."""

    def __init__(self, client: Any):
        self._client = client

    def put(self, key: str, text: str) -> None:
        self._client.key_value_set(f"ez_jax/{key}", text, allow_overwrite=True)

    def get(self, key: str) -> str | None:
        try:
            return self._client.key_value_try_get(f"ez_jax/{key}")
        except Exception as error:  # of XLA's own kinds
            if "NOT_FOUND" not in str(error):
                raise
            return None


def wait_for(store: Store, key: str) -> str:
    """What a key holds, as soon as somebody has set it.

    Nobody waits for ever: `peers.Peers` ends a process whose peers are lost.
    """
    while (text := store.get(key)) is None:
        time.sleep(POLL_S)
    return text


class Group:
    """This process and the others."""

    def __init__(self, index: int = 0, count: int = 1, store: Store | None = None):
        self.index, self.count = index, count
        self.store: Store = store or Alone()
        self._numbers: dict[str, int] = {}
        self._lock = threading.Lock()

    def new_key(self, kind: str) -> str:
        """A key that was not used before, the same in all processes if all ask alike."""
        with self._lock:
            number = self._numbers[kind] = self._numbers.get(kind, 0) + 1
        return f"{kind}/{number}"

    def exchange(self, kind: str, text: str) -> list[str]:
        """The texts of all processes, in their order."""
        key = self.new_key(kind)
        self.store.put(f"{key}/{self.index}", text)
        return [wait_for(self.store, f"{key}/{i}") for i in range(self.count)]

    def exchange_from_first(self, text: str | None) -> str:
        """The text of process 0, which alone gives one."""
        key = self.new_key("agree")
        if text is not None:
            self.store.put(key, text)
        return wait_for(self.store, key)
