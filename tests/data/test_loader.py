"""The loader: one run's tokens are the same for any resume, host count, worker count; and failures are heard."""

import hashlib
import multiprocessing
import subprocess
import sys

import numpy as np
import pytest

from llama3_jax.data.loader import BatchSource, DataSegment, _lane_order, make_loader
from llama3_jax.data.mixture import Mixture
from llama3_jax.data.packing import ROW_DTYPES, ConcatPacker, pack_rows
from llama3_jax.data.token_store import TokenStore, TokenStoreWriter

VOCAB = 5000


def write_store(path, documents, **settings):
    settings = {"tokenizer_fingerprint": "tok", "vocab_size": VOCAB, "num_shards": 3} | settings
    with TokenStoreWriter(path, **settings) as writer:
        for tokens in documents:
            writer.add(tokens, num_bytes=len(tokens))
    return TokenStore.open(str(path))


def fixed_documents(salt, count=18):
    """Documents by arithmetic alone, so that the golden test depends on no random generator."""
    lengths = [1 + (i * i * 37 + salt) % 199 for i in range(count)]
    return [(np.arange(n) * 7919 + i * 104729 + salt) % VOCAB for i, n in enumerate(lengths)]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return {name: write_store(folder / name, fixed_documents(salt)) for salt, name in enumerate(("web", "code"))}


# Mixture, batch size and sequence length all change, at different steps.
PLAN = (
    DataSegment(start_step=0, num_steps=4, batch_rows=8, sequence_length=64, weights={"web": 5, "code": 2}),
    DataSegment(start_step=4, num_steps=3, batch_rows=8, sequence_length=64, weights={"web": 1, "code": 1.4}),
    DataSegment(start_step=7, num_steps=2, batch_rows=16, sequence_length=64, weights={"web": 1, "code": 1.4}),
    DataSegment(start_step=9, num_steps=3, batch_rows=4, sequence_length=160, weights={"code": 1}),
)


def changed(*segments, **changes):
    return tuple(DataSegment(**(vars(segment) | changes)) for segment in segments)


def digest(batches):
    sha256 = hashlib.sha256()
    for batch in batches:
        for name in sorted(batch):
            sha256.update(name.encode() + str(batch[name].shape).encode() + batch[name].tobytes())
    return sha256.hexdigest()


def assert_batches_equal(found, expected):
    assert found.keys() == expected.keys() == ROW_DTYPES.keys()
    for name, array in expected.items():
        assert type(found[name]) is np.ndarray and found[name].dtype == ROW_DTYPES[name]
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.fixture(params=["concat", "best_fit"])
def source(request, stores):
    plan = PLAN if request.param == "concat" else changed(*PLAN, sequence_length=64)
    return BatchSource(plan, stores, seed=7, packing=request.param)


GOLDEN = {
    "concat": "a48c77296c67ef9fdb6c32af46fef16e9309d0a804e128cf09910f0c19b93157",
    "one_lane": "97c55de90e50746834520a3592ee960d477a504f32a1d1d70abcf6e80d290d4f",
    "best_fit": "d861b54c3199f02a56c249956692357d23ea55078763c122591c01af653714d8",
}


def test_golden(stores):
    """A silent change of order, packing or mixture changes every run in progress: it must fail here first."""
    concat = BatchSource(PLAN, stores, seed=7)
    assert digest(concat.batch(step) for step in range(12)) == GOLDEN["concat"]
    one_lane = BatchSource(PLAN, stores, seed=7, lanes=1)
    assert digest(one_lane.batch(step) for step in range(12)) == GOLDEN["one_lane"]
    best_fit = BatchSource(changed(*PLAN, sequence_length=64), stores, seed=7, packing="best_fit")
    assert digest(best_fit.batch(step) for step in range(12)) == GOLDEN["best_fit"]
    assert digest(BatchSource(PLAN, stores, seed=8).batch(step) for step in range(12)) not in GOLDEN.values()


