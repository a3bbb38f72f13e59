"""Philox against its published vectors, and the numbers made of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pintac import rng, vmath

word = st.integers(0, 2**32 - 1)
N = 1 << 18

# kat_vectors of the Random123 library: counter, key, result of philox4x32 with ten rounds.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def from_hex(text: str) -> np.ndarray:
    return np.array([int(w, 16) for w in text.split()], np.uint32)


def philox_by_hand(counter: list[int], key: list[int]) -> list[int]:
    """In Python's integers."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 % 2**32, p0 >> 32 ^ c3 ^ k1, p0 % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


@pytest.mark.parametrize("counter, key, expected", KNOWN_ANSWERS)
def test_known_answers(counter: str, key: str, expected: str) -> None:
    assert rng.philox4x32(from_hex(counter), from_hex(key)).tolist() == from_hex(expected).tolist()
    assert philox_by_hand(from_hex(counter).tolist(), from_hex(key).tolist()) == from_hex(expected).tolist()


@given(st.lists(word, min_size=4, max_size=4), st.lists(word, min_size=2, max_size=2))
def test_philox_is_its_definition(counter: list[int], key: list[int]) -> None:
    drawn = rng.philox4x32(np.array(counter, np.uint32), np.array(key, np.uint32))
    assert drawn.dtype == np.uint32 and drawn.tolist() == philox_by_hand(counter, key)


def test_counters_and_keys_broadcast() -> None:
    counters = np.arange(24, dtype=np.uint32).reshape(3, 2, 4)
    keys = np.array([[1, 2], [3, 4]], np.uint32)
    drawn = rng.philox4x32(counters, keys)
    assert drawn.shape == (3, 2, 4)
    assert drawn[2, 1].tolist() == philox_by_hand(counters[2, 1].tolist(), [3, 4])


@given(word, word, word, word, word)
def test_words_are_keyed_by_seed_and_stream(seed: int, stream: int, step: int, term: int, index: int) -> None:
    drawn = rng.words(seed, stream, step, term, np.array([index], np.uint32))
    assert drawn.shape == (1, 4)
    assert drawn[0].tolist() == philox_by_hand([index, step, term, 0], [seed, stream])


def test_seeds_are_taken_modulo_two_to_the_32() -> None:
    a, b = (rng.uniform(seed, 1, 0, 0, 8) for seed in (5, 5 + 2**32))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(rng.uniform(-1, 1, 0, 0, 8), rng.uniform(2**32 - 1, 1, 0, 0, 8))


@pytest.mark.parametrize("draw", [rng.uniform, rng.normal])
def test_a_part_of_a_tensor_can_be_drawn_alone(draw: Callable[..., np.ndarray]) -> None:
    whole = draw(7, 2, 3, 1, (50_000,))
    np.testing.assert_array_equal(draw(7, 2, 3, 1, (10, 5000)), whole.reshape(10, 5000))
    np.testing.assert_array_equal(draw(7, 2, 3, 1, 50_000), whole)
    for start, size in ((0, 1), (16_380, 10), (49_999, 1)):
        np.testing.assert_array_equal(draw(7, 2, 3, 1, (size,), start=start), whole[start : start + size])
    assert draw(7, 2, 3, 1, ()).shape == () and draw(7, 2, 3, 1, (0, 3)).shape == (0, 3)


def test_uniform_and_normal_are_made_of_these_words() -> None:
    w = rng.words(9, rng.STREAM_DELTA, 4, 2, np.arange(1000, dtype=np.uint32)).astype(np.int64)
    u = rng.uniform(9, rng.STREAM_DELTA, 4, 2, 1000)
    assert u.dtype == np.float32
    np.testing.assert_array_equal(u.astype(float), (w[:, 0] >> 8) * 2.0**-24)
    u1, u2 = ((w[:, 0] >> 8) + 1) * 2.0**-24, (w[:, 1] >> 8) * 2.0**-24
    z = rng.normal(9, rng.STREAM_DELTA, 4, 2, 1000)
    assert z.dtype == np.float32
    t = vmath.sqrt(vmath.log(u1.astype(np.float32)) * np.float32(-2))
    np.testing.assert_array_equal(z, t * vmath.cos(u2.astype(np.float32) * np.float32(2 * np.pi)))
    np.testing.assert_allclose(z, np.sqrt(-2 * np.log(u1)) * np.cos(2 * np.pi * u2), rtol=2e-6, atol=2e-6)


