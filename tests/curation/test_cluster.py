"""Steps on Daft's own runner: the bytes are those of a pool."""

import pytest

from llama3_jax.curation.cluster import daft_engine
from llama3_jax.curation.pipeline import make_steps
from llama3_jax.curation.runner import RunnerConfig, TooManyDropped, run_steps
from llama3_jax.curation.steps import Step
from tests.curation.corpus import write_files
from tests.curation.counting import drops_nearly_all
from tests.curation.test_pipeline import config, digest

pytest.importorskip("daft")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Daft's own


def test_daft_gives_the_same_bytes(tmp_path):
    pages = write_files(tmp_path / "pages", 4)
    here, there = config(tmp_path, pages), config(tmp_path, pages, "cluster")
    for settings, engine in ((here, None), (there, daft_engine)):
        run_steps(list(make_steps(settings).values()), settings.workdir, settings.runner, engine)
    assert digest(there) == digest(here)


def test_what_the_work_raises_stops_the_run(tmp_path):
    step = Step(name="extract", work=drops_nearly_all, num_tasks=1)
    with pytest.raises(TooManyDropped, match="more than max_dropped"):
        run_steps([step], str(tmp_path), RunnerConfig(workers=0), daft_engine)
