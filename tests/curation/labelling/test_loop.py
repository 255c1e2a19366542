"""The loop: nothing is lost, nothing is asked twice, whatever happens; and against our own server."""

import json
import threading
import time

import pytest

from llama3_jax.curation.labelling.judge import Answer, JobError, Judge, JudgeConfig, JudgeError
from llama3_jax.curation.labelling.labels import Label, LabelFile, read_labels
from llama3_jax.curation.labelling.loop import LoopConfig, Page, estimate_cost, label_pages
from llama3_jax.curation.labelling.rubrics import YES_NO, Question, prompt_hash
from llama3_jax.curation.labelling.verdict import CUT_OFF, NO_VERDICT
from tests.curation.labelling.scripted_judge import says, scripted_judge, sends
from tests.serve import servers

PAGES = [Page(f"{number:032x}", f"page {number}") for number in range(40)]
SAMPLING = {"model": "m", "temperature": 0.0}
QUESTION = Question()


def score(page):
    return int(page.removeprefix("page ")) % 6


def plain(messages) -> Answer:
    return Answer(f"Fine.\nScore: {score(messages[1]['content'].split(chr(10))[3])}", "stop", 10, 3)


def label(judge, path, pages=PAGES, question=QUESTION, **config):
    with LabelFile(path) as file:
        return label_pages(pages, judge, question, SAMPLING, file, LoopConfig(**config))


def found(path):
    return {each.id: each.label for each in read_labels(path)}


RIGHT = {page.id: score(page.text) for page in PAGES}


def test_every_page_gets_its_label_over_http(tmp_path):
    def script(page, before):
        number = int(page.removeprefix("page "))
        if number % 5 == 0 and before == 0:
            return sends((500, 429, 503)[number % 3])
        return says(f"Because.\nScore: {score(page)}", seconds=0.02)

    with scripted_judge(script) as (url, http):
        judge = Judge(JudgeConfig(url=url, model="m"), lambda seconds: None)
        report = label(judge, tmp_path / "labels.jsonl", concurrency=4)
    assert found(tmp_path / "labels.jsonl") == RIGHT and report.asked == 40
    assert http.most_running == 4 and sum(http.asked.values()) == 48
    assert report.labels == {0: 7, 1: 7, 2: 7, 3: 7, 4: 6, 5: 6} and not report.unreadable and not report.failed
    assert (report.prompt_tokens, report.answer_tokens) == (4000, 280)
    text = "\n".join(report.lines)
    assert "40 labels, 40 answers in this run" in text and "  0          7   17.5%  #######" in text
    assert "mean 2.40" in text


def test_what_cannot_be_read_is_counted_with_its_reason_and_not_asked_again(tmp_path):
    def script(page, before):
        return {0: says("Score: 2"), 1: says("Hm."), 2: says("It is", "length")}[score(page) % 3]

    with scripted_judge(script) as (url, http):
        judge = Judge(JudgeConfig(url=url, model="m"))
        first = label(judge, tmp_path / "labels.jsonl", PAGES[:12])
        second = label(judge, tmp_path / "labels.jsonl", PAGES[:12])
    assert first.labels == second.labels == {2: 4}
    assert first.unreadable == second.unreadable == {NO_VERDICT: 4, CUT_OFF: 4}
    assert (first.asked, second.asked) == (12, 0) and set(http.asked.values()) == {1}
    assert "  4 without a label: the answer was cut off" in second.lines


def test_pages_without_an_answer_are_asked_again_by_the_next_run(tmp_path):
    sick = {page.text for page in PAGES[::4]}
    with scripted_judge(lambda page, before: sends(400, b"no") if page in sick else says(f"Score: {score(page)}")) as (
        url,
        _,
    ):
        judge = Judge(JudgeConfig(url=url, model="m"))
        report = label(judge, tmp_path / "labels.jsonl")
        assert report.failed == {"status 400: no": 10} and sum(report.labels.values()) == 30
        sick.clear()
        report = label(judge, tmp_path / "labels.jsonl")
    assert report.asked == 10 and not report.failed and found(tmp_path / "labels.jsonl") == RIGHT


@pytest.mark.parametrize("error", [JobError("status 401"), OSError("the disk is full"), KeyboardInterrupt()], ids=repr)
def test_a_job_that_is_cut_off_loses_nothing_and_asks_nothing_twice(tmp_path, error):
    path, asked, lock = tmp_path / "labels.jsonl", [], threading.Lock()

    def failing(messages):
        with lock:
            asked.append(messages[1]["content"].split("\n")[3])
            if len(asked) == 17:
                raise error
        time.sleep(0.002)
        return plain(messages)

    with pytest.raises(type(error)):
        label(failing, path, concurrency=5)
    done = found(path)
    assert 12 <= len(done) < 25 and done.items() <= RIGHT.items()
    torn = path.read_bytes() + b'{"id": "0000", "pro'
    path.write_bytes(torn)
    again = []
    report = label(lambda messages: (again.append(messages[1]["content"].split("\n")[3]), plain(messages))[1], path)
    assert found(path) == RIGHT and len(path.read_text().splitlines()) == 40
    assert report.asked == len(again) == 40 - len(done)
    assert not {page.text for page in PAGES if page.id in done} & set(again)


