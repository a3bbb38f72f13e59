# mypy: ignore-errors
"""What operations wait for in an order, with what had their memory before."""

from __future__ import annotations

import numpy as np
from numba import njit

from pintac.backend.ordering.compiled.body import QUEUE, SIZE, VPU, Follows, Lists


@njit(cache=True)
def joined(body, pairs, before):
    """All that operations follow: what they depend on, and for the first users of a buffer what had its memory last."""
    again, heads, tails = body.again, body.heads, body.tails
    n = len(body.ops)
    at = np.zeros(n + 1, np.int64)
    for i in range(n):
        at[i + 1] = before.at[i + 1] - before.at[i] + again.at[i + 1] - again.at[i]
    for c, b, _ in pairs:
        for p in range(heads.at[b], heads.at[b + 1]):
            at[heads.of[p] + 1] += tails.at[c + 1] - tails.at[c]
    at = np.cumsum(at)
    found, ago, fill = np.zeros(at[n], np.int64), np.zeros(at[n], np.int64), at.copy()
    for i in range(n):
        for p in range(before.at[i], before.at[i + 1]):
            found[fill[i]] = before.of[p]
            fill[i] += 1
        for p in range(again.at[i], again.at[i + 1]):
            found[fill[i]], ago[fill[i]] = again.of[p], 1
            fill[i] += 1
    for c, b, wrap in pairs:
        for p in range(heads.at[b], heads.at[b + 1]):
            i = heads.of[p]
            for r in range(tails.at[c], tails.at[c + 1]):
                found[fill[i]], ago[fill[i]] = tails.of[r], wrap
                fill[i] += 1
    return Follows(at, found, ago)


@njit(cache=True)
def successions(body, address, order):
    """Which buffer takes over memory of which: (earlier, later, 0), or 1 where the later is of the next iteration."""
    heads, buffers = body.heads, body.buffers
    n, m = len(order), len(buffers)
    position = np.zeros(n, np.int64)
    for k in range(n):
        position[order[k]] = k
    first = np.full(m, n)
    for b in range(m):
        for p in range(heads.at[b], heads.at[b + 1]):
            first[b] = min(first[b], position[heads.of[p]])
    sequence = np.argsort(first)
    opens, closes = np.full(body.granules, -1), np.full(body.granules, -1)  # a granule's first buffer, and last so far
    seen = np.full(m, -1)
    pairs = np.zeros((2 * buffers[:, SIZE].sum(), 3), np.int64)
    k = 0
    for b in sequence:
        for g in range(address[b], address[b] + buffers[b, SIZE]):
            c = closes[g]
            if c < 0:
                opens[g] = b
            elif seen[c] != b:
                seen[c] = b
                pairs[k, 0], pairs[k, 1] = c, b
                k += 1
            closes[g] = b
    seen[:] = -1
    for b in sequence:
        for g in range(address[b], address[b] + buffers[b, SIZE]):
            c = closes[g]
            if opens[g] == b and seen[c] != b:
                seen[c] = b
                pairs[k, 0], pairs[k, 1], pairs[k, 2] = c, b, 1
                k += 1
    return pairs[:k]


@njit(cache=True)
def waited_for(body, pairs):
    """What operations wait for, of what they depend on: a queue other than the vector unit's keeps its own order.

    By how far it is from the first operation of their own iteration. `pairs` are those of `successions`.
    """
    ops, follows = body.ops, joined(body, pairs, body.depends)
    at, of = np.zeros_like(follows.at), np.zeros_like(follows.of)
    k = 0
    for i in range(len(ops)):
        for p in range(follows.at[i], follows.at[i + 1]):
            j = follows.of[p]
            if ops[j, QUEUE] != ops[i, QUEUE] or ops[i, QUEUE] == VPU:
                of[k] = j - follows.ago[p] * len(ops)
                k += 1
        at[i + 1] = k
    return Lists(at, of[:k].copy())


@njit(cache=True)
def followers(follows):
    """Who follows each operation in its own iteration."""
    n = len(follows.at) - 1
    at = np.zeros(n + 1, np.int64)
    for p in range(len(follows.of)):
        if follows.ago[p] == 0:
            at[follows.of[p] + 1] += 1
    at = np.cumsum(at)
    of, fill = np.zeros(at[n], np.int64), at.copy()
    for i in range(n):
        for p in range(follows.at[i], follows.at[i + 1]):
            if follows.ago[p] == 0:
                of[fill[follows.of[p]]] = i
                fill[follows.of[p]] += 1
    return Lists(at, of)
