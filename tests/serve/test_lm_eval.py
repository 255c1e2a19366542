"""lm-eval over HTTP: `--model local-completions` against our server gives what `--model hf` gives on the same weights.

The tasks are of the harness's three kinds of request (log-likelihood, rolling log-likelihood, generation), on data made
here: the hub is out of reach. lm-eval has no tokenizer of its own over HTTP, it asks the server (/tokenizer_info).
"""

import contextlib
import importlib.util
import json
import os
import random
import subprocess
import sys

import pytest

from llama3_jax import cli
from llama3_jax.infer.request import Request, SamplingConfig
from tests.serve import servers

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None or importlib.util.find_spec("accelerate") is None,
    reason="lm-eval and what its hf model needs are not installed",
)
NUM_DOCUMENTS = 12
WORDS = [
    "file",
    "path",
    "module",
    "import",
    "class",
    "value",
    "return",
    "error",
    "string",
    "list",
    "open",
    "close",
    "read",
    "write",
    "argument",
]
COMMON = """
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
metadata: {{version: 1.0}}
"""
TASKS = {
    "choice": """
task: choice
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
doc_to_choice: "{{choices}}"
target_delimiter: ""
metric_list: [{metric: acc}]
""",
    "rolling": """
task: rolling
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: byte_perplexity}]
""",
    "needle": """
task: needle
output_type: generate_until
doc_to_text: "{{haystack}}\\nThe magic number of {{question}} is"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["magic", "\\n\\n"], do_sample: false, temperature: 0.0, max_gen_toks: 40}
metric_list: [{metric: exact_match}]
""",
}
FILE = "samples_{task}_*.jsonl"


@pytest.fixture(scope="module")
def checkpoint(inputs, tmp_path_factory):
    """Of a model whose log-likelihoods are of usual size: float32 tells sums of 1000 apart by 6e-5."""
    folder = tmp_path_factory.mktemp("lm_eval") / "tiny"
    servers.write_checkpoint(folder, inputs / "tokenizer.model", sharpness=1.4)
    return folder


@pytest.fixture(scope="module")
def trained(checkpoint):
    return servers.load(checkpoint)


@pytest.fixture(scope="module")
def tasks(trained, tmp_path_factory):
    """A folder of tasks with their data."""
    folder, draw = tmp_path_factory.mktemp("tasks"), random.Random(0)
    words = lambda count: " ".join(draw.choices(WORDS, k=count))
    generator, questions = servers.make_generator(trained), []
    while len(questions) < NUM_DOCUMENTS:
        questions.append(words(draw.randint(1, 12)))
        if len(questions) <= NUM_DOCUMENTS // 2 and not greedy_choice(generator, questions[-1]):
            questions.pop()
    documents = [
        {
            "question": question,
            "choices": [
                greedy_choice(generator, question) or "x",
                *(" " + words(draw.randint(1, 4)) for _ in range(3)),
            ],
            "answer": draw.randint(0, 3),
            "text": words(draw.randint(1, 8)) + " é\u4e16\n",  # names of control tokens would be text to us only
            "haystack": words(draw.randint(5, 80)) + f". The magic number of {words(1)} is {draw.randint(1000, 9999)}.",
        }
        for question in questions
    ]
    data = folder / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, documents)))
    for name, task in TASKS.items():
        (folder / f"{name}.yaml").write_text(task + COMMON.format(data=data))
    return folder


def greedy_choice(generator, question: str) -> str:
    """What the model says next, if it is text that becomes the same tokens again."""
    tokenizer = generator.tokenizer
    ids = tokenizer.encode(question)
    [answer] = generator.complete([Request(prompt=ids, sampling=SamplingConfig(temperature=0.0, max_new_tokens=2))])
    return answer.text if tokenizer.encode(question + answer.text) == ids + answer.tokens else ""


@pytest.fixture(scope="module")
def lm_eval(tasks, tmp_path_factory):
    """`lm_eval(model, model_args, *flags) -> {(task, document): answers}`, a process of its own."""

    def run(model, model_args, *flags):
        output = tmp_path_factory.mktemp("output")
        command = [sys.executable, "-m", "lm_eval", "--model", model, "--model_args", model_args, *flags]
        command += ["--tasks", ",".join(TASKS), "--include_path", str(tasks), "--log_samples"]
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tasks / "cache")}
        done = subprocess.run(
            [*command, "--output_path", str(output)],
            env=os.environ | offline,
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found = {}
        for task in TASKS:
            [file] = output.rglob(FILE.format(task=task))
            for sample in map(json.loads, file.read_text().splitlines()):
                found[task, sample["doc_id"]] = sample["resps"]
        assert len(found) == len(TASKS) * NUM_DOCUMENTS
        return found

    return run


@pytest.fixture(scope="module")
def by_hugging_face(lm_eval, checkpoint, tmp_path_factory):
    """What lm-eval's own model finds on the weights exported by `llama3 convert`.

    Without `<|begin_of_text|>`, which lm-eval adds in `hf` alone when left to itself.
    """
    folder = tmp_path_factory.mktemp("exported") / "hf"
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(None), contextlib.redirect_stderr(nowhere):
        assert cli.main(["convert", f"--input={checkpoint}", "--to=hugging_face", f"--output={folder}"]) == 0
    return lm_eval(
        "hf", f"pretrained={folder},dtype=float32,add_bos_token=False", "--device", "cpu", "--batch_size", "1"
    )


@pytest.mark.parametrize(("concurrent", "batch"), [(4, 1), (1, 5)], ids=["concurrent", "batched"])
def test_answers_over_http_are_those_of_hugging_face(lm_eval, by_hugging_face, checkpoint, concurrent, batch):
    with servers.process(checkpoint, "--served_model_name=tiny") as (_, url):
        arguments = f"model=tiny,base_url={url}/v1/completions,num_concurrent={concurrent},max_length=2048"
        over_http = lm_eval("local-completions", arguments, "--batch_size", str(batch))
        assert servers.metric(url, "llama3_pages_held") == 0
    assert over_http.keys() == by_hugging_face.keys()
    largest, greedy = 0.0, []
    for key, theirs in by_hugging_face.items():
        ours = over_http[key]
        if key[0] == "needle":
            assert ours == theirs, key
            continue
        for (our_answer,), (their_answer,) in zip(ours, theirs, strict=True):
            our_values, their_values = map(as_list, (our_answer, their_answer))
            largest = max(largest, abs(float(our_values[0]) - float(their_values[0])))
            assert our_values[1:] == their_values[1:], key  # is_greedy
            greedy += their_values[1:]
    assert largest <= 1e-4
    assert greedy.count("True") >= NUM_DOCUMENTS // 2
    print(f"largest difference of log-likelihoods {largest:.2g} over {len(greedy)} choices")


def as_list(answer) -> list:
    return answer if isinstance(answer, list) else [answer]
