"""The whole of curation: each step does what it says on planted pages, and the result is the same however it is cut."""

import hashlib
import json
import pathlib

import pyarrow.parquet as pq
import pytest

from llama3_jax import cli
from llama3_jax.curation.curation_config import CurationConfig, SourceEntry
from llama3_jax.curation.pipeline import make_steps
from llama3_jax.curation.rules_config import RulesConfig
from llama3_jax.curation.runner import RunnerConfig, run_steps
from llama3_jax.data.token_store import TokenStore
from llama3_jax.data.tokenizer_training import train_tokenizer
from tests.curation.corpus import BOILERPLATE, records, write_files

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections, on a config file
RULES = RulesConfig(early={"chars": (40, None)})


def config(tmp_path, pages, name="out", **changes):
    settings = {
        "workdir": str(tmp_path / f"work-{name}"),
        "output": str(tmp_path / name),
        "sources": {"crawl": SourceEntry(paths=(pages,))},
        "language": "en",
        "output_files": 3,
        "partitions": 2,
        "shuffle_parts": 2,
        "rules": RULES,
        "runner": RunnerConfig(workers=0),
    }
    return CurationConfig(**{**settings, **changes})


def run(settings):
    steps = make_steps(settings)
    run_steps(list(steps.values()), settings.workdir, settings.runner)
    return steps


