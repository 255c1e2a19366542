"""Files of prompts and answers: what is read, and what is refused without losing anything."""

import pytest

from llama3_jax.infer.answers import AnswerFile, Ask, read_asks


def written(tmp_path, text, name="prompts.jsonl"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_line_of_a_text_file_is_a_prompt(tmp_path):
    asks = read_asks(written(tmp_path, "one\n\n{two}\n", "prompts.txt"))
    assert [ask.record for ask in asks] == [{"prompt": "one"}, {"prompt": "{two}"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no prompts"),
        ('{"prompt": "a"}\n{"prompt"', "line 2: not JSON"),
        ("[1]", 'line 1: not an object with either "prompt" or "messages"'),
        ('{"prompt": "a", "messages": []}', "line 1: not an object with either"),
        ('{"prompt": 1}', 'line 1: "prompt" is not a text'),
        ('{"messages": [{"role": "user"}, {"role": "emperor", "content": "x"}]}', "line 1: message"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_asks(written(tmp_path, text))


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ("my novel\n", "line 1 is not an answer of an earlier job"),
        ('{"index": 0, "sample": 0, "prompt": "b", "answer": "c", "finish": "stop"}\n', "answers another prompt"),
        ('{"index": 5, "sample": 0, "prompt": "a", "answer": "c", "finish": "stop"}\n', "answers another prompt"),
        ('{"index": 0, "sample": 1, "prompt": "a", "answer": "c", "finish": "stop"}\n', "not asked for, such as .0, 1"),
    ],
)
def test_a_file_that_holds_something_else_is_left_alone(tmp_path, there, message):
    path = written(tmp_path, there + "cut", "answers.jsonl")
    with pytest.raises(ValueError, match=message):
        AnswerFile.open(path, [Ask({"prompt": "a"})], 1)
    assert (tmp_path / "answers.jsonl").read_text() == there + "cut"
