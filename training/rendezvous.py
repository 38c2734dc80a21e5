"""A key-value store for the ranks of one attempt, through which they find each other's addresses."""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

import torch.distributed as dist

POLL_SECS = 0.05


def attempt_store(rank: int, world_size: int, timeout: timedelta) -> dist.Store:
    """The store that torchrun (or rank 0, without torchrun) serves, with a prefix that no earlier attempt has used.

    After a restart, torchrun's store still holds the addresses of the processes that have ended. A rank that read one
    would fail or wait. The number of restarts cannot be the prefix: each machine counts its own.

    Raises:
        TimeoutError: a rank did not join.
    """
    store, *_ = next(dist.rendezvous("env://", rank, world_size, timeout=timeout))
    return dist.PrefixStore(f"attempt_{agree_on_attempt(store, rank, world_size, timeout)}", store)


def agree_on_attempt(store: dist.Store, rank: int, world_size: int, timeout: timedelta) -> str:
    """A name for this attempt: rank 0 draws it, and every rank returns it.

    Each rank joins with a new random id, and waits for an answer to this id, so that it never reads an old answer.
    """
    own_id = uuid.uuid4().hex
    if rank:
        store.set(f"joined/{rank}", own_id)
        attempt = store.get(f"answer/{own_id}").decode()  # waits for it
        store.set(f"confirmed/{attempt}/{rank}", "")
        return attempt
    waiting, deadline = set(range(1, world_size)), time.monotonic() + timeout.total_seconds()
    while waiting:
        for other in sorted(waiting):
            if store.check([f"joined/{other}"]):  # perhaps with an id from before the restart: ask again
                store.set(f"answer/{store.get(f'joined/{other}').decode()}", own_id)
            if store.check([f"confirmed/{own_id}/{other}"]):
                waiting.remove(other)
        if time.monotonic() > deadline:
            raise TimeoutError(f"ranks {sorted(waiting)} did not join within {timeout}")
        time.sleep(POLL_SECS)
    return own_id
