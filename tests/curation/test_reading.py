"""Files are read in groups: few tasks for folders of many small pages, and every page once."""

import pytest

from llama3_jax.curation.curation_config import CurationConfig, SourceEntry
from llama3_jax.curation.pipeline import make_steps
from llama3_jax.curation.reading import grouped
from llama3_jax.curation.runner import RunnerConfig, run_steps
from llama3_jax.curation.sources import SourceFile


def files(*sizes):
    return [SourceFile(f"f{number}", f"f{number}", size) for number, size in enumerate(sizes)]


@pytest.mark.parametrize(
    "sizes,expected",
    [
        ([], []),
        ([0], [[0]]),
        ([5, 5, 5], [[5, 5], [5]]),
        ([20, 1, 2, 30, 3], [[20], [1, 2], [30], [3]]),
        ([0] * 2500, [[0] * 1000, [0] * 1000, [0] * 500]),
    ],
)
def test_groups_are_of_neighbours_and_bounded(sizes, expected):
    assert [[file.size for file in group] for group in grouped(files(*sizes), 10)] == expected


def test_a_folder_of_pages_is_read_in_few_tasks(tmp_path, capsys):
    (tmp_path / "pages").mkdir()
    for number in range(300):
        text = f"Page {number} of a folder has a sentence that says so. " * 5
        (tmp_path / "pages" / f"{number}.html").write_text(f"<p>{text}</p>")
    config = CurationConfig(
        workdir=str(tmp_path / "work"),
        output=str(tmp_path / "out"),
        sources={"folder": SourceEntry(paths=(str(tmp_path / "pages"),))},
        language="en",
        runner=RunnerConfig(workers=0),
    )
    steps = make_steps(config)
    run_steps([steps["read-folder"]], config.workdir, config.runner)
    assert "read-folder: 1 tasks" in capsys.readouterr().err
    assert steps["read-folder"].results(config.workdir).total()["documents"] == 300
