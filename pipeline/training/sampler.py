"""Which pairs make a step: batches within bounds of pairs and tokens, whose pairs share entities where they can.

An entity is read, projected and encoded once a batch, so a batch whose pairs share entities is cheaper.  Pairs are
shuffled; every `sharing` batches' worth of them is then put in the order of the side on which more is saved, and the
batches are shuffled again.  `sharing = 1` leaves the plain shuffle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_CLOSE = 128


class Side(NamedTuple):
    """One side of a dataset's pairs."""

    of_pair: np.ndarray
    """(P,) number of each pair's entity."""
    tokens: np.ndarray
    """(S,) int64 tokens of each entity."""

    def at(self, pairs: np.ndarray) -> Side:
        """The side of these pairs alone, in their order."""
        return Side(self.of_pair[pairs], self.tokens)


class Bounds(NamedTuple):
    """Of a batch; a single pair beyond `tokens` is a batch of its own."""

    pairs: int
    tokens: int
    """Through encoder and mixer: a distinct entity's count twice, or once a batch and once a pair where `joined`."""
    joined: bool = False
    """Whether the model mixes the tokens of every joined pair (`crossllm.model.interaction.joins_pairs`)."""


def shuffled_batches(
    pairs: np.ndarray, sides: Sequence[Side], bounds: Bounds, sharing: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """One epoch: each of `pairs` once, in batches, by chance.

    Args:
        pairs: pair numbers.
        sides: A and B.
        bounds: of a batch.
        sharing: batches' worth of shuffled pairs that are put in order of their entities together.
        rng: decides order and batches.
    """
    order = rng.permutation(pairs)
    block = sharing * bounds.pairs
    batches = []
    for start in range(0, len(order), block):
        part = order[start : start + block]
        batches += cut(_by_entity(part, sides) if sharing > 1 else part, sides, bounds)
    return [batches[n] for n in rng.permutation(len(batches))] if sharing > 1 else batches


def balanced(pairs: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The pairs, those of the rarer class again and again: as many of each class, every pair at least once.

    Args:
        pairs: pair numbers.
        labels: (len(pairs),) 0 or 1.
        rng: decides which pairs come once more than others.
    """
    rare, common = sorted((pairs[labels == 0], pairs[labels == 1]), key=len)
    if not len(rare):
        return pairs
    whole, rest = divmod(len(common), len(rare))
    return np.concatenate([common, *[rare] * whole, rng.permutation(rare)[:rest]])


def ordered_batches(pairs: np.ndarray, sides: Sequence[Side], bounds: Bounds) -> list[np.ndarray]:
    """Each of `pairs` once, in the order in which they share most: for prediction, where order means nothing."""
    return cut(_by_entity(pairs, sides), sides, bounds)


def cut(order: np.ndarray, sides: Sequence[Side], bounds: Bounds) -> list[np.ndarray]:
    """Pairs in their order, in batches as large as the bounds allow."""
    batches: list[np.ndarray] = []
    start, total = 0, 0
    seen: list[set[int]] = [set() for _side in sides]
    entities = [side.of_pair[order].tolist() for side in sides]
    sizes = [side.tokens[side.of_pair[order]].tolist() for side in sides]

    for n in range(len(order)):
        new = sum(
            own[n] * (bounds.joined + (2 - bounds.joined) * (e[n] not in s))
            for own, e, s in zip(sizes, entities, seen, strict=True)
        )
        if n > start and (n - start == bounds.pairs or total + new > bounds.tokens):
            batches.append(order[start:n])
            start, total = n, 0
            seen = [set() for _side in sides]
            new = 2 * sum(own[n] for own in sizes)
        total += new
        for e, s in zip(entities, seen, strict=True):
            s.add(e[n])
    return [*batches, order[start:]] if len(order) else batches


class Share(NamedTuple):
    """What one of several processes has of a batch."""

    pairs: np.ndarray
    """Pairs that follow each other in the batch."""
    first: int
    """Place in the batch of the first of them."""
    counted: bool
    """False: the batch has no pair left for this process, which computes another's to draw the same numbers."""


def shared_out(batch: np.ndarray, sides: Sequence[Side], bounds: Bounds, count: int) -> list[Share]:
    """A batch cut where it stands into the shares of `count` processes, the largest share as small as can be.

    A share's size is its tokens, counted as a batch's are; found to one part in `_CLOSE`.
    """
    cost = 2 * sum(side.tokens[side.of_pair[batch]] for side in sides)
    least, most = 1, int(np.sum(cost))
    while most - least > most // _CLOSE:
        middle = (least + most) // 2
        if len(cut(batch, sides, bounds._replace(pairs=len(batch), tokens=middle))) > count:
            least = middle + 1
        else:
            most = middle
    parts = cut(batch, sides, bounds._replace(pairs=len(batch), tokens=most))
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    shortest = int(np.argmin(cost))
    idle = Share(batch[shortest : shortest + 1], shortest, False)
    shares = [Share(part, start, True) for part, start in zip(parts, starts, strict=False)]
    return shares + [idle] * (count - len(shares))


def dealt_out(batches: Sequence[np.ndarray], sides: Sequence[Side], count: int) -> list[list[int]]:
    """The numbers of whole batches that each of `count` processes takes, so that each has about as many tokens."""
    cost = [sum(int(side.tokens[np.unique(side.of_pair[pairs])].sum()) for side in sides) for pairs in batches]
    dealt: list[list[int]] = [[] for _ in range(count)]
    load = [0] * count
    for number in sorted(range(len(batches)), key=lambda n: -cost[n]):
        least = load.index(min(load))
        dealt[least].append(number)
        load[least] += cost[number]
    return [sorted(numbers) for numbers in dealt]


def _by_entity(pairs: np.ndarray, sides: Sequence[Side]) -> np.ndarray:
    """The pairs by the entity of the side on which sharing saves more tokens, entities in order of first appearance."""
    saved = []
    for side in sides:
        entities = side.of_pair[pairs]
        saved.append(int(side.tokens[entities].sum() - side.tokens[np.unique(entities)].sum()))
    best = sides[int(np.argmax(saved))].of_pair[pairs]
    _, first, inverse = np.unique(best, return_index=True, return_inverse=True)
    return pairs[np.argsort(first[inverse], kind="stable")]
