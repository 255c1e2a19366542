"""The chat page in a real browser, without a network."""

import time

import httpx
import pytest

from tests.serve import servers
from tests.serve.browser import EXECUTABLE, browse
from tests.serve.conftest import wait_until_idle

WORDS = "Hello <b>you</b> & goodbye \N{GRINNING FACE}. "
needs_browser = pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium here (Debian's package is `chromium`)")


@pytest.fixture
def serving(trained):
    """A server whose model repeats WORDS, and ends when the question says so."""
    tokenizer = trained.tokenizer
    asked = []

    def answer(prompt):
        asked.append(tokenizer.decode(prompt))
        words = tokenizer.encode(WORDS)
        return words * 50 if "for ever" in asked[-1] else [*words, tokenizer.eot_id]

    make = lambda: servers.scripted(tokenizer, answer, before_step=lambda: time.sleep(0.01))
    with servers.running(make, tokenizer, api_key="key", chat_tokens=1500) as server:
        yield server, asked


def test_the_page_is_whole_in_itself(shared):
    response = httpx.get(shared.url)
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "http:" not in response.text and "https:" not in response.text and "src=" not in response.text


@needs_browser
def test_a_chat_in_a_browser(serving):
    server, asked = serving
    last = "document.querySelector('#log article:last-child p')?.textContent"
    status = "document.getElementById('status').textContent"
    with browse() as page:
        page.open(server.url)
        page.until(f"{status}.includes('key is wrong')")
        page.run("document.querySelector('details').open = true; document.getElementById('key').focus()")
        page.type("key")
        page.run("document.getElementById('system').focus()")
        page.type("Be kind.")
        page.run("document.getElementById('text').focus()")
        page.type("Say hello")
        page.press("Enter", modifiers=8)
        page.type("twice")
        page.press("Enter")
        page.until(f"{last} === {WORDS!r}")
        page.until(f"{status}.includes('tokens in')")
        assert page.run("document.getElementById('model').textContent") == "tiny"
        assert "Say hello\ntwice" in asked[-1] and "Be kind." in asked[-1]
        assert page.run("document.querySelectorAll('#log article').length") == 2
        assert page.run("document.querySelector('#log b')") is None  # text, not HTML

        page.type("Go on for ever")
        page.press("Enter")
        page.until(f"{last}.length > 100")
        assert page.run("document.getElementById('log').getAttribute('aria-busy')") == "true"
        page.run("document.getElementById('stop').click()")
        page.until(f"{status} === 'Stopped.'")
        wait_until_idle(server)
        assert server.metric('llama3_requests_total{outcome="cancelled"}') == 1
        assert WORDS.strip() in asked[-1]  # the answer before belongs to the dialog
        assert page.run("document.activeElement.id") == "text"

        page.run("document.getElementById('clear').click()")
        assert page.run("document.querySelectorAll('#log article').length") == 0
        page.type("Anew")
        page.press("Enter")
        page.until(f"{last} === {WORDS!r}")
        assert "Say hello" not in asked[-1]

        refused = [text for text in page.complaints() if "401" not in text]
        assert refused == []
        assert all(url.startswith((server.url, "data:", "about:")) for url in page.requested())


@needs_browser
def test_an_error_is_told_and_the_question_can_be_sent_again(serving):
    server, _ = serving
    with browse() as page:
        page.open(server.url)
        page.run("document.getElementById('text').focus()")
        page.type("hello")
        page.press("Enter")
        page.until("document.getElementById('status').textContent.includes('key is wrong')")
        page.until("document.getElementById('text').value === 'hello'")
        assert page.run("document.querySelectorAll('#log article').length") == 0


@needs_browser
def test_every_control_has_a_name_and_can_be_reached_by_keyboard(serving):
    server, _ = serving
    with browse() as page:
        page.open(server.url)
        page.run("document.querySelector('details').open = true")
        tree = page.command("Accessibility.getFullAXTree")["nodes"]
        roles = {"button", "textbox", "spinbutton", "log", "DisclosureTriangle"}
        named = {}
        for node in tree:
            role, name = node.get("role", {}).get("value"), node.get("name", {}).get("value", "")
            if role in roles and not node.get("ignored"):
                named.setdefault(role, []).append(name)
        assert all(name.strip() for names in named.values() for name in names), named
        assert len(named["button"]) == 3 and len(named["textbox"]) == 3 and named["log"] == ["Conversation"]
        page.run("document.getElementById('clear').focus()")
        reached = set()
        for _ in range(14):
            reached.add(page.run("document.activeElement.id || document.activeElement.tagName"))
            page.press("Tab")
        assert {
            "clear",
            "SUMMARY",
            "system",
            "temperature",
            "top_p",
            "max_tokens",
            "key",
            "log",
            "text",
            "send",
        } <= reached
        assert page.run("document.documentElement.lang") == "en"