@pytest.mark.parametrize("lanes", [1, 3, 64])
def test_batches_continue_each_lane(stores, lanes):
    """A source's rows come from its lanes in turn, and each lane's rows, one after another, are its stretch of the
    packer's stream, epoch after epoch: nothing is lost or doubled by any change of plan.
    """
    source = BatchSource(PLAN, stores, seed=7, lanes=lanes)
    rows_of = {name: [] for name in stores}
    plan_row = 0
    for step in range(12):
        segment, batch = source.segment_at(step), source.batch(step)
        assert batch["tokens"].shape == (segment.batch_rows, segment.sequence_length)
        mixture = Mixture({name: segment.weights.get(name, 0) for name in stores})
        for row, of in enumerate(mixture.source_of(plan_row + np.arange(segment.batch_rows))):
            rows_of[mixture.names[of]].append(batch["tokens"][row])
        plan_row += segment.batch_rows
    for name, rows in rows_of.items():
        assert sum(row.size for row in rows) > 1.5 * stores[name].num_tokens  # so that epochs' borders are crossed
        total = stores[name].num_tokens
        epochs = [
            pack_rows(ConcatPacker(stores[name], seed=7), epoch * total, 1, total)["tokens"][0] for epoch in range(9)
        ]
        # Each cycle takes one row from every lane, in an order that changes.
        orders = [_lane_order(lanes, 7, cycle) for cycle in range(-(-len(rows) // lanes))]
        assert lanes == 1 or len({order.tobytes() for order in orders}) > 1 or len(orders) == 1
        lane_of = np.concatenate(orders)[: len(rows)]
        for lane in range(lanes):
            found = np.concatenate(
                [row for row, of in zip(rows, lane_of, strict=True) if of == lane] or [np.zeros(0, np.int32)]
            )
            first, last = total * lane // lanes, total * (lane + 1) // lanes
            np.testing.assert_array_equal(found, np.concatenate([epoch[first:last] for epoch in epochs])[: found.size])
    # 32 rows at 5 : 2, then 56 rows at 1 : 1.4.
    assert abs(len(rows_of["web"]) - 32 * 5 / 7 - 56 / 2.4) < 2


def test_more_steps_at_the_end_leave_earlier_batches_alone(source):
    """A stage that is given more tokens goes on where it was."""
    *before, last = [placed.segment for placed in source._placed]
    names = dict.fromkeys(source.names)
    longer = BatchSource(
        (*before, *changed(last, num_steps=9)),
        {name: source._packers[source.names.index(name)].store for name in names},
        seed=7,
        packing="concat" if isinstance(source._packers[0], ConcatPacker) else "best_fit",
    )
    for step in range(12):
        assert_batches_equal(longer.batch(step), source.batch(step))


def test_any_partition_of_rows(source):
    for step in range(12):
        whole = source.batch(step)
        count = source.segment_at(step).batch_rows
        for hosts in (1, 2, 4):
            size = count // hosts
            parts = [source.batch(step, slice(host * size, (host + 1) * size)) for host in range(hosts)]
            joined = {name: np.concatenate([part[name] for part in parts]) for name in ROW_DTYPES}
            assert_batches_equal(joined, whole)
        asked = [count - 1, 0, 3]
        assert_batches_equal(source.batch(step, asked), {name: whole[name][asked] for name in ROW_DTYPES})
        assert_batches_equal(source.batch(step, slice(1, None, 2)), {name: whole[name][1::2] for name in ROW_DTYPES})


def test_cutting_a_segment_changes_nothing(stores):
    first, *rest = PLAN
    pieces = (*changed(first, num_steps=1), *changed(first, start_step=1, num_steps=3))
    whole, cut = BatchSource(PLAN, stores, seed=7), BatchSource((*pieces, *rest), stores, seed=7)
    for step in range(12):
        assert_batches_equal(cut.batch(step), whole.batch(step))


@pytest.mark.parametrize("start", [0, 3, 8])
def test_resume_anywhere(source, start):
    fresh = [source.batch(step) for step in range(start, 12)]
    with make_loader(source, start_step=start, stop_step=12) as loader:
        loaded = list(loader)
    assert len(loaded) == len(fresh)
    for found, expected in zip(loaded, fresh, strict=True):
        assert_batches_equal(found, expected)
    with pytest.raises(StopIteration):
        next(loader)


@pytest.mark.parametrize("prefetch", [0, 1, 5])
def test_read_ahead_changes_nothing(source, prefetch):
    with make_loader(source, start_step=2, stop_step=10, rows=slice(0, 2), prefetch_batches=prefetch) as loader:
        for step, found in enumerate(loader, start=2):
            assert_batches_equal(found, source.batch(step, slice(0, 2)))


def test_two_workers(source):
    with make_loader(source, start_step=1, stop_step=12, num_workers=2) as loader:
        loaded = list(loader)
    assert len(loaded) == 11
    for step, found in enumerate(loaded, start=1):
        assert_batches_equal(found, source.batch(step))
    assert not multiprocessing.active_children()


def test_close_in_the_middle_ends_workers(stores):
    source = BatchSource(PLAN, stores, seed=7)
    loader = make_loader(source, start_step=0, stop_step=12, num_workers=2)
    assert_batches_equal(next(loader), source.batch(0))
    loader.close()
    loader.close()
    assert not multiprocessing.active_children()
    assert next(loader, None) is None
    make_loader(source, start_step=0, stop_step=12, num_workers=2).close()  # never read from


SCRIPT = """
import sys
from llama3_jax.data.loader import BatchSource, DataSegment, _lane_order, make_loader
from llama3_jax.data.token_store import TokenStore


def main():
    segment = DataSegment(start_step=0, num_steps=20, batch_rows=8, sequence_length=512, weights={"web": 1})
    source = BatchSource([segment], {"web": TokenStore.open(sys.argv[1])}, seed=0)
    loader = make_loader(source, start_step=0, stop_step=20, num_workers=2, prefetch_batches=4)
    held = list(loader) if sys.argv[2] == "all" else [next(loader) for _ in range(3)]
    print(len(held))
    return loader, held


if __name__ == "__main__":
    loader, held = main()
"""


@pytest.mark.parametrize(("batches", "count"), [("some", 3), ("all", 20)])
def test_program_that_forgets_to_close_ends_quietly(stores, tmp_path, batches, count):
    """Started like the installed `llama3` command: a file without suffix, absl flags never parsed."""
    script = tmp_path / "llama3"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), stores["web"].path, batches]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (f"{count}\n", "", 0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_errors_in_the_background_are_raised(tmp_path, num_workers):
    store = write_store(tmp_path / "bad", fixed_documents(0), num_shards=1)
    file = tmp_path / "bad/shard-00000/tokens/c/0"
    data = bytearray(file.read_bytes())
    data[500] ^= 1
    file.write_bytes(data)
    source = BatchSource(changed(PLAN[0], weights={"bad": 1}), {"bad": store}, seed=0)
    loader = make_loader(source, start_step=0, stop_step=4, num_workers=num_workers)
    with pytest.raises(ValueError, match=r"bad/shard-00000/tokens cannot be read: DATA_LOSS") as error:
        list(loader)
    assert error.traceback  # held, as a program's handler would: it must not keep workers alive
    assert not multiprocessing.active_children()
    assert next(loader, None) is None


def test_epochs(source, stores):
    assert source.epochs(0) == {"code": 0.0, "web": 0.0}
    seen = source.epochs(12)
    assert seen["code"] > 1
    half = source.epochs(4)
    assert 0 < half["code"] < half["web"] < seen["web"]
    if source.segment_at(11).sequence_length == 160:  # concat counts tokens
        tokens = {name: seen[name] * stores[name].num_tokens for name in seen}
        assert tokens["web"] % 64 == pytest.approx(0)
        assert sum(tokens.values()) == pytest.approx((32 + 56) * 64 + 12 * 160)
    with pytest.raises(ValueError, match="Step 12 is outside the plan, which covers steps 0 to 11"):
        source.epochs(13)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ((), "at least one DataSegment"),
        ((PLAN[0], PLAN[2]), "ends at step 4, the next starts at 7"),
        (changed(PLAN[0], weights={"web": 1, "wiki": 1}), r"names sources \['wiki'\]; there are \['code', 'web'\]"),
        (changed(PLAN[0], weights={"web": -1}), "must be finite and at least 0"),
        (changed(PLAN[0], weights={"web": 0}), "sum to 0"),
    ],
)
def test_refused_plans(stores, plan, message):
    with pytest.raises(ValueError, match=message):
        BatchSource(plan, stores, seed=0)