def test_streams_steps_terms_and_seeds_differ() -> None:
    base = rng.uniform(1, 1, 1, 1, N)
    for other in ((2, 1, 1, 1), (1, 2, 1, 1), (1, 1, 2, 1), (1, 1, 1, 2)):
        correlation = np.corrcoef(base, rng.uniform(*other, N))[0, 1]
        assert abs(correlation) < 5 / math.sqrt(N)
    assert len({rng.STREAM_POINTS, rng.STREAM_DELTA, rng.STREAM_TEST, rng.STREAM_INIT}) == 4


def kolmogorov_distance(sample: np.ndarray, distribution: np.ndarray) -> float:
    """sqrt(n) times the largest distance; above 2.2 once in 10,000 draws. `distribution`: of the sorted sample."""
    n = sample.size
    above, below = np.arange(1, n + 1) / n - distribution, distribution - np.arange(n) / n
    return math.sqrt(n) * max(above.max(), below.max())


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_uniform_numbers_are_uniform(seed: int) -> None:
    u = np.sort(rng.uniform(seed, rng.STREAM_POINTS, 0, 0, N).astype(float))
    assert u[0] >= 0 and u[-1] < 1
    assert kolmogorov_distance(u, u) < 2.2
    assert abs(u.mean() - 0.5) < 4 / math.sqrt(12 * N)


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_normal_numbers_are_normal(seed: int) -> None:
    z = rng.normal(seed, rng.STREAM_DELTA, 3, 0, N).astype(float)
    for power, variance in ((1, 1), (2, 2), (3, 15), (4, 96)):  # variance of z**power
        expected = {1: 0, 2: 1, 3: 0, 4: 3}[power]
        assert abs((z**power).mean() - expected) < 4 * math.sqrt(variance / N)
    cdf = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in np.sort(z)])
    assert kolmogorov_distance(z, cdf) < 2.2
    assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 5 / math.sqrt(N)
    assert np.abs(z).max() <= math.sqrt(48 * math.log(2)) * (1 + 1e-6)


def test_golden_numbers() -> None:
    """Any change of these changes every run ever published."""
    assert [f"{w:08x}" for w in rng.words(1, 2, 3, 4, np.array([5], np.uint32))[0]] == GOLDEN_WORDS.split()
    z = rng.normal(1, 2, 3, 4, 4, start=5)
    assert [f"{b:08x}" for b in z.view(np.uint32)] == GOLDEN_NORMAL.split()


GOLDEN_WORDS = "5bc0bf10 a4b10433 04264f4e b6a4fc94"
GOLDEN_NORMAL = "bf63ce59 3d834452 3f1b622f bf32a26e"


def test_what_is_refused() -> None:
    with pytest.raises(TypeError, match="uint32"):
        rng.words(0, 1, 0, 0, np.arange(3))
    with pytest.raises(TypeError, match="uint32"):
        rng.philox4x32(np.zeros(4, np.int64), np.zeros(2, np.uint32))
    with pytest.raises(ValueError, match="4 words"):
        rng.philox4x32(np.zeros(3, np.uint32), np.zeros(2, np.uint32))
    with pytest.raises(ValueError, match="32-bit"):
        rng.uniform(0, 1, 0, 0, 10, start=2**32 - 5)
    assert rng.uniform(0, 1, 0, 0, 5, start=2**32 - 5).shape == (5,)
