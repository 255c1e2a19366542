"""The `openai` client's calls against a server on loopback with a tiny model."""

import json
import time

import openai
import pytest

from llama3_jax.infer.request import Request, SamplingConfig
from tests.serve import servers

LONG = {"ignore_eos": True}  # a random model soon hits upon a stop token
DIALOG = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour <|eot_id|>"}]


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def expected(trained, prompt, **sampling):
    """The tokens of a generator of its own."""
    settings = {"temperature": 0.0, "top_p": 1.0, "stop_ids": trained.tokenizer.stop_ids} | sampling
    [completion] = servers.make_generator(trained).complete(
        [Request(prompt=prompt, sampling=SamplingConfig(**settings))]
    )
    return completion


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "llama3_jax"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("other")


@pytest.mark.parametrize("form", ["text", "texts", "ids", "lists of ids"])
def test_completions_of_every_form_of_prompt(client, trained, form):
    ids = trained.tokenizer.encode("import os", bos=True)
    prompt = {"text": "import os", "texts": ["import os"] * 2, "ids": ids, "lists of ids": [ids, ids]}[form]
    answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=12, temperature=0)
    wanted = expected(trained, ids, max_new_tokens=12)
    number = 2 if "s of" in form or form == "texts" else 1
    assert [choice.index for choice in answer.choices] == list(range(number))
    assert {choice.text for choice in answer.choices} == {wanted.text}
    assert {choice.finish_reason for choice in answer.choices} == {wanted.finish.value}
    tokens = (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens)
    assert tokens == (number * len(ids), number * 12, number * (len(ids) + 12))


def test_answers_to_one_prompt_differ_and_a_seed_repeats_them(client):
    ask = lambda seed: [
        choice.text
        for choice in client.completions.create(
            model="tiny", prompt="def", n=4, max_tokens=10, temperature=1.5, seed=seed
        ).choices
    ]
    first = ask(7)
    assert len(set(first)) == 4 and first == ask(7) and first != ask(8)


def test_the_extra_sampling_fields_reach_the_engine(client, trained):
    ids = trained.tokenizer.encode("def", bos=True)
    fields = {"top_k": 5, "min_p": 0.05, "repetition_penalty": 1.3}
    answer = client.completions.create(
        model="tiny",
        prompt=ids,
        max_tokens=16,
        temperature=0.8,
        top_p=0.9,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        seed=11,
        extra_body=fields,
    )
    wanted = expected(
        trained,
        ids,
        max_new_tokens=16,
        temperature=0.8,
        top_p=0.9,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        seed=11,
        **fields,
    )
    assert answer.choices[0].text == wanted.text
    assert answer.choices[0].text != expected(trained, ids, max_new_tokens=16, temperature=0.8, seed=11).text


def test_a_stop_text_ends_the_answer_and_is_cut_off(client):
    ask = lambda **more: client.completions.create(
        model="tiny", prompt="import", max_tokens=80, temperature=1.0, seed=5, logprobs=0, extra_body=LONG, **more
    ).choices[0]
    whole = ask()
    middle = len(whole.text) // 2
    stop = whole.text[middle : middle + 2]
    assert len(stop) == 2
    cut = ask(stop=[stop, "never to be seen"])
    assert cut.text == whole.text[: whole.text.index(stop)] and cut.finish_reason == "stop"
    assert all(offset < max(1, len(cut.text)) for offset in cut.logprobs.text_offset)
    assert cut.logprobs.token_logprobs == whole.logprobs.token_logprobs[: len(cut.logprobs.tokens)]


def test_echo_with_logprobs(client, trained):
    """The prompt's log-probabilities are those of one pass over all of it; the first token has none."""
    ids = trained.tokenizer.encode("import sys\n", bos=True)
    ask = lambda prompt, most: client.completions.create(
        model="tiny", prompt=prompt, max_tokens=most, temperature=0, logprobs=2, echo=True
    ).choices[0]
    both, alone = ask("import sys\n", 3), ask(ids, 0)
    assert both.text.startswith("import sys\n") and alone.text == "import sys\n"
    assert len(both.logprobs.tokens) == len(ids) + 3 and len(alone.logprobs.tokens) == len(ids)
    assert alone.logprobs.token_logprobs[0] is None and alone.logprobs.top_logprobs[0] is None
    assert both.logprobs.token_logprobs[1 : len(ids)] == pytest.approx(alone.logprobs.token_logprobs[1:], abs=1e-5)
    columns = (both.logprobs.tokens, both.logprobs.token_logprobs, both.logprobs.top_logprobs)
    for place, (name, value, top) in list(enumerate(zip(*columns, strict=True)))[1:]:
        assert top[name] == value and 2 <= len(top) <= 3
        assert value == max(top.values()) or place < len(ids)  # greedy
    for token, offset in zip(both.logprobs.tokens, both.logprobs.text_offset, strict=True):
        assert token.startswith(("<|", "bytes:")) or both.text[offset:].startswith(token)


