"""Learns byte-pair merges from counted words, from single bytes or on top of a frozen vocabulary (paper §3.2).

The paper's tokenizer is 100K tokens of tiktoken's with 28K more for other languages than English. No library continues
from given merges, so this does: words are first encoded exactly as the frozen tokenizer encodes them, then the most
frequent pair of neighbouring tokens is joined again and again. Ids of frozen tokens never change; new ones follow.

The rule is the one of `tokenizers`' BpeTrainer, and so are the merges: a pair counts once for every place where its two
tokens are neighbours, overlapping places included ("aaa" holds "aa" twice), times the count of the word; the highest
count wins, of equals the pair with the smaller first id, then the smaller second id. Counts are 64-bit integers.

Speed comes from NumPy on all places of a pair at once and from two facts about counts: the count of a pair never grows
after its younger token was made, so a remembered count is an upper bound and needs a look only when it leads; and pairs
far from the lead need no bookkeeping yet. Pairs below a threshold are therefore not followed at all; when those above
are used up, all pairs are counted again and the threshold falls.
"""

import dataclasses
import heapq
from collections.abc import Callable, Sequence

import numpy as np

_EDGE, _GONE = -1, -2  # in place of a token: the border of a word; joined to the token before
_FIRST_FOLLOWED = 2000  # pairs followed at first; later as many as tokens learned so far, if that is more


@dataclasses.dataclass(frozen=True)
class Learned:
    """What was learned: `merges[i]` joins two ids into `tokens[i]`, whose id is the number of frozen tokens + i.

    `refused` counts pairs that were passed over because joining them would have completed a frozen token that its own
    bytes do not encode to: the encoder, which joins any two neighbours that make a token, would then have gone on
    differently from the counts. There are none unless the frozen vocabulary has tokens that merging cannot reach.
    """

    tokens: list[bytes]
    merges: list[tuple[int, int]]
    counts: list[int]
    refused: int


def learn_merges(
    words: "EncodedWords",
    frozen: Sequence[bytes],
    num_tokens: int,
    *,
    min_count: int = 2,
    on_progress: Callable[[int], object] = lambda learned: None,
) -> Learned:
    """Learns up to `num_tokens` tokens after the `frozen` ones; fewer when no pair occurs `min_count` times any more.

    `words` are encoded with the frozen tokens. `on_progress` is told now and then how many more were learned.
    Raises ValueError if counts do not fit 64 bits or `min_count` is below 1.
    """
    if min_count < 1:
        raise ValueError(f"min_count must be at least 1, got {min_count}")
    state = _State.of(words)
    vocabulary = _Vocabulary(frozen)
    while len(vocabulary.merges) < num_tokens:
        followed = _Followed.count(state, max(_FIRST_FOLLOWED, len(vocabulary.merges)), min_count, vocabulary.refused)
        if not followed.places:
            break
        before = len(vocabulary.merges)
        _merge_followed(state, followed, vocabulary, num_tokens)
        on_progress(len(vocabulary.merges) - before)
        state = state.compacted()
    new = vocabulary.tokens[len(frozen) :]
    return Learned(new, vocabulary.merges, vocabulary.counts, len(vocabulary.refused))


@dataclasses.dataclass(frozen=True)
class EncodedWords:
    """Words as token ids: `ids` int [num_ids] of all words in a row, `lengths` int [num_words], `counts` int64."""

    ids: np.ndarray
    lengths: np.ndarray
    counts: np.ndarray


class _Vocabulary:
    """Tokens so far, and the merges that made the new ones."""

    def __init__(self, frozen: Sequence[bytes]):
        self.tokens = list(frozen)
        self.known = set(frozen)
        self.merges: list[tuple[int, int]] = []
        self.counts: list[int] = []
        self.refused: set[tuple[int, int]] = set()

    def add(self, pair: tuple[int, int], token: bytes, count: int) -> None:
        self.tokens.append(token)
        self.known.add(token)
        self.merges.append(pair)
        self.counts.append(count)


