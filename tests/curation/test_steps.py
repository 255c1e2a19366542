"""Steps are found again by what they depend on, done once, in any order, by any number of processes, killed or not."""

import json
import pathlib
import threading

import pytest

from llama3_jax.curation.runner import RunnerConfig, TooManyDropped, run_steps
from llama3_jax.curation.steps import Step
from tests.curation.counting import NUM_TASKS, chain, dies_once, drops_nearly_all, together

HERE = RunnerConfig(workers=0)


def answer(steps, workdir):
    return steps[-1].results(str(workdir)).rows(0, "total")["n"][0].as_py()


def test_a_chain_of_steps(tmp_path, capsys):
    steps = chain()
    run_steps(steps, str(tmp_path), HERE)
    assert answer(steps, tmp_path) == sum(n**2 for n in range(NUM_TASKS))
    assert steps[0].results(str(tmp_path)).total() == {"documents": NUM_TASKS, "bytes": 10 * NUM_TASKS}
    assert "squares: 5 tasks" in capsys.readouterr().err
    run_steps(steps, str(tmp_path), HERE)
    assert capsys.readouterr().err == ""  # all of it is there


def test_other_settings_are_another_result(tmp_path):
    run_steps(chain(0), str(tmp_path), HERE)
    other = chain(1)
    run_steps(other, str(tmp_path), HERE)
    assert answer(other, tmp_path) == answer(chain(0), tmp_path) + NUM_TASKS
    assert len(list(tmp_path.iterdir())) == 4


def test_the_fingerprint_is_that_of_settings_code_and_what_came_before():
    first, last = chain()
    same = chain()[1]
    assert last.fingerprint == same.fingerprint
    changed = {
        Step(name="total", work=last.work, num_tasks=1, after={"squares": chain(1)[0]}).fingerprint,
        Step(name="sum", work=last.work, num_tasks=1, after=last.after).fingerprint,
        Step(name="total", work=last.work, num_tasks=2, after=last.after).fingerprint,
        Step(name="total", work=last.work, num_tasks=1, after=last.after, code=("json",)).fingerprint,
        Step(name="total", work=last.work, num_tasks=1, after=last.after, settings={"a": 1}).fingerprint,
        first.fingerprint,
        last.fingerprint,
    }
    assert len(changed) == 7
    with pytest.raises(TypeError, match="cannot hold"):
        Step(name="total", work=last.work, num_tasks=1, settings=object()).fingerprint  # noqa: B018


def test_shards_share_the_tasks_and_wait_for_each_other(tmp_path):
    steps = chain()
    threads = [
        threading.Thread(target=run_steps, args=(steps, str(tmp_path), RunnerConfig(workers=0, shard=i, num_shards=3)))
        for i in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answer(steps, tmp_path) == sum(n**2 for n in range(NUM_TASKS))


def test_steps_with_the_same_work_are_done_together_and_only_those_that_are_due(tmp_path):
    def steps(names):
        return [Step(name=name, work=together, num_tasks=2, settings=str(tmp_path)) for name in names]

    run_steps(steps(["a", "b"]), str(tmp_path), HERE)
    run_steps(steps(["a", "b", "c"]), str(tmp_path), HERE)
    log = (tmp_path / "log").read_text().splitlines()
    assert log == ["a 0 of 2", "b 0 of 2", "a 1 of 2", "b 1 of 2", "c 0 of 1", "c 1 of 1"]


def test_a_worker_that_is_killed_costs_its_task_only(tmp_path):
    step = Step(name="numbers", work=dies_once, num_tasks=6, settings=str(tmp_path))
    with pytest.raises(ValueError, match="a worker died.*the same command continues"):
        run_steps([step], str(tmp_path), RunnerConfig(workers=2))
    assert 2 not in step.results(str(tmp_path)).done()
    run_steps([step], str(tmp_path), RunnerConfig(workers=2))
    assert step.results(str(tmp_path)).done() == set(range(6))
    assert not list(pathlib.Path(tmp_path).rglob("*.partial"))


def test_a_file_without_a_marker_is_not_a_result(tmp_path):
    steps = chain()
    run_steps(steps, str(tmp_path), HERE)
    results = steps[0].results(str(tmp_path))
    pathlib.Path(results.marker(3)).unlink()
    pathlib.Path(results.path(3, "numbers")).write_bytes(b"half of it")
    assert results.done() == {0, 1, 2, 4}
    with pytest.raises(ValueError, match="task 3 of 5 has not been done"):
        results.total()
    run_steps(steps, str(tmp_path), HERE)
    assert results.rows(3, "numbers")["n"][0].as_py() == 9


def test_dropping_nearly_all_is_an_error_and_leaves_the_task_undone(tmp_path):
    step = Step(name="extract", work=drops_nearly_all, num_tasks=1)
    message = r"extract, task 0: 990 of 1,000 documents dropped, more than max_dropped 98% \(timeout 900, empty 90\)"
    with pytest.raises(TooManyDropped, match=message):
        run_steps([step], str(tmp_path), HERE)
    assert not step.results(str(tmp_path)).done()
    run_steps([step], str(tmp_path), RunnerConfig(workers=0, max_dropped=0.99))
    assert json.loads(pathlib.Path(step.results(str(tmp_path)).marker(0)).read_text())["reason.timeout"] == 900


def test_a_folder_of_its_own_is_not_written_over_by_other_settings(tmp_path):
    home = str(tmp_path / "out")
    first = Step(name="squares", work=chain()[0].work, num_tasks=1, settings=0, home=home)
    run_steps([first], str(tmp_path), HERE)
    with pytest.raises(ValueError, match="holds the result of other settings"):
        run_steps([Step(name="squares", work=first.work, num_tasks=1, settings=1, home=home)], str(tmp_path), HERE)


@pytest.mark.parametrize("wrong", [{"workers": -1}, {"shard": 3, "num_shards": 3}, {"max_dropped": 0}])
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RunnerConfig(**wrong)