def kept(settings):
    files = sorted((pathlib.Path(settings.output) / "text").rglob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def digest(settings):
    """Of every byte of the output."""
    files = sorted((pathlib.Path(settings.output) / "text").rglob("*.parquet"))
    return {f"{file.parent.name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curation")
    settings = config(folder, write_files(folder / "pages", 1))
    return settings, run(settings)


def test_what_is_dropped_and_why(done):
    settings, steps = done
    totals = {name: step.results(settings.workdir).total() for name, step in steps.items()}
    assert totals["read-crawl"]["documents"] == len(records()) + 1
    assert (totals["read-crawl"]["reason.json"], totals["read-crawl"]["dropped"]) == (1, 2)
    assert totals["documents"]["reason.identical page"] == 10
    assert totals["early"]["reason.chars"] == 1  # the short one
    assert totals["url-losers"]["reason.url"] == 10
    assert totals["near-duplicates"]["reason.near-duplicate"] == 10
    assert totals["verdicts"]["dropped"] >= 1  # the loop
    urls = {row["url"] for row in kept(settings)}
    assert not [url for url in urls if "mirror" in url], "a mirror without a date is older than what it copies"
    assert not urls & {"https://docs.test/loop", "https://docs.test/short", "https://docs.test/empty"}
    assert len(urls) == len(kept(settings)) > 40


def test_the_newest_of_a_url_stays(done):
    settings, _ = done
    by_url = {row["url"]: row for row in kept(settings)}
    assert by_url["https://docs.test/0"]["title"] == "Article 0"
    assert by_url["https://docs.test/0"]["date"].year == 2024


def test_the_seventh_copy_of_a_line_is_dropped(done):
    settings, _ = done
    assert sum(BOILERPLATE in row["text"] for row in kept(settings)) == 6


@pytest.mark.parametrize("num_files,partitions,workers,seed", [(7, 7, 2, 1), (64, 64, 0, 2), (3, 1, 1, 3)])
def test_the_bytes_are_the_same_however_the_work_is_cut(tmp_path, done, num_files, partitions, workers, seed):
    settings, _ = done
    other = config(
        tmp_path,
        write_files(tmp_path / "pages", num_files, seed),
        read_bytes=20_000 if num_files == 7 else 1,
        partitions=partitions,
        shuffle_parts=partitions,
        runner=RunnerConfig(workers=workers),
    )
    run(other)
    assert digest(other) == digest(settings)


def test_several_sources_are_one_corpus(tmp_path, done, capsys):
    """Also two of as many files each, and the same page in both is one document."""
    settings, _ = done
    rows = [json.dumps(row) for row in records()] + ["{not json"]
    for name, mine in {"a": rows[:50], "b": rows[40:]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{row}\n" for row in mine))
    sources = {name: SourceEntry(paths=(f"{tmp_path}/{name}.jsonl",)) for name in ("a", "b")}
    other = config(tmp_path, "", sources=sources)
    run(other)
    said = capsys.readouterr().err.splitlines()[0]
    assert said.startswith("read-a, read-b: 1 tasks") and f"; {len(rows) + 10:,} documents" in said
    without_source = lambda rows: [{**row, "source": None} for row in rows]
    assert without_source(kept(other)) == without_source(kept(settings))
    assert {row["source"] for row in kept(other)} == {"a", "b"}


def test_other_rules_compute_no_score_again(tmp_path, done, capsys):
    settings, _ = done
    stricter = config(tmp_path, settings.sources["crawl"].paths[0], workdir=settings.workdir, rules=RulesConfig())
    capsys.readouterr()
    run(stricter)
    said = capsys.readouterr().err
    assert "verdicts" in said and not [name for name in ("read", "sizes", "heuristics", "signatures") if name in said]


def flags_of(settings, tmp_path, *more):
    """Flags of `llama3 curate` for the same pages, in folders of their own."""
    return [
        f"--config={pathlib.Path(__file__).parents[2]}/configs/curate_web.py",
        f"--config.sources.crawl.paths={settings.sources['crawl'].paths[0]}",
        f"--config.workdir={tmp_path}/work",
        f"--config.output={tmp_path}/out",
        "--config.language=en",
        "--config.runner.workers=0",
        *more,
    ]


def test_the_command_its_report_and_why_a_document_died(tmp_path, done, capsys):
    settings, steps = done
    flags = flags_of(settings, tmp_path, "--config.partitions=2", "--config.shuffle_parts=2")
    assert cli.main(["curate", *flags]) == 0
    assert "documents" in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "near-duplicate" in page and "docs.test" in page and "<script" not in page
    card = json.loads((tmp_path / "out" / "data_card.json").read_text())
    assert card["steps"]["read-crawl"]["documents"] == len(records()) + 1
    verdicts = steps["verdicts"].results(settings.workdir)
    rows = [row for index in range(2) for row in verdicts.rows(index, "verdicts").to_pylist()]
    loser = next(row["id"].hex() for row in rows if row["reason"] == "near-duplicate")
    assert cli.main(["curate", "explain", loser, *flags]) == 0
    said = capsys.readouterr().out
    assert "dropped: near-duplicate" in said and "near-duplicate of" in said and "mean_word_chars" in said
    assert cli.main(["curate", "explain", *flags, loser[:12].upper()]) == 0
    assert capsys.readouterr().out == said
    assert cli.main(["curate", "explain", loser, *flags, "--config.rules.min_chars=7"]) == 1
    assert "holds no whole run with these settings" in capsys.readouterr().err


def test_token_stores_of_each_category_and_their_mixture(tmp_path, done):
    settings, _ = done
    tokenizer = tmp_path / "tokenizer.model"
    train_tokenizer([row["text"] for row in kept(settings)], vocab_size=600).save(str(tokenizer))
    flags = flags_of(settings, tmp_path, f"--config.mix.tokenizer={tokenizer}", "--config.mix.total_tokens=1000000")
    assert cli.main(["curate", *flags]) == 0
    mixes = json.loads((tmp_path / "out" / "mixture.json").read_text())
    stores = sorted(path.name for path in (tmp_path / "out" / "tokens").iterdir())
    assert sorted(mixes["pretrain"]) == stores and sum(each["weight"] for each in mixes["pretrain"].values()) == 1
    for name, share in mixes["pretrain"].items():
        assert TokenStore.open(str(tmp_path / "out" / "tokens" / name)).num_tokens == share["tokens"]
        assert share["epochs"] == pytest.approx(1e6 * share["weight"] / share["tokens"])