@dataclasses.dataclass
class _State:
    """All words in a row, each between edges, as a linked list in arrays `[num_places]`.

    `token[i]` starts at place i; `after[i]` and `before[i]` are the places of its neighbours; `weight[i]` is the count
    of its word. Joining two tokens writes the new one to the first place and marks the second as gone.
    """

    token: np.ndarray
    weight: np.ndarray
    after: np.ndarray
    before: np.ndarray

    @classmethod
    def of(cls, words: EncodedWords) -> "_State":
        lengths = np.asarray(words.lengths, np.int64)
        counts = np.asarray(words.counts, np.int64)
        if np.dot(counts.astype(np.float64), lengths.astype(np.float64)) >= 2.0**62:
            raise ValueError("the counts of the words times their lengths do not fit 64 bits; use smaller weights")
        num_places = int(lengths.sum()) + len(lengths) + 1
        token = np.full(num_places, _EDGE, np.int32)
        weight = np.zeros(num_places, np.int64)
        word = np.repeat(np.arange(len(lengths)), lengths)
        places = np.arange(lengths.sum()) + word + 1
        token[places] = words.ids
        weight[places] = counts[word]
        return cls._linked(token, weight).compacted()

    @classmethod
    def _linked(cls, token: np.ndarray, weight: np.ndarray) -> "_State":
        places = np.arange(token.size)
        return cls(token, weight, places + 1, places - 1)

    def compacted(self) -> "_State":
        """The same without places that are gone and without words of one token, which have no pairs."""
        kept = np.flatnonzero(self.token != _GONE)
        token = self.token[kept]
        edge = token == _EDGE
        alone = np.flatnonzero(edge[:-2] & edge[2:]) + 1
        if alone.size:
            mask = np.ones(kept.size, bool)
            mask[alone] = mask[alone + 1] = False
            kept, token = kept[mask], token[mask]
        return self._linked(token, self.weight[kept])


@dataclasses.dataclass
class _Followed:
    """Pairs that count at least `threshold`: a heap by bounds on their counts, and the places they were seen at."""

    threshold: int
    heap: list[tuple[int, int, int]]
    places: dict[tuple[int, int], np.ndarray]

    @classmethod
    def count(cls, state: _State, num_pairs: int, min_count: int, refused: set[tuple[int, int]]) -> "_Followed":
        """Counts every pair and follows the `num_pairs` most frequent ones, and all that equal the last of them."""
        first, second = state.token[:-1], state.token[1:]
        places = np.flatnonzero((first >= 0) & (second >= 0))
        keys = (first[places].astype(np.int64) << 32) | second[places]
        order = np.argsort(keys, kind="stable")
        keys, places = keys[order], places[order]
        starts = _starts(keys)
        counts = np.add.reduceat(state.weight[places], starts) if keys.size else np.zeros(0, np.int64)
        counts[np.isin(keys[starts], [first << 32 | second for first, second in refused])] = 0
        threshold = min_count
        if counts.size > num_pairs:
            threshold = max(min_count, int(np.partition(counts, counts.size - num_pairs)[counts.size - num_pairs]))
        stops = np.append(starts[1:], keys.size)
        chosen = np.flatnonzero(counts >= threshold)
        followed = cls(threshold, [], {})
        for key, count, start, stop in zip(
            keys[starts[chosen]].tolist(), counts[chosen].tolist(), starts[chosen], stops[chosen], strict=True
        ):
            followed.add((key >> 32, key & 0xFFFFFFFF), count, places[start:stop])
        return followed

    def add(self, pair: tuple[int, int], count: int, places: np.ndarray) -> None:
        self.places[pair] = places
        heapq.heappush(self.heap, (-count, *pair))

    def pop(self, state: _State) -> tuple[tuple[int, int], int, np.ndarray] | None:
        """The leading pair, its count and its places, in order; None when no followed pair reaches the threshold."""
        while self.heap:
            bound, *ids = heapq.heappop(self.heap)
            pair = ids[0], ids[1]
            places = self.places.pop(pair)
            places = places[(state.token[places] == pair[0]) & (state.token[state.after[places]] == pair[1])]
            count = int(state.weight[places].sum())
            if count == -bound:
                return pair, count, places
            if count >= self.threshold:
                self.add(pair, count, places)
        return None


