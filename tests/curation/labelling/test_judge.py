"""A judge that misbehaves in every way: what is tried again, what is given up, what ends the job."""

import time

import pytest

from llama3_jax.curation.labelling.judge import MAX_RESPONSE_BYTES, JobError, Judge, JudgeConfig, JudgeError
from llama3_jax.curation.labelling.rubrics import Question
from tests.curation.labelling.scripted_judge import (
    completion,
    cuts_off,
    hangs_up,
    says,
    scripted_judge,
    sends,
    trickles,
    waits,
)

MESSAGES = Question().messages("page 1")


def config(url, **changes):
    return JudgeConfig(**({"url": url, "model": "m", "timeout_seconds": 5.0, "retries": 2} | changes))


PASSING = {
    "busy": sends(429, b'{"error": {"message": "slow down"}}', [("Retry-After", "7")]),
    "broken": sends(500, b"<html>Internal Server Error</html>"),
    "restarting": sends(503),
    "garbage": sends(200, b"\xff\xfe no json"),
    "other json": sends(200, b'{"choices": []}'),
    "null": sends(200, b"null"),
    "deep": sends(200, b"[" * 100_000),
    "cut off": cuts_off(completion("Score: 3")),
    "hangs up": hangs_up,
    "too much": sends(200, b" " * (MAX_RESPONSE_BYTES + 1)),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_tried_again(name):
    pauses = []
    with scripted_judge(lambda page, before: PASSING[name] if before < 2 else says("Score: 4")) as (url, judge):
        answer = Judge(config(url), pauses.append)(MESSAGES)
    assert answer == ("Score: 4", "stop", 100, 7)
    assert judge.asked == {"page 1": 3} and len(pauses) == 2
    assert all(pause == 7.0 if name == "busy" else 0.4 < pause <= 2.0 for pause in pauses)
    assert all(body == judge.bodies[0] for body in judge.bodies)


@pytest.mark.parametrize(("act", "said"), [(waits(30), "timed out"), (trickles(30), "timed out")])
def test_an_answer_that_does_not_come_is_given_up(act, said):
    began = time.monotonic()
    with scripted_judge(lambda page, before: act) as (url, _):
        with pytest.raises(JudgeError, match=said):
            Judge(config(url, timeout_seconds=0.3, retries=0))(MESSAGES)
        assert time.monotonic() - began < 20


def test_after_the_last_try_the_reason_is_told():
    pauses = []
    broken = scripted_judge(lambda page, before: sends(502, b'{"error": "upstream"}'))
    with broken as (url, judge), pytest.raises(JudgeError, match=r"status 502: upstream \(5 tries\)"):
        Judge(config(url, retries=4, backoff_seconds=2.0, max_backoff_seconds=9.0), pauses.append)(MESSAGES)
    assert judge.asked["page 1"] == 5
    assert all(low < pause <= high for pause, low, high in zip(pauses, (0, 1, 3, 4), (2, 4, 8, 9), strict=True))
    with pytest.raises(JudgeError, match=r"no connection"):
        Judge(config(url, retries=0))(MESSAGES)  # it is gone


@pytest.mark.parametrize("status", [401, 403, 404, 301, 307])
def test_what_would_refuse_every_document_ends_the_job(status):
    elsewhere = [("Location", "http://127.0.0.1:9/v1/chat/completions")]
    refusing = scripted_judge(lambda page, before: sends(status, b"no", elsewhere if status < 400 else []))
    with refusing as (url, judge), pytest.raises(JobError, match=f"status {status}: no"):
        Judge(config(url, api_key="secret"))(MESSAGES)
    assert judge.asked["page 1"] == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_is_the_document_s_own_fault_is_not_tried_again(status):
    refusing = scripted_judge(lambda page, before: sends(status, b'{"error": {"message": "too long"}}'))
    with refusing as (url, judge), pytest.raises(JudgeError, match=f"status {status}: too long") as caught:
        Judge(config(url))(MESSAGES)
    assert not isinstance(caught.value, JobError) and judge.asked["page 1"] == 1


def test_the_request_is_openai_s(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with scripted_judge(lambda page, before: says("Score: 1")) as (url, judge):
        Judge(config(url + "/", api_key="secret", temperature=0.5, seed=3, max_tokens=40))(MESSAGES)
    wanted = {"model": "m", "temperature": 0.5, "seed": 3, "max_tokens": 40, "messages": MESSAGES}
    assert judge.bodies == [wanted]
    assert judge.headers[0]["Authorization"] == "Bearer secret"
    assert "secret" not in repr(config(url, api_key="secret"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": "file:///etc/passwd"}, "url must begin with http"),
        ({"model": ""}, "model is empty"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"retries": -1}, "retries"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        config(**({"url": "http://x/v1"} | change))
