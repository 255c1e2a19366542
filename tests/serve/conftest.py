"""One tiny model for all tests of the server."""

import pytest

from tests.serve import servers


@pytest.fixture(scope="session")
def checkpoint(inputs, tmp_path_factory):
    """Its folder."""
    folder = tmp_path_factory.mktemp("serve") / "tiny"
    servers.write_checkpoint(folder, inputs / "tokenizer.model")
    return folder


@pytest.fixture(scope="session")
def trained(checkpoint):
    return servers.load(checkpoint)


@pytest.fixture(scope="session")
def shared(trained):
    """A server that many tests share: none may leave it changed."""
    with servers.running(lambda: servers.make_generator(trained), trained.tokenizer) as server:
        yield server


@pytest.fixture
def server(shared):
    """The shared server; afterwards nothing runs and no page is held."""
    yield shared
    wait_until_idle(shared)


def wait_until_idle(server, seconds: float = 20.0) -> None:
    servers.eventually(lambda: server.metric("llama3_pages_held") == 0, seconds)
    assert server.metric("llama3_requests_running") == server.metric("llama3_requests_waiting") == 0
    server.generator.scheduler.pool.check()
