"""How tests of commands call them."""

import logging

import pytest

from llama3_jax import cli


@pytest.fixture(autouse=True)
def log_level():
    """The command line quiets a logger of the whole process."""
    logger = logging.getLogger("absl")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture
def llama3(capfd):
    """`llama3(*arguments) -> (exit status, stdout, lines of stderr)`."""

    def run(*arguments):
        capfd.readouterr()
        status = cli.main([str(argument) for argument in arguments])
        printed = capfd.readouterr()
        return status, printed.out, printed.err.splitlines()

    return run