def _merge_followed(state: _State, followed: _Followed, vocabulary: _Vocabulary, num_tokens: int) -> None:
    """Joins leading pairs until none is left that is followed, or the vocabulary is complete."""
    while len(vocabulary.merges) < num_tokens:
        leader = followed.pop(state)
        if leader is None:
            return
        pair, count, places = leader
        if pair[0] == pair[1]:
            places = _not_overlapping(places, state.after)
        token = vocabulary.tokens[pair[0]] + vocabulary.tokens[pair[1]]
        new = len(vocabulary.tokens)
        neighbours = _Neighbours.around(state, places, new)
        if neighbours.complete_a_token(pair, token, vocabulary):
            vocabulary.refused.add(pair)
            continue
        vocabulary.add(pair, token, count)
        second = state.after[places]
        third = state.after[second]
        state.token[places] = new
        state.token[second] = _GONE
        state.after[places] = third
        state.before[third] = places
        neighbours.follow(followed, state, new)


def _not_overlapping(places: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Of the places of a pair (x, x), those that are joined going from left to right: in a run, every other one."""
    index = np.arange(places.size)
    begins = np.ones(places.size, bool)
    begins[1:] = after[places[:-1]] != places[1:]
    return places[(index - np.maximum.accumulate(np.where(begins, index, 0))) % 2 == 0]


@dataclasses.dataclass
class _Neighbours:
    """The pairs that joining a pair makes: (left, new) and (new, right), each with the places they start at."""

    left: np.ndarray
    left_places: np.ndarray
    right: np.ndarray
    right_places: np.ndarray
    chained: bool  # does the pair follow itself somewhere, as in A B A B?

    @classmethod
    def around(cls, state: _State, places: np.ndarray, new: int) -> "_Neighbours":
        third = state.after[state.after[places]]
        right = state.token[third]
        chained = np.flatnonzero(third[:-1] == places[1:])
        before = state.before[places]
        if chained.size:  # the first B is followed, and the second A preceded, by a token that will be new
            right[chained] = new
            before = np.delete(before, chained + 1)
        left = state.token[before]
        inside, followed = left >= 0, right >= 0
        return cls(left[inside], before[inside], right[followed], places[followed], chained.size > 0)

    def complete_a_token(self, pair: tuple[int, int], token: bytes, vocabulary: _Vocabulary) -> bool:
        """Would the encoder join the new token to a neighbour at once, because both make a token there is?

        It goes from left to right, so that of a chain the second A stands beside the new token for a moment.
        """
        tokens, known = vocabulary.tokens, vocabulary.known
        last = len(tokens)
        if self.chained and token + tokens[pair[0]] in known:
            return True
        if any(tokens[left] + token in known for left in set(self.left.tolist())):
            return True
        rights = set(self.right.tolist())
        return any(token + (token if right == last else tokens[right]) in known for right in rights)

    def follow(self, followed: _Followed, state: _State, new: int) -> None:
        for left, count, places in _groups(self.left, self.left_places, state.weight, followed.threshold):
            followed.add((left, new), count, places)
        for right, count, places in _groups(self.right, self.right_places, state.weight, followed.threshold):
            followed.add((new, right), count, places)


def _groups(neighbours: np.ndarray, places: np.ndarray, weight: np.ndarray, threshold: int):
    """(neighbour, count, places) of each neighbour that counts at least `threshold`."""
    if not neighbours.size:
        return
    order = np.argsort(neighbours, kind="stable")
    neighbours, places = neighbours[order], places[order]
    starts = _starts(neighbours)
    counts = np.add.reduceat(weight[places], starts)
    for index in np.flatnonzero(counts >= threshold).tolist():
        stop = starts[index + 1] if index + 1 < starts.size else places.size
        yield int(neighbours[starts[index]]), int(counts[index]), places[starts[index] : stop]


def _starts(ordered: np.ndarray) -> np.ndarray:
    """Where each run of equal values begins."""
    return np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: ordered.size])