def test_refused_settings(stores, tmp_path):
    for field in ("start_step", "num_steps", "batch_rows", "sequence_length"):
        with pytest.raises(ValueError, match=f"DataSegment.{field} is -1"):
            changed(PLAN[0], **{field: -1})
    with pytest.raises(ValueError, match="packing 'first_fit' is not one of concat, best_fit"):
        BatchSource(PLAN, stores, seed=0, packing="first_fit")
    with pytest.raises(ValueError, match=r"'code' is read at sequence lengths \[64, 160\]; best-fit rows are packed"):
        BatchSource(PLAN, stores, seed=0, packing="best_fit")
    with pytest.raises(ValueError, match="a document of 1[0-9]+ tokens; a row holds 64"):
        short = changed(PLAN[0], sequence_length=64)
        BatchSource(short, stores, seed=0, packing="best_fit", long_documents="error")
    other = write_store(tmp_path / "other", fixed_documents(0), tokenizer_fingerprint="other")
    with pytest.raises(ValueError, match="different tokenizers"):
        BatchSource(PLAN, {"web": stores["web"], "code": other}, seed=0)


def test_refused_requests(stores):
    source = BatchSource(changed(PLAN[0], start_step=5), stores, seed=0)
    for step in (4, 9):
        with pytest.raises(ValueError, match=f"Step {step} is outside the plan, which covers steps 5 to 8"):
            source.batch(step)
    for rows in ([8], [-1], [], slice(8, 9)):
        with pytest.raises(ValueError, match="Step 5 has rows 0 to 7"):
            source.batch(5, rows)
    for wrong in ({"stop_step": 5}, {"num_workers": -1}, {"prefetch_batches": -1}):
        with pytest.raises(ValueError, match="there must be at least one step"):
            make_loader(source, **({"start_step": 5, "stop_step": 7} | wrong))
    with pytest.raises(ValueError, match="outside the plan"):
        make_loader(source, start_step=5, stop_step=10)
