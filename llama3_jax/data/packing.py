"""From a store's documents to training rows, by arithmetic: any row of any epoch can be asked for, in any order.

A packer turns a cursor into `Fragments`: which stretch of which shard goes to which place of which row. It reads
document lengths only; `read_rows` then reads the tokens. Two packers share that interface:

  ConcatPacker   pre-training. Documents in a shuffled order form an endless stream, cut every S tokens. The stream is
                 read in several lanes at once, so that the rows of a batch are not neighbours. A lane's cursor is a
                 token count, so rows of different S, one after another, tile it: no token lost, none doubled.
  BestFitPacker  rows hold whole documents (longer ones are cut), with padding. One lane; the cursor is a row count.

Both shuffle shards, and documents within a shard, anew in each epoch, by sorting integer hashes: the order depends on
no library's random generator. Rows carry segment ids so that attention stays inside a document (paper section 3.2).
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from llama3_jax.data.token_store import TokenStore

# What a batch holds, each [rows, S]; zero is padding in all of them.
ROW_DTYPES = {
    "tokens": np.int32,  # token ids
    "targets": np.int32,  # the next token of the same document, also where that lies in another row
    "loss_weights": np.float32,  # 1 where there is a target: 0 at a document's last token and at padding
    "segment_ids": np.int32,  # 1, 2, … along the row, one for each stretch of a document
    "positions": np.int32,  # from 0 at each stretch's start
}
LONG_DOCUMENTS = ("split", "error")
_GOLDEN = 0x9E3779B97F4A7C15
# One salt for each use, so that two orders never share their hashes.
_SHARD_ORDER, _DOCUMENT_ORDER, _ROW_ORDER = 1, 2, 3


def _mix64(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014) on uint64; array arithmetic wraps without warnings."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hash_permutation(count: int, *key: int) -> np.ndarray:
    """A permutation of range(count), int64 [count], that depends on the integers of `key` and on nothing else."""
    state = np.zeros(1, np.uint64)
    for part in key:
        state = _mix64(state + np.array([(part + _GOLDEN) % (1 << 64)], np.uint64))
    counters = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return np.argsort(_mix64(state + counters), kind="stable")


@dataclass(frozen=True)
class Fragments:
    """Stretches of documents and the rows they go to; arrays [F], int64 but for `continues`.

    shard, start, length: the tokens to take. row: where they go; a row's fragments stand together, in order, and fill
    it from the left without gaps. continues (bool): whether the document goes on after the stretch, so that its last
    token has a target too.
    """

    shard: np.ndarray
    start: np.ndarray
    length: np.ndarray
    row: np.ndarray
    continues: np.ndarray

    def in_rows(self, rows: np.ndarray) -> "Fragments":
        """The same fragments with row i renamed rows[i]."""
        return replace(self, row=rows[self.row])

    @staticmethod
    def join(parts: Sequence["Fragments"]) -> "Fragments":
        return Fragments(*(np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS))


_FIELDS = tuple(Fragments.__dataclass_fields__)


class Packer(Protocol):
    """What the loader needs of a packer. A lane's cursor counts in the packer's own unit, from the start of epoch 0."""

    store: TokenStore
    epoch_length: int  # cursor units in one epoch of all lanes together
    num_lanes: int

    def stride(self, sequence_length: int) -> int:
        """Cursor units that one row takes."""
        ...

    def fragments(self, lane: int, cursor: int, num_rows: int, sequence_length: int) -> Fragments:
        """The fragments of `num_rows` rows in succession from a lane's `cursor`; rows are numbered from 0."""
        ...


