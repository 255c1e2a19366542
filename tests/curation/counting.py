"""Small steps for the tests of the runner: functions of a module, so that workers find them."""

import os
import signal

import pyarrow as pa

from llama3_jax.curation.steps import DOCUMENTS, DROPPED, Step

NUM_TASKS = 5


def squares(tasks):
    (task,) = tasks
    task.write("numbers", pa.table({"n": [task.index**2 + task.settings]}))
    return [{DOCUMENTS: 1, "bytes": 10}]


def total(tasks):
    (task,) = tasks
    squares = task.inputs["squares"]
    numbers = [squares.rows(index, "numbers")["n"][0].as_py() for index in range(squares.num_tasks)]
    task.write("total", pa.table({"n": [sum(numbers)]}))
    return [{}]


def together(tasks):
    for task in tasks:
        with open(f"{task.settings}/log", "a") as file:
            file.write(f"{task.step} {task.index} of {len(tasks)}\n")
    return [{DOCUMENTS: 2}] * len(tasks)


def drops_nearly_all(tasks):
    return [{DOCUMENTS: 1000, DROPPED: 990, "reason.timeout": 900, "reason.empty": 90}]


def dies_once(tasks):
    """Kills its own process at task 2, the first time."""
    (task,) = tasks
    dead = f"{task.settings}/dead"
    if task.index == 2 and not os.path.exists(dead):
        open(dead, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    task.write("numbers", pa.table({"n": [task.index]}))
    return [{DOCUMENTS: 1}]


def chain(plus=0):
    first = Step(name="squares", work=squares, num_tasks=NUM_TASKS, settings=plus)
    return [first, Step(name="total", work=total, num_tasks=1, after={"squares": first})]
