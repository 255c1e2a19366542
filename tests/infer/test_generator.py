"""Generation against the whole forward pass, which has no cache, no pages and no neighbours.

One pass over prompt and answer gives the logits before every token of the answer, so each token can be checked by
itself: it must be what sampling draws from exactly these logits.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama3_jax.data.tokenizer_training import train_tokenizer
from llama3_jax.infer.packing import HEAD
from llama3_jax.infer.request import Finish, Request, SamplingConfig
from llama3_jax.infer.sampling import Needs, penalised, sample, settings_of
from llama3_jax.model.quantized import MixedFeedForward, QuantizedFeedForward
from tests.infer.models import CONFIG, SIZES, generator, padded, prompts, whole_pass

NEW = 12
FIVE_LAYERS = dataclasses.replace(CONFIG, num_layers=5)
NEAR = 1e-4  # logits this close may come out in either order
SCORES = 3e-4  # of log-probabilities, on weights three times the usual


@pytest.fixture(scope="module")
def forward():
    return whole_pass()


@pytest.fixture(scope="module")
def running():
    """One generator for most tests: whatever ran before must not matter."""
    return generator()


def greedy(**changes) -> SamplingConfig:
    return SamplingConfig(**({"max_new_tokens": NEW, "temperature": 0.0} | changes))


def check_greedy(forward, completions) -> None:
    """Every token is the likeliest, or as likely to a rounding, after the tokens before it."""
    rows = [[*completion.request.prompt, *completion.tokens] for completion in completions]
    logits_BSV = np.asarray(forward(padded(rows, CONFIG.max_length)))
    for logits_SV, completion, row in zip(logits_BSV, completions, rows, strict=True):
        for place in range(len(completion.request.prompt), len(row)):
            before_V = logits_SV[place - 1]
            assert before_V[row[place]] > before_V.max() - NEAR


def greedy_tokens(forward, prompt, new: int = NEW) -> list[int]:
    row = list(prompt)
    for _ in range(new):
        row.append(int(np.asarray(forward(padded([row], CONFIG.max_length)))[0, len(row) - 1].argmax()))
    return row[len(prompt) :]


def test_greedy_tokens_are_those_of_the_whole_pass(running, forward):
    lengths = (1, 5, 17, 68)
    completions = running.complete([Request(prompt=prompt, sampling=greedy()) for prompt in prompts(lengths)])
    expected = [greedy_tokens(forward, prompt) for prompt in prompts(lengths)]
    assert [completion.tokens for completion in completions] == expected
    assert all(completion.finish is Finish.LENGTH for completion in completions)
    assert len({token for tokens in expected for token in tokens}) > 8  # repeating one token would prove nothing


def random_requests(count: int, seed: int) -> list[Request]:
    """Prompts many of which begin alike, some sampled, some penalised, some that stop, all lengths."""
    rng = np.random.default_rng(seed)
    beginnings = prompts((3, 14, 40), seed)
    requests = []
    for number in range(count):
        start = beginnings[rng.integers(3)] if rng.random() < 0.7 else []
        prompt = [*start, *rng.integers(0, CONFIG.vocab_size, rng.integers(1, 12)).tolist()]
        sampling = SamplingConfig(
            max_new_tokens=int(rng.integers(0, 25)),
            temperature=float(rng.choice([0.0, 0.7, 1.5])),
            top_k=int(rng.choice([0, 5])),
            top_p=float(rng.choice([1.0, 0.8])),
            min_p=float(rng.choice([0.0, 0.05])),
            repetition_penalty=float(rng.choice([1.0, 1.0, 1.3])),
            frequency_penalty=float(rng.choice([0.0, 0.0, 0.5])),
            seed=number,
            stop_ids=tuple(rng.integers(0, CONFIG.vocab_size, rng.integers(0, 3)).tolist()),
        )
        requests.append(Request(prompt=prompt, sampling=sampling, owner=str(rng.integers(3))))
    return requests


def expected_tokens(forward, request: Request, tokens: list[int]) -> list[int]:
    """What sampling draws, for each token of the answer, from the whole pass's logits before it."""
    prompt, most = list(request.prompt), 25
    row = jnp.asarray(padded([[*prompt, *tokens]], CONFIG.max_length + most))
    logits_BV = forward(row)[0, len(prompt) - 1 : len(prompt) - 1 + most]
    seen_BV = np.zeros((most, CONFIG.vocab_size), bool)
    count_BV = np.zeros((most, CONFIG.vocab_size), np.int32)
    for number in range(len(tokens)):
        seen_BV[number, prompt + tokens[:number]] = True
        np.add.at(count_BV[number], tokens[:number], 1)
    drawn_B = draw_all(logits_BV, seen_BV, count_BV, settings_of([request.sampling] * most), ALL)
    return np.asarray(drawn_B)[: len(tokens)].tolist()


ALL = Needs(drawn=True, filtered=True, penalised=True)


