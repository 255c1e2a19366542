"""Schedules as text and as a picture: blocks that fill the time without overlap, and the tables of the guide."""

import collections
import itertools
import pathlib
import re

import matplotlib.image
import numpy as np
import pytest

from llama3_jax.parallel.schedule import SCHEDULES, make_schedule
from llama3_jax.plan.timeline import costs_table, draw_timeline, lay_out, schedule_table, tick_starts

GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "pipeline.md"
FIGURE_6 = (4, 2, 10, 5)
TYPICAL = [
    (4, 2, 10, 5),
    (16, 1, 64, 16),
    (16, 8, 16, 16),
    (16, 8, 64, 16),
    (16, 8, 64, 32),
    (16, 8, 64, 64),
    (16, 8, 64, 8),
    (16, 8, 8, 8),
    (16, 8, 40, 16),
    (16, 8, 32, 16),
    (16, 8, 32, 16, "gpipe"),
    (16, 8, 64, 16, "gpipe"),
]
SHAPES = [(1, 1, 3, 1), (2, 3, 5, 2), (4, 2, 10, 5), (4, 2, 3, 3), (4, 1, 9, 2), (8, 2, 16, 8)]


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("forward", "backward"), [(1.0, 2.0), (0.03, 0.01)])
def test_blocks_fill_the_time(kind, shape, forward, backward):
    schedule = make_schedule(*shape, kind)
    blocks = lay_out(schedule, forward, backward)
    ranks, chunks, micro_batches, _ = shape
    wanted = set(itertools.product(range(ranks), (False, True), range(chunks), range(micro_batches)))
    assert len(blocks) == len(wanted)
    assert {(block.rank, block.backward, block.chunk, block.micro) for block in blocks} == wanted
    by_rank = collections.defaultdict(list)
    for block in blocks:
        assert block.seconds == (backward if block.backward else forward)
        by_rank[block.rank].append((block.start, block.start + block.seconds))
    worked = chunks * micro_batches * (forward + backward)
    for spans in by_rank.values():
        spans.sort()
        assert all(before[1] <= after[0] + 1e-9 for before, after in itertools.pairwise(spans)), "blocks overlap"
        assert sum(stop - start for start, stop in spans) == pytest.approx(worked)
    assert min(start for spans in by_rank.values() for start, _ in spans) == 0
    end = max(stop for spans in by_rank.values() for _, stop in spans)
    assert end == pytest.approx(worked * (1 + schedule.bubble(forward, backward)))
    assert end == pytest.approx(tick_starts(schedule, forward, backward)[-1])


def test_blocks_lie_within_their_tick_forward_first():
    schedule = make_schedule(*FIGURE_6)
    starts = tick_starts(schedule, 1.0, 2.0)
    assert set(np.diff(starts)) == {1.0, 3.0, 2.0}
    for block in lay_out(schedule, 1.0, 2.0):
        table = schedule.backward if block.backward else schedule.forward
        (tick,) = np.flatnonzero(
            (table.chunk_TP[:, block.rank] == block.chunk) & (table.micro_TP[:, block.rank] == block.micro)
        )
        if block.backward:
            assert block.start + block.seconds == starts[tick + 1]
        else:
            assert block.start == starts[tick]


@pytest.mark.parametrize("shape", [*SHAPES, (16, 8, 64, 16), (4, 2, 10, 5, "gpipe")])
def test_draws(shape, tmp_path):
    file = str(tmp_path / "timeline.png")
    draw_timeline(make_schedule(*shape), 2e-5, 4e-5, file)
    picture = matplotlib.image.imread(file)
    height, width, _ = picture.shape
    assert width >= 2000 and height / width < 9 / 16, "for a slide"
    red, green, blue = (picture[..., channel] for channel in range(3))
    assert (blue > red + 0.2).mean() > 0.02 and (red > blue + 0.2).mean() > 0.02, "forwards blue, backwards orange"


def test_a_table_of_two_ranks():
    assert schedule_table(make_schedule(2, 1, 3, 2)).splitlines() == [
        "tick | 0| 1  2  3| 4",
        " 0 F |a0|a1 a2  .| .",
        " 0 B | .| . a0 a1|a2",
        " 1 F | .|a0 a1 a2| .",
        " 1 B | .|a0 a1 a2| .",
    ]


def test_a_table_has_letters_for_so_many_chunks():
    assert "Z0" in schedule_table(make_schedule(1, 52, 1, 1))
    with pytest.raises(ValueError, match="52 chunks a rank, not for 53"):
        schedule_table(make_schedule(1, 53, 1, 1))


def test_tables_of_the_guide():
    text = GUIDE.read_text(encoding="utf-8")
    assert schedule_table(make_schedule(*FIGURE_6)) in text
    assert costs_table([make_schedule(*shape) for shape in TYPICAL]) in text


def test_code_of_the_guide(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out == schedule_table(make_schedule(*FIGURE_6)) + "\n"
    assert (tmp_path / "pipeline.png").exists()
