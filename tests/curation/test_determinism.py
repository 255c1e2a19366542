"""What no result may depend on: clocks, chance, the environment; and code that a step's fingerprint does not know."""

import ast
import contextlib
import pathlib
import sys

import pytest

import llama3_jax.curation
from llama3_jax.curation.curation_config import ModelEntry
from llama3_jax.curation.deduplicate import DedupConfig
from llama3_jax.curation.fingerprints import modules_behind
from llama3_jax.curation.pipeline import make_steps
from llama3_jax.curation.runner import run_steps
from llama3_jax.curation.selection import SelectionConfig
from tests.curation.corpus import write_files
from tests.curation.test_pipeline import config
from tests.curation.test_selection import model  # noqa: F401

ROOT = pathlib.Path(llama3_jax.curation.__path__[0])
PACKAGE = "llama3_jax.curation."
SPENDS_TIME = {"runner.py": "progress", "labelling/judge.py": "waits for a server"}
RUNS = PACKAGE + "runner"  # decides what is done where


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_clock_chance_or_environment(path):
    """Another program extracts fewer pages on a machine that is busy, and seeds its filters anew in every worker."""
    if path.relative_to(ROOT).as_posix() in SPENDS_TIME:
        return
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
        elif isinstance(node, ast.Attribute):
            names.add(f"{getattr(node.value, 'id', getattr(node.value, 'attr', ''))}.{node.attr}")
        elif isinstance(node, ast.Call):
            names.add(f"{getattr(node.func, 'id', '')}()")
    chance = {"time", "random", "secrets", "datetime.now", "datetime.today", "date.today", "np.random", "hash()"}
    assert not names & (chance | {"os.environ", "os.getenv", "os.cpu_count", "id()"})


@contextlib.contextmanager
def functions_at_work():
    """(module, name) of the functions of curation that are called meanwhile."""
    found = set()

    def see(frame, event, argument):
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith(PACKAGE):
            found.add((module, frame.f_code.co_qualname))

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        yield found
    finally:
        sys.setprofile(before)


def is_known(step, module, name):
    """Whether a change of this function is another fingerprint of the step."""
    known = {each for code in (step.work.__module__, *step.code) for each in modules_behind(code)}
    make = getattr(step.settings, "make", None)
    is_maker = make and module == make.__module__ and name.partition(".")[0] == make.__qualname__
    return module in known or bool(is_maker)


def test_a_step_knows_the_code_that_makes_its_result(tmp_path, model):  # noqa: F811
    """Otherwise a change of that code would find the old result again."""
    pages = write_files(tmp_path / "pages", 2)
    benchmark = tmp_path / "benchmark.txt"
    benchmark.write_text("one two three four five six seven eight nine\n")
    settings = config(
        tmp_path,
        pages,
        models={"quality": ModelEntry(path=model, label="classes")},
        knowledge=model,
        benchmarks={"own": (str(benchmark),)},
        dedup=DedupConfig(verify=0.8),
        selection=SelectionConfig(rank_by="quality", shares={"classes": 0.5, "other": 0.5}),
    )
    steps = make_steps(settings)
    assert steps["publish"].fingerprint  # the sources are read before anybody looks
    for step in steps.values():
        with functions_at_work() as found:
            run_steps([step], settings.workdir, settings.runner)
        assert len(found) > 10
        assert [each for each in sorted(found) if each[0] != RUNS and not is_known(step, *each)] == [], step.name


def test_a_module_is_known_with_what_it_imports():
    behind = modules_behind(PACKAGE + "survivors")
    assert behind == (PACKAGE + "survivors",)
    behind = modules_behind(PACKAGE + "deduplicate")
    assert {PACKAGE + name for name in ("minhash", "text_batch", "characters", "hashing", "tables")} <= set(behind)
    assert PACKAGE + "pii" not in behind and "llama3_jax.core.paths" in behind
    assert {PACKAGE + "extract.markup", "llama3_jax.core.files"} <= set(modules_behind(PACKAGE + "reading"))
    with pytest.raises(ModuleNotFoundError, match="no_such"):
        modules_behind("no_such_module")


def test_a_list_that_changes_is_another_fingerprint(tmp_path):
    pages = write_files(tmp_path / "pages", 1)
    words = tmp_path / "words"
    words.mkdir()
    (words / "de.txt").write_text("mist\n")
    fingerprint = lambda **settings: make_steps(config(tmp_path, pages, **settings))["heuristics"].fingerprint
    found = [fingerprint(), fingerprint(dirty_words=str(words))]
    (words / "de.txt").rename(words / "en.txt")
    found.append(fingerprint(dirty_words=str(words)))
    (words / "en.txt").write_text("fog\n")
    found.append(fingerprint(dirty_words=str(words)))
    assert len(set(found)) == 4 and fingerprint(dirty_words=str(words)) == found[-1]