@functools.partial(jax.jit, static_argnums=4)
def draw_all(logits_BV, seen_BV, count_BV, rows, needs):
    draws_B = jnp.arange(len(logits_BV), dtype=jnp.int32)
    return sample(penalised(logits_BV, seen_BV, count_BV, rows), rows, draws_B, needs)


@pytest.mark.parametrize(("count", "ahead"), [(60, 0), (500, 1)])
def test_a_busy_engine_gives_every_request_what_it_would_get_alone(forward, count, ahead):
    """Joins, aborts, shared beginnings, stops: token for token what the whole pass draws."""
    running, requests = generator(steps_ahead=ahead), random_requests(count, seed=ahead + 10)
    rng = np.random.default_rng(5)
    waiting, told, finish = list(requests), {request: [] for request in requests}, {}
    running_now: list[Request] = []
    while waiting or not running.idle:
        for _ in range(rng.integers(0, 4)):
            if waiting:
                running_now.append(waiting.pop(0))
                running.submit(running_now[-1])
        if running_now and rng.random() < 0.03:
            running.cancel(running_now[rng.integers(len(running_now))])
        for progress in running.step():
            assert progress.request not in finish
            if progress.token is not None:
                told[progress.request].append(progress.token)
            if progress.finish is not None:
                finish[progress.request] = progress.finish
        running.scheduler.pool.check()
    assert running.scheduler.pool.held == 0 and finish.keys() == set(requests)
    kinds = set(finish.values())
    assert kinds == {Finish.STOP, Finish.LENGTH, Finish.CANCELLED}
    for request in requests:
        tokens, sampling = told[request], request.sampling
        if tokens:
            assert tokens == expected_tokens(forward, request, tokens)
        stopped = [number for number, token in enumerate(tokens) if token in sampling.stop_ids]
        assert stopped in ([], [len(tokens) - 1])
        if finish[request] is Finish.LENGTH:
            assert len(tokens) == sampling.max_new_tokens and not stopped
        assert (finish[request] is Finish.STOP) == bool(stopped)


