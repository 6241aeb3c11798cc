"""Every random draw for a sample is f(seed, epoch, what is drawn): no global generator, so workers and resumes cannot change it."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.random import Generator, Philox


def generator(*key: str | int) -> Generator:
    """A generator that depends on nothing but `key`, e.g. generator(seed, epoch, sample id)."""
    text = "\x1f".join(str(part) for part in key).encode("utf-8", "surrogatepass")
    return Generator(Philox(key=int.from_bytes(blake2b(text, digest_size=16).digest())))


def key_of(text: str) -> int:
    """A 63-bit number that stands for a text."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()) >> 1


def some_of(count: int, limit: int) -> list[int]:
    """At most `limit` of `count` row numbers, in order: drawn, since even spacing would pick one kind of row from a file that repeats."""
    if count <= limit:
        return list(range(count))
    return np.sort(generator("some of", count, limit).choice(count, limit, replace=False)).tolist()