class ConcatPacker:
    """Concatenate, then split. With `seed=None` the order is the store's own, in every epoch.

    An epoch's stream is cut into `lanes` stretches of equal length (to a token); a lane reads its own stretch of one
    epoch after another. In memory: lengths and order (about 24 bytes a document) of the shards that the lanes are in.
    """

    def __init__(self, store: TokenStore, *, seed: int | None, lanes: int = 1):
        self.store = store
        self.epoch_length = store.num_tokens
        self.num_lanes = min(lanes, store.num_tokens)
        self._seed = seed
        self._shards = functools.lru_cache(8)(self._order_shards)
        self._documents = functools.lru_cache(min(lanes, store.shard_tokens.size) + 1)(self._order_documents)

    def __reduce__(self):
        return functools.partial(ConcatPacker, self.store, seed=self._seed, lanes=self.num_lanes), ()

    def stride(self, sequence_length: int) -> int:
        return sequence_length

    def fragments(self, lane: int, cursor: int, num_rows: int, sequence_length: int) -> Fragments:
        first, last = (self.epoch_length * edge // self.num_lanes for edge in (lane, lane + 1))
        parts, taken = [], 0
        while taken < num_rows * sequence_length:
            epoch, place = divmod(cursor + taken, last - first)
            begin = epoch * self.epoch_length + first + place
            end = min(begin + num_rows * sequence_length - taken, epoch * self.epoch_length + last)
            parts.append(self.stretch(begin, end, sequence_length, origin=begin - taken))
            taken += end - begin
        return Fragments.join(parts)

    def stretch(self, begin: int, end: int, sequence_length: int, *, origin: int | None = None) -> Fragments:
        """The fragments of the stream's tokens [begin, end), cut into rows of S from `origin` (`begin` if not given).

        The first and the last row may be short. Rows are numbered from `origin`.
        """
        origin = begin if origin is None else origin
        parts, position = [], begin
        while position < end:
            epoch, rest = divmod(position, self.epoch_length)
            order, shard_ends = self._shards(epoch)
            rank = int(np.searchsorted(shard_ends, rest, side="right"))
            shard = int(order[rank])
            shard_begin = (
                epoch * self.epoch_length + int(shard_ends[rank]) - self.store.manifest.shards[shard].num_tokens
            )
            stop = min(end, epoch * self.epoch_length + int(shard_ends[rank]))
            cuts = np.arange(position + (origin - position) % sequence_length, stop, sequence_length) - shard_begin
            part = self._in_shard(epoch, shard, position - shard_begin, stop - shard_begin, cuts)
            parts.append(replace(part, row=(part.row + shard_begin - origin) // sequence_length))
            position = stop
        return Fragments.join(parts)

    def _in_shard(self, epoch: int, shard: int, low: int, high: int, cuts: np.ndarray) -> Fragments:
        """Tokens [low, high) of the shuffled shard, cut at documents' ends and at `cuts`; as row, their place in it."""
        stored_ends, ends = self._documents(epoch, shard)
        first = int(np.searchsorted(ends, low, side="right"))
        last = int(np.searchsorted(ends, high, side="left"))
        bounds = np.unique(np.concatenate([[low, high], ends[first:last], cuts]))
        document = first + np.searchsorted(ends[first : last + 1], bounds[:-1], side="right")
        to_end = ends[document] - bounds[:-1]
        length = np.diff(bounds)
        start = stored_ends[document] - to_end
        return Fragments(np.full(length.size, shard), start, length, bounds[:-1], length < to_end)

    def _order_shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(shards in this epoch's order, where each ends in the epoch), int64 [num_shards]."""
        sizes = self.store.shard_tokens
        order = _order(sizes.size, self._seed, epoch, _SHARD_ORDER, 0)
        return order, np.cumsum(sizes[order])

    def _order_documents(self, epoch: int, shard: int) -> tuple[np.ndarray, np.ndarray]:
        """In this epoch's order: (documents' ends in the stored shard, their ends in the shuffled one), [documents]."""
        offsets = self.store.document_offsets(shard)
        order = _order(offsets.size - 1, self._seed, epoch, _DOCUMENT_ORDER, shard)
        return offsets[1:][order], np.cumsum(np.diff(offsets)[order])


def _order(count: int, seed: int | None, epoch: int, salt: int, shard: int) -> np.ndarray:
    return np.arange(count) if seed is None else hash_permutation(count, seed, epoch, salt, shard)


class BestFitPacker:
    """Whole documents into rows of one length: longest first, each into the fullest row where it fits, shard by shard.

    A document longer than S is cut into stretches of S and a rest ("split") or refused ("error"). How many rows a shard
    makes follows from its lengths alone, so it is the same in every epoch; the constructor packs every shard once to
    count them (`shard_rows`, `num_padding` tokens an epoch), which suits fine-tuning sets, not ten billion documents.

    Raises ValueError for an unknown `long_documents`, or, with "error", for a document longer than S.
    """

    def __init__(self, store: TokenStore, *, seed: int, sequence_length: int, long_documents: str = "split"):
        if long_documents not in LONG_DOCUMENTS:
            raise ValueError(f"long_documents {long_documents!r} is not one of {', '.join(LONG_DOCUMENTS)}.")
        self.store = store
        self._seed, self._sequence_length, self._long_documents = seed, sequence_length, long_documents
        self.shard_rows = np.array([self._count_rows(shard) for shard in range(len(store.manifest.shards))], np.int64)
        self.epoch_length = int(self.shard_rows.sum())
        self.num_padding = self.epoch_length * sequence_length - store.num_tokens
        self.num_lanes = 1
        self._make_tables()

    def _make_tables(self) -> None:
        self._tables = functools.lru_cache(2)(self._pack_shard)

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_tables"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._make_tables()

    def stride(self, sequence_length: int) -> int:
        return 1

    def fragments(self, lane: int, cursor: int, num_rows: int, sequence_length: int) -> Fragments:
        if sequence_length != self._sequence_length:
            raise ValueError(f"These rows were packed for {self._sequence_length} tokens, not {sequence_length}.")
        parts, done = [], 0
        while done < num_rows:
            epoch, rest = divmod(cursor + done, self.epoch_length)
            order = hash_permutation(self.shard_rows.size, self._seed, epoch, _SHARD_ORDER, 0)
            ends = np.cumsum(self.shard_rows[order])
            rank = int(np.searchsorted(ends, rest, side="right"))
            shard = int(order[rank])
            low = rest - int(ends[rank] - self.shard_rows[shard])
            high = min(low + num_rows - done, int(self.shard_rows[shard]))
            table = self._tables(epoch, shard)
            taken = slice(*np.searchsorted(table.row, [low, high]))
            part = [getattr(table, name)[taken] for name in _FIELDS]
            part[_FIELDS.index("row")] = part[_FIELDS.index("row")] - low + done
            parts.append(Fragments(*part))
            done += high - low
        return Fragments.join(parts)

    def _cut(self, shard: int, order: np.ndarray) -> tuple[np.ndarray, ...]:
        """Documents in `order`, cut to at most S: (start, length, continues) of every stretch, each [stretches]."""
        size = self._sequence_length
        offsets = self.store.document_offsets(shard)
        lengths = np.diff(offsets)
        if self._long_documents == "error" and lengths.size and lengths.max() > size:
            name = self.store.manifest.shards[shard].name
            raise ValueError(f"{self.store.path}/{name} has a document of {lengths.max()} tokens; a row holds {size}.")
        pieces = -(-lengths[order] // size)
        nth = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        rest = np.repeat(lengths[order], pieces) - nth * size
        return np.repeat(offsets[:-1][order], pieces) + nth * size, np.minimum(rest, size), rest > size

    def _count_rows(self, shard: int) -> int:
        lengths = self._cut(shard, np.arange(self.store.document_lengths(shard).size))[1]
        return int(best_fit_decreasing(lengths, self._sequence_length)[0].max(initial=-1)) + 1

    def _pack_shard(self, epoch: int, shard: int) -> Fragments:
        count = self.store.document_lengths(shard).size
        order = hash_permutation(count, self._seed, epoch, _DOCUMENT_ORDER, shard)
        start, length, continues = self._cut(shard, order)
        row, column = best_fit_decreasing(length, self._sequence_length)
        # Longest first fills the early rows with long documents: shuffle the rows.
        row = hash_permutation(int(self.shard_rows[shard]), self._seed, epoch, _ROW_ORDER, shard)[row]
        sort = np.lexsort((column, row))
        fragments = (np.full(row.size, shard), start, length, row, continues)
        return Fragments(*(field[sort] for field in fragments))


def best_fit_decreasing(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Packs lengths [F], each 1 … capacity, into rows: (row, column) of each, int64 [F].

    Longest first, ties in the order given; each goes to the row with the least room that still suffices, and of several
    such rows to the one that reached that state last. How many rows it takes depends on the lengths, not their order.
    """
    row, column = np.empty(lengths.size, np.int64), np.empty(lengths.size, np.int64)
    rows_with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    occupied = 0  # bit r is set where rows_with_room[r] is not empty
    num_rows = 0
    order = np.argsort(-lengths, kind="stable")
    for index, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        candidates = occupied >> length
        if candidates:
            room = length + (candidates & -candidates).bit_length() - 1
            chosen = rows_with_room[room].pop()
            if not rows_with_room[room]:
                occupied ^= 1 << room
        else:
            room, chosen = capacity, num_rows
            num_rows += 1
        row[index], column[index] = chosen, capacity - room
        if room > length:
            rows_with_room[room - length].append(chosen)
            occupied |= 1 << (room - length)
    return row, column


def read_rows(
    parts: Sequence[tuple[TokenStore, Fragments]], num_rows: int, sequence_length: int
) -> dict[str, np.ndarray]:
    """Reads the fragments of one or more stores; no two may share a row. `place_rows` turns the result into rows.

    The result holds the tokens as stored, each fragment's followed by one more where it continues, and how to lay them
    out: a quarter of the rows' size or less, which is what should travel between processes. All reads of the call are
    under way at once. Raises what `TokenStore.start_reads` raises.
    """
    waits = [store.start_reads(f.shard, f.start, f.start + f.length + f.continues) for store, f in parts]
    joined = Fragments.join([fragments for _, fragments in parts])
    return {
        "tokens": np.concatenate([wait() for wait in waits]),
        "length": joined.length,
        "row": joined.row,
        "continues": joined.continues,
        "shape": np.array([num_rows, sequence_length]),
    }


def place_rows(read: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows from what `read_rows` read: arrays [num_rows, S] as in ROW_DTYPES."""
    tokens, length, row, continues = (read[name] for name in ("tokens", "length", "row", "continues"))
    ends = np.cumsum(length)
    is_extra = np.zeros(tokens.size, bool)
    is_extra[(ends + np.cumsum(continues) - 1)[continues]] = True
    targets = np.append(tokens[1:], tokens[:1])[~is_extra]
    loss_weights = np.ones(targets.size, np.float32)
    targets[ends[~continues] - 1] = loss_weights[ends[~continues] - 1] = 0
    first = np.flatnonzero(np.diff(row, prepend=-1))  # each row's first fragment
    segment = np.arange(length.size) - np.repeat(first, np.diff(first, append=length.size)) + 1
    values = {
        "tokens": tokens[~is_extra],
        "targets": targets,
        "loss_weights": loss_weights,
        "segment_ids": np.repeat(segment.astype(np.int32), length),
        "positions": np.arange(targets.size, dtype=np.int32) - np.repeat((ends - length).astype(np.int32), length),
    }
    num_rows, sequence_length = read["shape"].tolist()
    holds_token = np.arange(sequence_length) < np.add.reduceat(length, first)[:, None]
    no_padding = holds_token.all()
    rows = {name: np.zeros((num_rows, sequence_length), dtype) for name, dtype in ROW_DTYPES.items()}
    for name, flat in values.items():
        if no_padding:
            block = flat.reshape(holds_token.shape)
        else:
            block = np.zeros(holds_token.shape, ROW_DTYPES[name])
            block[holds_token] = flat
        rows[name][row[first]] = block
    return rows


def pack_rows(
    packer: Packer, cursor: int, num_rows: int, sequence_length: int, *, lane: int = 0
) -> dict[str, np.ndarray]:
    """`num_rows` rows in succession from a lane's `cursor`, as arrays [num_rows, S] (ROW_DTYPES)."""
    fragments = packer.fragments(lane, cursor, num_rows, sequence_length)
    return place_rows(read_rows([(packer.store, fragments)], num_rows, sequence_length))


def sequential_rows(store: TokenStore, sequence_length: int, batch_rows: int = 1) -> Iterator[dict[str, np.ndarray]]:
    """One pass over a whole store in storage order, for held-out evaluation: arrays [batch_rows, S] (ROW_DTYPES).

    The last row, and rows missing from the last batch, are padding.
    """
    packer = ConcatPacker(store, seed=None)
    step = batch_rows * sequence_length
    for begin in range(0, store.num_tokens, step):
        fragments = packer.stretch(begin, min(begin + step, store.num_tokens), sequence_length)
        yield place_rows(read_rows([(store, fragments)], batch_rows, sequence_length))