@pytest.mark.parametrize("cut", range(0, 700, 43))
def test_a_file_that_was_cut_anywhere_is_taken_up(tmp_path, cut):
    path = tmp_path / "labels.jsonl"
    label(plain, path, PAGES[:4], concurrency=1)
    whole = path.read_bytes()
    path.write_bytes(whole[: min(cut, len(whole))])
    label(plain, path, PAGES[:4], concurrency=1)
    assert path.read_bytes() == whole


def test_a_judge_that_has_gone_ends_the_job(tmp_path):
    def gone(messages):
        raise JudgeError("no connection")

    with pytest.raises(JobError, match="7 documents in a row had no answer, the last for: no connection"):
        label(gone, tmp_path / "labels.jsonl", max_failures_in_a_row=7, concurrency=3)
    assert not found(tmp_path / "labels.jsonl")


def test_questions_share_a_file_and_pages_come_once(tmp_path):
    path = tmp_path / "labels.jsonl"
    label(plain, path, PAGES[:5] * 3)
    assert len(list(read_labels(path))) == 5
    other = Question(kind=YES_NO)
    report = label(lambda messages: Answer("Verdict: yes", "stop", 1, 1), path, PAGES[:7], other)
    assert report.labels == {1: 7} and len(list(read_labels(path))) == 12
    assert len(list(read_labels(path, prompt_hash(other, SAMPLING)))) == 7
    assert {each.prompt for each in read_labels(path)} == {prompt_hash(q, SAMPLING) for q in (QUESTION, other)}


def test_pages_are_taken_as_they_are_needed(tmp_path):
    taken = 0

    def pages():
        nonlocal taken
        for page in PAGES:
            taken += 1
            yield page

    def judge(messages):
        assert taken <= answered + 3
        return plain(messages)

    answered = 0

    class Counting(LabelFile):
        def add(self, label):
            nonlocal answered
            super().add(label)
            answered += 1

    with Counting(tmp_path / "labels.jsonl") as file:
        label_pages(pages(), judge, QUESTION, SAMPLING, file, LoopConfig(concurrency=3))
    assert answered == taken == 40


def test_a_file_of_something_else_is_left_as_it_is(tmp_path):
    path = tmp_path / "labels.jsonl"
    one = Label(id="00", prompt="p", variant="quality", kind="points", model="m", label=3)
    odd = [json.dumps(vars(one) | change) + "\n" for change in ({"label": True}, {"kind": "stars"}, {"id": 3})]
    for content in ('{"text": "a document"}\n', "not json\n", *odd):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"labels.jsonl, line 1 is not a label"):
            LabelFile(path)
        assert path.read_text() == content
    path.write_text(json.dumps(vars(one)) + "\n")
    with LabelFile(path) as file:
        assert one.key in file
        with pytest.raises(ValueError, match="is being written by another process"):
            LabelFile(path)
    with pytest.raises(ValueError, match="concurrency"):
        LoopConfig(concurrency=0)


def test_the_cost_is_known_before(tmp_path):
    estimate = estimate_cost([Page("0", "x" * 1000)] * 10, Question(max_chars=700), 100, (1.0, 2.0))
    fixed = sum(len(message["content"]) for message in Question(max_chars=700).messages(""))
    assert estimate[:3] == (10, round(10 * (700 + fixed) / 3.5), 1000)
    assert estimate.dollars == pytest.approx((estimate.prompt_tokens + 2000) / 1e6)
    assert str(estimate).startswith("10 documents to ask about: about ") and str(estimate).endswith(
        " at most, $0.01 at most"
    )


def test_our_own_server_judges(inputs, tmp_path):
    """A server whose model always says the same, so that labels come out; all the rest of it is the real one."""
    tokenizer = servers.Tokenizer.load(inputs / "tokenizer.model")
    said = tokenizer.encode("Some reasons.\nScore: 3") + [tokenizer.stop_ids[-1]]
    with servers.running(lambda: servers.scripted(tokenizer, lambda prompt: said), tokenizer) as server:
        judge = Judge(JudgeConfig(url=f"{server.url}/v1", model=servers.MODEL, max_tokens=64))
        report = label(judge, tmp_path / "labels.jsonl", PAGES[:12], Question(max_chars=200))
    assert report.labels == {3: 12} and report.asked == 12 and report.prompt_tokens > 12 * 100


def test_a_random_model_behind_our_server_is_counted_as_unreadable(inputs, tmp_path):
    servers.write_checkpoint(tmp_path / "tiny", inputs / "tokenizer.model")
    trained = servers.load(tmp_path / "tiny")
    with servers.running(lambda: servers.make_generator(trained), trained.tokenizer) as server:
        judge = Judge(JudgeConfig(url=f"{server.url}/v1", model=servers.MODEL, max_tokens=8, retries=0))
        report = label(judge, tmp_path / "labels.jsonl", PAGES[:4])
    assert report.asked == 4 and not report.labels and sum(report.unreadable.values()) == 4 and not report.failed