def test_pages_of_any_size_give_the_same(forward):
    """One page a row is a dense cache."""
    requests = lambda: [Request(prompt=prompt, sampling=greedy()) for prompt in prompts((9, 1, 30, 30))]
    found = []
    for page_size in (1, 3, 16, 96):
        sizes = dataclasses.replace(SIZES, page_size=page_size, num_pages=4 * -(-96 // page_size))
        found.append([completion.tokens for completion in generator(sizes).complete(requests())])
    assert all(tokens == found[0] for tokens in found)


@pytest.fixture(scope="module")
def alone():
    """Answers of one device to `random_requests(24, seed=3)`."""
    return [completion.tokens for completion in generator().complete(random_requests(24, seed=3))]


def test_a_model_split_over_two_devices_gives_the_same(alone):
    both = generator(tensor=2).complete(random_requests(24, seed=3))
    assert [completion.tokens for completion in both] == alone


STAGED = {
    "two stages, two micro-batches": ({"stage": 2}, 2),
    "two stages, one micro-batch": ({"stage": 2}, 1),
    "two stages of two devices": ({"stage": 2, "tensor": 2}, 2),
    "four stages, layers that do not divide": ({"stage": 4, "config": FIVE_LAYERS}, 4),
}


@pytest.mark.parametrize("name", STAGED)
def test_a_pipeline_gives_the_same(name, alone):
    """Whatever is between the stages at first, or enters where nothing does, is never seen."""
    options, groups = STAGED[name]
    sizes = dataclasses.replace(SIZES, num_groups=groups, smallest_piece=SIZES.prefill_tokens)
    if "config" in options:
        whole = generator(config=options["config"]).complete(random_requests(24, seed=3))
        alone = [completion.tokens for completion in whole]
    running = generator(sizes, **options)
    model = running.engine._model
    empty_flow = model._empty_flow
    poisoned = lambda flow: dataclasses.replace(flow, x_ZBSD=flow.x_ZBSD * np.nan)
    model._empty_flow = lambda *shape: poisoned(empty_flow(*shape))
    found = running.complete(random_requests(24, seed=3))
    assert [completion.tokens for completion in found] == alone
    running.scheduler.pool.check()
    assert running.scheduler.pool.held == 0


@pytest.mark.parametrize(
    ("grid", "tensor", "stage", "kinds"),
    [
        ("fp8", 2, 2, [MixedFeedForward, MixedFeedForward, QuantizedFeedForward]),
        ("int8", 1, 4, [MixedFeedForward, QuantizedFeedForward]),
    ],
)
def test_a_pipeline_in_8_bits_gives_the_same(grid, tensor, stage, kinds):
    """Of five layers the first and the last are not in 8 bits, and share stacks with layers that are."""
    options = {"config": FIVE_LAYERS, "quantized": grid, "tensor": tensor}
    expected = [completion.tokens for completion in generator(**options).complete(random_requests(8, seed=3))]
    plain = generator(config=FIVE_LAYERS).complete(random_requests(8, seed=3))
    assert expected != [completion.tokens for completion in plain]
    sizes = dataclasses.replace(SIZES, num_groups=stage, smallest_piece=SIZES.prefill_tokens)
    running = generator(sizes, stage=stage, **options)
    assert [type(layer.mlp) for layer in running.engine._model._program.module.layers] == kinds
    assert [completion.tokens for completion in running.complete(random_requests(8, seed=3))] == expected


@pytest.mark.parametrize(("groups", "least", "most"), [(1, 1.8, 2.2), (2, 1.0, 1.3)])
def test_two_micro_batches_keep_both_stages_busy(groups, least, most):
    """Rows that the stages decode for eight answers of twelve tokens, those of empty ticks included."""
    sizes = dataclasses.replace(SIZES, num_slots=8, num_groups=groups, prefill_tokens=128, smallest_piece=16)
    running = generator(sizes, stage=2)
    tick, rows = running.engine._model.forward, []

    def counted(token_X, packed_BX, keep_hidden):
        rows.append(packed_BX.shape[0] if packed_BX.shape[1] == HEAD + 1 else 0)
        return tick(token_X, packed_BX, keep_hidden)

    running.engine._model.forward = counted
    running.complete([Request(prompt=prompt, sampling=greedy()) for prompt in prompts((5,) * 8)])
    assert least < sum(rows) / (8 * (NEW - 1)) < most


def test_log_probabilities_of_answer_and_prompt(running, forward):
    (prompt,) = prompts((23,), seed=4)
    (completion,) = running.complete([Request(prompt=prompt, sampling=greedy(logprobs=2, prompt_logprobs=1))])
    row = [*prompt, *completion.tokens]
    logits_SV = np.asarray(forward(padded([row], CONFIG.max_length)))[0, : len(row)].astype(np.float64)
    logprobs_SV = logits_SV - np.log(np.exp(logits_SV).sum(-1, keepdims=True))
    assert completion.prompt_scores is not None and completion.prompt_scores[0] is None
    scored = [*completion.prompt_scores[1:], *completion.scores]
    assert len(scored) == len(row) - 1
    for place, score in enumerate(scored):
        assert score is not None and score.token == row[place + 1]
        assert score.logprob == pytest.approx(logprobs_SV[place, score.token], abs=SCORES)
        best = np.argsort(-logprobs_SV[place])[: len(score.top)]
        assert [token for token, _ in score.top] == best.tolist()
        np.testing.assert_allclose([logprob for _, logprob in score.top], logprobs_SV[place, best], atol=SCORES)
    assert {len(score.top) for score in completion.prompt_scores[1:] if score} == {1}
    assert {len(score.top) for score in completion.scores} == {2}


@pytest.mark.parametrize("length", [1, 2, 16, 17])
def test_a_prompt_may_be_scored_without_an_answer(running, length):
    (prompt,) = prompts((length,), seed=9)
    sampling = greedy(max_new_tokens=0, prompt_logprobs=0)
    (completion,) = running.complete([Request(prompt=prompt, sampling=sampling)])
    assert completion.tokens == [] and completion.finish is Finish.LENGTH
    assert completion.prompt_scores is not None and len(completion.prompt_scores) == length


def test_stop_texts_end_an_answer_and_are_cut_off():
    tokenizer = train_tokenizer(["the cat sat on the mat, the cat"], vocab_size=514)
    running = generator(config=dataclasses.replace(CONFIG, vocab_size=258), tokenizer=tokenizer)  # no special tokens
    (prompt,) = prompts((6,), vocab=258)
    sampling = greedy(max_new_tokens=60)
    (whole,) = running.complete([Request(prompt=prompt, sampling=sampling)])
    assert whole.text == tokenizer.decode(whole.tokens) and len(whole.tokens) == 60
    stop = next(text for text in whole.text[1:-1] if text.isascii())
    sampling = dataclasses.replace(sampling, stop=(stop,))
    (cut,) = running.complete([Request(prompt=prompt, sampling=sampling)])
    assert cut.finish is Finish.STOP and cut.text == whole.text[: whole.text.find(stop)]
    assert len(cut.tokens) < 60 and running.scheduler.pool.held == 0


def test_what_cannot_run_is_refused_and_the_rest_goes_on(running):
    for request, message in (
        (Request(prompt=[]), "prompt is empty"),
        (Request(prompt=[64]), "outside the vocabulary of 64"),
        (Request(prompt=[-1]), "outside the vocabulary of 64"),
        (Request(prompt=[1] * 90), "exceed the longest sequence of 96"),
        (Request(prompt=[1], sampling=greedy(stop=("a",))), "need a tokenizer"),
    ):
        with pytest.raises(ValueError, match=message):
            running.submit(request)
    (completion,) = running.complete([Request(prompt=[1], sampling=greedy(max_new_tokens=1))])
    assert completion.finish is Finish.LENGTH
