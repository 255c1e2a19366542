"""The commands as a person meets them: what they print, what they refuse, and one whole run on a little text."""

import json
import re
import subprocess
import sys

import pytest

from llama3_jax import cli
from llama3_jax.data import stdlib_corpus
from llama3_jax.data.text import Document
from tests.train.runs import CONFIGS, VOCAB_SIZE, flags_of

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections, on a config file
CONFIG = f"--config={CONFIGS / 'tiny.py'}"
CURATE = f"--config={CONFIGS / 'curate_web.py'}"


@pytest.fixture
def refused(llama3):
    """Runs a command that must end with exit status 1 and one line, and returns that line."""

    def run(*arguments) -> str:
        status, _, lines = llama3(*arguments)
        assert status == 1
        assert len(lines) == 1 and lines[0].startswith(f"llama3 {arguments[0]}: "), lines
        return lines[0]

    return run


def everything_in(folder) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_the_overview_names_every_command(llama3):
    for arguments, expected in ((["--help"], 0), (["help"], 0), ([], 2)):
        status, out, err = llama3(*arguments)
        assert status == expected and not err
        assert all(f"  {name} " in out and module.SUMMARY in out for name, module in cli.COMMANDS.items())


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_manual_has_flags_and_an_example(llama3, name):
    status, out, err = llama3(name, "--help")
    assert status == 0 and not err
    assert cli.COMMANDS[name].SUMMARY in out and "\nflags:\n  --" in out
    example = out.partition("example:\n")[2]
    actions = getattr(cli.COMMANDS[name], "ACTIONS", ())
    assert all(f"llama3 {name} {action} " in example for action in actions)
    assert f"llama3 {name} --" in example or (actions and not hasattr(cli.COMMANDS[name], "DEFAULT_ACTION"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrian"], "no such command; did you mean 'pretrain'?"),
        (["xyzzy"], f"no such command; there are {', '.join(cli.COMMANDS)}"),
        (["corpus"], "--output must have a value"),
        (["corpus", "--outptu=x"], "Unknown command line flag 'outptu'. Did you mean: output"),
        (["corpus", "--output=x", "stray"], "unexpected argument 'stray'"),
        (["generate", "--checkpoint=x", "--seed=y"], "--seed=y: invalid literal for int"),
        (["tokenize", "--input=x", "--tokenizer=x", "--output=x", "--errors=hide"], "<raise|replace|skip>"),
        (["pretrain"], "--config is required, for example --config="),
        (["pretrain", "--config=nowhere.py"], "nowhere.py"),
        (["tokenizer"], "say first what to do: train, extend, compare"),
        (["curate", "explian"], "say first what to do: explain, or nothing, not explian"),
        (["curate", "explain", CURATE], "explain needs a DOC_ID"),
        (["curate", "explain", CURATE, "00", "stray"], "unexpected argument 'stray'"),
        (["curate", CURATE, "explain", "00"], "unexpected argument 'explain'"),
        (["pretrain", CONFIG + ":llama9"], "has no variant 'llama9'; there are llama3, llama3_1, llama3_2"),
        (
            ["pretrain", CONFIG, "--config.recipe.total_token=5"],
            "the config has no setting 'total_token'; did you mean 'total_tokens'?",
        ),
        (["pretrain", CONFIG, "--config.recip.total_tokens=5"], "no setting 'recip'; did you mean 'recipe'?"),
        (["pretrain", CONFIG, "--config.recipe.total_tokens=many"], "total_tokens=many: invalid literal for int"),
        (["pretrain", CONFIG, "--config.mesh.tensor=0"], "config.mesh: mesh: every axis is a positive size"),
        (["generate", "--checkpoint=x", "--temperature=-1"], "temperature must be from 0.0"),
    ],
    ids=lambda value: " ".join(value).replace(str(CONFIGS), "configs") if isinstance(value, list) else None,
)
def test_a_mistake_is_told_in_one_sentence(refused, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(*arguments)
    assert everything_in(tmp_path) == []


def test_explain_shows_the_run_of_the_paper(llama3):
    status, out, err = llama3("pretrain", f"--config={CONFIGS / 'llama3_405b.py'}", "--explain")
    assert status == 0 and not err
    head, _, *rows = out.splitlines()
    assert "405,853,388,800 parameters, 126 layers" in head and re.search(r" 15,600,\d{3},\d{3},\d{3} tokens", head)
    *rows, last = [re.split(r"  +", row) for row in rows]
    assert [row[0] for row in rows[:3]] == ["initial"] * 3 and [row[0] for row in rows[9:]] == ["anneal"]
    assert [row[0] for row in rows[3:9]] == [f"long_context_{row[4].replace(',', '')}" for row in rows[3:9]]
    # Batches of 4M tokens at 4,096, then 8M at 8,192 from 252M tokens on, 16M from 2.87T on; six stages to 131,072.
    assert [(row[3], row[4], row[5]) for row in rows[:2]] == [("255.9M", "4,096", "1,024"), ("2.87T", "8,192", "1,024")]
    assert (rows[2][4], rows[2][5], rows[8][4]) == ("8,192", "2,048", "131,072")
    assert last[0].startswith("final model: average of the checkpoints")


@pytest.fixture
def little_library(monkeypatch):
    """A standard library of a few documents, some of them held out."""
    names = [f"module_{number}" for number in range(40)]
    held_out = [name for name in names if stdlib_corpus.is_held_out(name)]
    chosen = held_out[:2] + [name for name in names if name not in held_out][:10]
    lines = [f"def {name}(value):\n    return value + {len(name)}  # é\n" * 12 for name in chosen]
    documents = [Document(id=name, text=text) for name, text in zip(chosen, lines, strict=True)]
    assert len(held_out) >= 2
    monkeypatch.setattr(stdlib_corpus, "standard_library", lambda: iter(documents))


def test_from_text_to_generated_text(llama3, little_library, tmp_path):
    text, tokenizer, model = tmp_path / "text", tmp_path / "tokenizer.model", tmp_path / "model"
    status, out, _ = llama3("corpus", f"--output={text}")
    assert status == 0 and "10 training documents" in out and "2 held out" in out
    assert "reusing" in llama3("corpus", f"--output={text}")[1]

    common = [f"--tokenizer={tokenizer}", "--num_shards=2"]
    train = ["tokenize", *common, f"--input={text / 'train.jsonl'}", f"--output={tmp_path / 'train'}"]
    status, out, err = llama3(*train, f"--train_vocab_size={VOCAB_SIZE}")
    assert status == 0 and f"trained a tokenizer of {VOCAB_SIZE} tokens" in out
    assert len(err) == 1 and err[0].startswith("tokenized 10 documents")
    status, out, err = llama3(*train, f"--train_vocab_size={VOCAB_SIZE}")
    assert status == 0 and "reusing the store that is there" in out and not err
    held_out = [f"--input={text / 'held_out.jsonl'}", f"--output={tmp_path / 'held_out'}"]
    assert llama3("tokenize", *common, *held_out)[0] == 0

    # Two shapes instead of three to compile; tests of training run every stage.
    settings = ["recipe.long_context.stages=()", "compute.remat=none", "model.num_layers=1"]
    pretrain = ["pretrain", *flags_of(tmp_path, model), *(f"--config.{setting}" for setting in settings)]
    status, out, err = llama3(*pretrain)
    assert status == 0 and not err, err
    assert "end of anneal: held-out loss" in out and f"the model is in {model / 'final'}" in out
    assert (model / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((model / "goodput.json").read_text())["train"] > 0
    status, out, err = llama3(*pretrain)
    assert status == 0 and "finished before, at step" in out and not err

    status, out, err = llama3("evaluate", f"--checkpoint={model}")
    assert status == 0 and not err
    names = ["this model, 32 tokens of context", "unigram", "bigram (Kneser-Ney)", "xz -9e"]
    rows = dict(re.findall(r"^  (.+?)  +([\d.]+)$", out, re.MULTILINE))
    assert set(rows) == set(names)
    table = json.loads((model / "evaluation.json").read_text())["bits_per_byte"]
    assert {name: f"{bits:.3f}" for name, bits in table.items()} == rows
    assert table["this model, 32 tokens of context"] < 8

    def generate(*more):
        return llama3("generate", f"--checkpoint={model}", "--prompt=def é(", "--max_new_tokens=20", *more)

    texts = [generate(f"--seed={seed}", "--temperature=2") for seed in (5, 5, 6)]
    assert all(status == 0 and out.startswith("def é(") and not err for status, out, err in texts)
    assert texts[0] == texts[1] != texts[2]
    assert generate("--temperature=0")[1] == generate("--temperature=0", "--seed=9")[1]
    status, out, err = generate("--step=3")
    assert status == 1 and out == "" and "has no checkpoint of step 3" in err[0]
    assert "there are 8 devices" in generate("--tensor=9")[2][0]
    split = [generate("--temperature=0", "--dtype=float32", *more) for more in ((), ("--tensor=2",), ("--stage=2",))]
    assert split[0] == split[1] == split[2] and split[0][0] == 0

    answer_a_file(llama3, model, tmp_path)
    talk(model)


def answer_a_file(llama3, model, tmp_path):
    """`llama3 generate` on a file of prompts, cut off and taken up again."""
    prompts, answers = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    records = [{"prompt": "def é(", "id": 7}, {"messages": [{"role": "user", "content": "return?"}]}]
    prompts.write_text("".join(json.dumps(record) + "\n" for record in records))
    job = ["generate", f"--checkpoint={model}", f"--prompts={prompts}", f"--output={answers}"]
    job += ["--num_samples=3", "--max_new_tokens=6", "--temperature=2"]
    status, out, err = llama3(*job)
    assert status == 0 and f"{answers}: 6 answers" in out and "6/6" in err[-1]
    whole = sorted(answers.read_text().splitlines())
    found = [json.loads(line) for line in whole]
    assert sorted((record["index"], record["sample"]) for record in found) == [
        (i, s) for i in range(2) for s in range(3)
    ]
    for record in found:
        asked = records[record["index"]]
        assert {key: record[key] for key in asked} == asked and record["finish"] in ("length", "stop")
        answer = record["answer"]
        assert isinstance(answer, str) if "prompt" in asked else answer["role"] == "assistant"
    assert len({record["answer"] for record in found if record["index"] == 0}) > 1

    lines = answers.read_text().splitlines(keepends=True)
    answers.write_text("".join(lines[:2]) + lines[2][:20])
    assert llama3(*job)[0] == 0
    assert sorted(answers.read_text().splitlines()) == whole
    before = answers.read_text()
    for change, message in (
        ({"--num_samples=3": "--num_samples=2"}, "not asked for, such as (0, 2)"),
        ({f"--prompts={prompts}": "--prompts=nowhere.jsonl"}, "nowhere.jsonl"),
        ({f"--output={answers}": f"--prompt=x --output={answers}"}, "not both"),
        ({f"--output={answers}": ""}, "--prompts and --output go together"),
    ):
        arguments = " ".join(change.get(argument, argument) for argument in job).split()
        status, _, err = llama3(*arguments)
        assert status == 1 and message in err[-1], err
    assert answers.read_text() == before


def talk(model):
    """`llama3 chat` as a process of its own, with a person's lines on its standard input."""
    lines = ["/new", "hello", "/what", "/undo", "hello", "", "and?", "/quit", "never read"]
    command = [sys.executable, "-m", "llama3_jax.cli", "chat", f"--checkpoint={model}", "--system=Be brief."]
    command += ["--max_new_tokens=5", "--temperature=0"]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = [part.split("\n")[0] for part in done.stdout.split("> ")]
    assert len(said) == 9  # what stands before the first prompt, and after each of eight
    assert said[3] == "no such command; there are /new, /system TEXT, /undo, /quit"
    assert said[2] == said[5] != "" and said[4] == said[6] == ""


def test_an_empty_corpus_leaves_nothing_behind(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank").mkdir()
    (tmp_path / "blank" / "a.txt").write_text(" \n")
    for folder, message in (("empty", "no files to read"), ("blank", "the corpus is empty")):
        outputs = [f"--tokenizer={tmp_path / 'out' / 'tokenizer.model'}", f"--output={tmp_path / 'out' / 'tokens'}"]
        said = refused("tokenize", f"--input={tmp_path / folder}", *outputs, "--train_vocab_size=512")
        assert message in said and folder in said
    assert everything_in(tmp_path) == ["blank", "blank/a.txt", "empty"]


def test_text_that_is_not_utf_8_is_named_and_leaves_nothing_behind(llama3, refused, inputs, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("good " * 1000)
    (tmp_path / "text" / "b.txt").write_bytes(b"bad \xff\xfe" * 10)
    arguments = ["tokenize", f"--input={tmp_path / 'text'}", f"--output={tmp_path / 'tokens'}"]
    for tokenizer in (inputs / "tokenizer.model", tmp_path / "tokenizer.model"):
        said = refused(*arguments, f"--tokenizer={tokenizer}", "--train_vocab_size=512")
        assert "b.txt: not valid UTF-8" in said
        assert everything_in(tmp_path) == ["text", "text/a.txt", "text/b.txt"]
    new = f"--tokenizer={tmp_path / 'tokenizer.model'}"
    status, _, err = llama3(*arguments, new, "--train_vocab_size=512", "--errors=skip")
    assert status == 0 and "skipped 1 documents" in err[-1]


@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_a_checkpoint_that_is_not_there_is_named(refused, tmp_path, command):
    assert "nowhere has no complete checkpoint" in refused(command, f"--checkpoint={tmp_path / 'nowhere'}")
    assert everything_in(tmp_path) == []


def test_inputs_that_do_not_fit_stop_before_anything_is_written(refused, inputs, tmp_path):
    flags = ["pretrain", *flags_of(inputs, tmp_path / "model")]
    assert "has 512 tokens, model.vocab_size is 600" in refused(*flags, "--config.model.vocab_size=600")
    assert "nowhere/tokenizer.model" in refused(*flags, f"--config.data.tokenizer={tmp_path}/nowhere/tokenizer.model")
    assert "nowhere" in refused(*flags, f"--config.data.held_out={tmp_path}/nowhere")
    assert "mesh" in refused(*flags, "--config.mesh.tensor=3")
    assert everything_in(tmp_path) == []