@pytest.mark.parametrize("number", [1, 3])
def test_a_streamed_completion_is_the_whole_one(client, number):
    ask = lambda **more: client.completions.create(
        model="tiny", prompt="import", n=number, max_tokens=20, temperature=1.0, seed=3, logprobs=1, echo=True, **more
    )
    whole = ask()
    texts, values, reasons = [""] * number, [[] for _ in range(number)], [None] * number
    *chunks, last = list(ask(stream=True, stream_options={"include_usage": True}))
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        texts[choice.index] += choice.text
        values[choice.index] += choice.logprobs.token_logprobs
        reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.text for choice in whole.choices]
    assert values == [pytest.approx(choice.logprobs.token_logprobs, abs=1e-5) for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert last.choices == [] and last.usage == whole.usage and all(chunk.usage is None for chunk in chunks)
    assert len(chunks) > number


def test_chat(client, trained, shared):
    answer = client.chat.completions.create(
        model="tiny", messages=DIALOG, max_completion_tokens=9, temperature=0, logprobs=True, top_logprobs=3
    )
    prompt = client_prompt(shared, DIALOG)
    wanted = expected(trained, prompt, max_new_tokens=9, logprobs=3)
    [choice] = answer.choices
    assert choice.message.role == "assistant" and choice.message.content == wanted.text
    assert choice.message.tool_calls is None and choice.finish_reason == wanted.finish.value
    assert answer.usage.prompt_tokens == len(prompt) and answer.usage.completion_tokens == len(wanted.tokens)
    entries = choice.logprobs.content
    scores = [score.logprob for score in wanted.scores if score.token not in trained.tokenizer.stop_ids]
    assert [entry.logprob for entry in entries] == pytest.approx(scores, abs=1e-5)
    assert all(len(entry.top_logprobs) == 3 for entry in entries)
    text = b"".join(bytes(entry.bytes) for entry in entries if not entry.token.startswith("<|"))
    assert text.decode(errors="replace") == choice.message.content


def client_prompt(shared, messages) -> list[int]:
    with shared.client() as client:
        return client.post("/tokenize", json={"messages": messages}).json()["tokens"]


def test_text_of_a_message_is_no_control_token(shared, trained):
    ids = client_prompt(shared, DIALOG)
    assert ids.count(trained.tokenizer.eot_id) == 2  # after each message, and none of the user's


@pytest.mark.parametrize("number", [1, 2])
def test_a_streamed_chat_is_the_whole_one(client, number):
    ask = lambda **more: client.chat.completions.create(
        model="tiny", messages=DIALOG, n=number, max_tokens=15, temperature=1, seed=9, logprobs=True, **more
    )
    whole = ask()
    *chunks, last = list(ask(stream=True, stream_options={"include_usage": True}))
    texts, values, reasons = [""] * number, [[] for _ in range(number)], [None] * number
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        texts[choice.index] += choice.delta.content or ""
        values[choice.index] += [e.logprob for e in choice.logprobs.content] if choice.logprobs else []
        reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert [chunk.choices[0].delta.role for chunk in chunks[:number]] == ["assistant"] * number
    assert texts == [choice.message.content for choice in whole.choices]
    assert values == [pytest.approx([e.logprob for e in c.logprobs.content], abs=1e-5) for c in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert last.usage == whole.usage


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = '{"type": "function", "name": "weather", "parameters": {"city": "St. John\'s \\"NL\\""}}'
ARGUMENTS = {"city": 'St. John\'s "NL"'}


@pytest.fixture(scope="module")
def speaker(trained):
    """`speaker(text, end)`: a client of a server whose model says `text`, token by token, then the token `end`."""
    said: list[int] = []

    def say(text, end="<|eot_id|>", tag=False):
        special = trained.tokenizer.special_tokens
        said[:] = [special["<|python_tag|>"]] * tag + trained.tokenizer.encode(text) + [special[end]]
        return client

    slow = lambda: time.sleep(0.002)  # so that tokens come one by one
    make = lambda: servers.scripted(trained.tokenizer, lambda prompt: list(said), before_step=slow)
    with (
        servers.running(make, trained.tokenizer, chat_tokens=500) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield say


def streamed(client, **more):
    """`(content, calls, reason, chunks with content)` of a stream, put together as clients do."""
    content, calls, reason, pieces = "", {}, None, 0
    for chunk in client.chat.completions.create(model="tiny", messages=DIALOG, stream=True, **more):
        [choice] = chunk.choices
        content += choice.delta.content or ""
        pieces += bool(choice.delta.content)
        reason = choice.finish_reason or reason
        for part in choice.delta.tool_calls or []:
            call = calls.setdefault(part.index, {"id": part.id, "name": part.function.name, "arguments": ""})
            call["arguments"] += part.function.arguments or ""
            assert part.id in (None, call["id"])
    return content, list(calls.values()), reason, pieces


@pytest.mark.parametrize(
    ("text", "end", "tag", "content"),
    [
        (CALL, "<|eot_id|>", False, ""),
        (CALL, "<|eom_id|>", True, ""),
        ("Let me look. " + CALL, "<|eom_id|>", False, "Let me look. "),
        ('<function=weather>{"city": "St. John\'s \\"NL\\""}</function>', "<|eot_id|>", False, ""),
        ("[weather(city='St. John\\'s \"NL\"')]", "<|eot_id|>", False, ""),
    ],
    ids=["json", "tagged", "after words", "function tag", "python list"],
)
def test_calls_of_tools(speaker, text, end, tag, content):
    client = speaker(text, end, tag)
    answer = client.chat.completions.create(model="tiny", messages=DIALOG, tools=[TOOL], tool_choice="auto")
    [choice] = answer.choices
    [call] = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls" and (choice.message.content or "") == content
    assert call.type == "function" and call.function.name == "weather" and call.id.startswith("call-")
    assert json.loads(call.function.arguments) == ARGUMENTS

    told, calls, reason, _ = streamed(client, tools=[TOOL])
    assert told == content and reason == "tool_calls" and len(calls) == 1
    assert calls[0]["name"] == "weather" and json.loads(calls[0]["arguments"]) == ARGUMENTS
    assert calls[0]["id"].startswith("call-")


def test_several_calls_and_their_results_go_on(speaker):
    client = speaker(f"{CALL}; {CALL}")
    ask = lambda messages: client.chat.completions.create(model="tiny", messages=messages, tools=[TOOL])
    message = ask(DIALOG).choices[0].message
    assert len(message.tool_calls) == 2 and len({call.id for call in message.tool_calls}) == 2
    results = [{"role": "tool", "tool_call_id": call.id, "content": "fog"} for call in message.tool_calls]
    more = [*DIALOG, message.model_dump(), *results]
    speaker("Fog, as ever.")
    assert ask(more).choices[0].message.content == "Fog, as ever."
    assert [call["name"] for call in streamed(speaker(f"{CALL}; {CALL}"), tools=[TOOL])[1]] == ["weather"] * 2


@pytest.mark.parametrize("tool_choice", ["none", None])
def test_without_tools_a_call_is_text(speaker, tool_choice):
    client = speaker(CALL)
    more = {"tool_choice": "none", "tools": [TOOL]} if tool_choice else {}
    answer = client.chat.completions.create(model="tiny", messages=DIALOG, **more)
    assert answer.choices[0].message.content == CALL and answer.choices[0].finish_reason == "stop"
    assert streamed(client, **more)[0] == CALL


@pytest.mark.parametrize(
    "text", ["Plain words, no call.", "if (a < b) { return {}; } // all is text", "{1: 2} [x] <b>", CALL[:-5], "[1, 2]"]
)
def test_what_is_no_call_is_streamed_whole(speaker, text):
    content, calls, reason, pieces = streamed(speaker(text), tools=[TOOL])
    assert content == text and calls == [] and reason == "stop"
    if text.startswith(("Plain", "if")):
        assert pieces > 5  # it was not held back to the end


def test_a_call_that_is_cut_off_calls_nothing(speaker):
    client = speaker(CALL)
    answer = client.chat.completions.create(model="tiny", messages=DIALOG, tools=[TOOL], max_tokens=12)
    assert answer.choices[0].finish_reason == "length" and answer.choices[0].message.tool_calls is None
    assert CALL.startswith(answer.choices[0].message.content) and answer.choices[0].message.content


def test_log_probabilities_are_those_of_the_words_beside_a_call(speaker):
    client = speaker("Yes. " + CALL)
    ask = lambda **more: client.chat.completions.create(
        model="tiny", messages=DIALOG, tools=[TOOL], logprobs=True, **more
    )
    whole = "".join(entry.token for entry in ask().choices[0].logprobs.content)
    parts = [c for chunk in ask(stream=True) for c in (chunk.choices[0].logprobs or openai.NOT_GIVEN) and chunk.choices]
    told = "".join(entry.token for choice in parts if choice.logprobs for entry in choice.logprobs.content)
    assert whole == told == "Yes. "
