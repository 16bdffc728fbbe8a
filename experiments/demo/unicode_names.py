"""The demo's data: the names of Unicode characters and their general categories.

Every Python ships it in its standard library: about 140,000 names such as "LATIN
SMALL LETTER A WITH RING ABOVE", in about 26 categories (Ll: lowercase letter, Sm:
mathematical symbol, …). Four fifths are nearly the same (ideographs, syllables). The
rest is a long tail of scripts and symbols. Real corpora have the same structure.
"""

import functools
import sys
import unicodedata
import zlib
from collections import Counter
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

NUM_TRAIN, NUM_TEST = 16_000, 12_000
NUM_TOKENS = 10
NUM_WORDS = 2_000
"""The most common words of the training names have a token each."""
NUM_HASHES = 500
"""The other words share these tokens."""
VOCABULARY_SIZE = 1 + NUM_WORDS + NUM_HASHES


class Names(NamedTuple):
    """Names as tokens, and their categories."""

    tokens: Int[np.ndarray, "names tokens"]
    """`[names, NUM_TOKENS]`, 0 is padding."""
    labels: Int[np.ndarray, "names"]
    """`[names]` indices into `categories()`."""
    scripts: Int[np.ndarray, "names"]
    """`[names]` numbers of the names' first words, such as LATIN or CJK."""


@functools.cache
def _all_names() -> tuple[tuple[str, str], ...]:
    characters = map(chr, range(sys.maxunicode + 1))
    named = ((unicodedata.name(c, ""), unicodedata.category(c)) for c in characters)
    return tuple((name, category) for name, category in named if name)


@functools.cache
def categories() -> tuple[str, ...]:
    """The categories that occur, sorted."""
    return tuple(sorted({category for _, category in _all_names()}))


@functools.cache
def _scripts() -> dict[str, int]:
    words = sorted({_words(name)[0] for name, _ in _all_names()})
    return {word: number for number, word in enumerate(words)}


def load(seed: int) -> tuple[Names, Names]:
    """Training and test names: a random split for each seed, without overlap.

    Example:
      >>> train, test = load(seed=0)
      >>> train.tokens.shape, test.labels.shape
      ((16000, 10), (12000,))
    """
    names = _all_names()
    drawn = np.random.default_rng(seed).permutation(len(names))[: NUM_TRAIN + NUM_TEST]
    train = [names[i] for i in drawn[:NUM_TRAIN]]
    counts = Counter(word for name, _ in train for word in _words(name))
    tokens = {word: 1 + i for i, (word, _) in enumerate(counts.most_common(NUM_WORDS))}
    test = [names[i] for i in drawn[NUM_TRAIN:]]
    return _encode(train, tokens), _encode(test, tokens)


def _words(name: str) -> list[str]:
    return name.split()


def _encode(names: list[tuple[str, str]], tokens: dict[str, int]) -> Names:
    encoded = np.zeros((len(names), NUM_TOKENS), np.int32)
    for row, (name, _) in zip(encoded, names, strict=True):
        words = _words(name)[:NUM_TOKENS]
        row[: len(words)] = [
            tokens.get(word) or 1 + NUM_WORDS + zlib.crc32(word.encode()) % NUM_HASHES
            for word in words
        ]
    labels = [categories().index(category) for _, category in names]
    scripts = [_scripts()[_words(name)[0]] for name, _ in names]
    return Names(encoded, np.array(labels, np.int32), np.array(scripts, np.int32))
