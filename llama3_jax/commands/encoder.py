"""`llama3 encoder`: an encoder that scores documents; trained on labels, used, converted."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
from absl import flags

from llama3_jax.commands.label import page_id
from llama3_jax.core.params import Params
from llama3_jax.core.paths import path_of
from llama3_jax.core.sharding import MeshConfig, make_mesh
from llama3_jax.curation.labelling.labels import read_labels
from llama3_jax.curation.labelling.rubrics import POSITIVE_FROM
from llama3_jax.data.text import read_documents
from llama3_jax.data.windows import WindowConfig, WindowEncoder
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.roberta import Roberta, RobertaConfig, encoder_layout
from llama3_jax.train.classifier import train_classifier
from llama3_jax.train.classifier_config import ClassifierConfig
from llama3_jax.train.classifier_data import Examples, encode_examples
from llama3_jax.train.classifier_store import open_classifier
from llama3_jax.train.program import resolve_compute
from llama3_jax.train.scorer import Scorer, place_params
from llama3_jax.weights.roberta import read_roberta, write_roberta

SUMMARY = "train an encoder on labels, score documents with it, convert it"
MANUAL = """
`train` reads the documents of --input and the --labels that `llama3 label` wrote for them, holds out one in ten
(a hash of the document decides which), and trains the encoder in --init, a Hugging Face folder such as DistilRoBERTa's.
Without --init it starts from random values, with the --tokenizer given, in DistilRoBERTa's shape or a smaller one
(--num_layers, --embed_dim). It prints AUC, accuracy and F1 on what was held out, after the warm-up and at the end, and
leaves a classifier in --output. The same command continues a run that was stopped.

`predict` scores the documents of --input with the classifier in --checkpoint (such a folder, or Hugging Face's)
and writes JSON lines of id and score to --output. With --max_windows a document's score is the mean over its first so
many windows of --length tokens.

`convert` writes the classifier in --checkpoint to --output as a Hugging Face folder, for `transformers`.
"""
EXAMPLE = """
llama3 encoder train --input=pages.jsonl --labels=labels.jsonl --init=distilroberta-base \
  --output=runs/quality
llama3 encoder predict --checkpoint=runs/quality --input=more_pages.jsonl --output=scores.jsonl
llama3 encoder convert --checkpoint=runs/quality --output=quality_hf
"""
HELD_OUT = 10  # one document in so many
CHUNK = 2048  # documents scored at a time


class Labelled(NamedTuple):
    """Documents with their labels, in two parts."""

    train: Examples
    held_out: Examples
    kind: str  # of verdict


class Loaded(NamedTuple):
    """Weights of either kind of folder, on the host or on the way there."""

    config: RobertaConfig
    params: Params
    tokenizer: pathlib.Path | None
    windows: WindowConfig | None


def define_flags(values: flags.FlagValues) -> None:
    """The flags, with the training's own defaults."""
    config = ClassifierConfig(workdir="")
    flags.DEFINE_string("output", None, "folder or file to write", flag_values=values, required=True)
    flags.DEFINE_list("input", None, "documents: files, folders or URLs", flag_values=values)
    flags.DEFINE_string("field", "text", "JSON key or Parquet column of the text", flag_values=values)
    flags.DEFINE_string("labels", None, "JSON lines of labels", flag_values=values)
    flags.DEFINE_string("prompt", None, "which answers, where the labels are of several questions", flag_values=values)
    flags.DEFINE_string("checkpoint", None, "a trained classifier, or a Hugging Face folder", flag_values=values)
    flags.DEFINE_string("init", None, "Hugging Face folder of an encoder to start from", flag_values=values)
    flags.DEFINE_string("tokenizer", None, "tokenizer.json, where there is none with the weights", flag_values=values)
    flags.DEFINE_integer("num_layers", config.model.num_layers, "without --init", 1, flag_values=values)
    flags.DEFINE_integer("embed_dim", config.model.embed_dim, "without --init", 64, flag_values=values)
    flags.DEFINE_integer("num_labels", 1, "1: a score; more: classes", 1, flag_values=values)
    flags.DEFINE_float("positive_from", None, "label of a good document (default: 3, or yes)", flag_values=values)
    flags.DEFINE_integer("length", None, "tokens of a window (default: 512, or as trained)", 3, flag_values=values)
    flags.DEFINE_integer("max_windows", 1, "windows of a document (predict)", 1, flag_values=values)
    flags.DEFINE_integer("epochs", config.epochs, "times through the documents", 1, flag_values=values)
    flags.DEFINE_integer("batch_rows", config.batch_rows, "documents of a step", 1, flag_values=values)
    flags.DEFINE_float("learning_rate", config.learning_rate, "the highest", flag_values=values)
    flags.DEFINE_integer("seed", 0, "of initial values and order", flag_values=values)
    flags.DEFINE_integer("tensor", 1, "devices to split each layer over", 1, flag_values=values)
    flags.DEFINE_enum("dtype", "float32", ("float32", "bfloat16"), "to compute in", flag_values=values)
    flags.DEFINE_integer("batch_tokens", None, "tokens scored at once (predict)", 1, flag_values=values)
    flags.DEFINE_boolean("overwrite", False, "replace an earlier conversion (convert)", flag_values=values)


def run(options: Mapping[str, Any]) -> int:
    needs, act = ACTIONS[options["action"]]
    for name in needs:
        if not options[name]:
            raise ValueError(f"{options['action']} needs --{name}")
    return act(options)


def _train(options: Mapping[str, Any]) -> int:
    loaded = _initial(options)
    windows = WindowConfig(length=options["length"] or min(512, loaded.config.max_length))
    encoder = WindowEncoder(_tokenizer(options, loaded), windows)
    model = loaded.config
    if not loaded.params:
        model = dataclasses.replace(model, vocab_size=encoder.vocab_size, pad_id=encoder.pad_id)
    labelled, positive_from = _labelled(options, encoder), options["positive_from"]
    config = ClassifierConfig(
        workdir=options["output"],
        model=model,
        windows=windows,
        compute=ComputeConfig(compute_dtype=options["dtype"], attention="auto", remat="none"),
        mesh=MeshConfig(tensor=options["tensor"]),
        positive_from=POSITIVE_FROM[labelled.kind] if positive_from is None else positive_from,
        **{name: options[name] for name in ("epochs", "batch_rows", "learning_rate", "seed")},
    )
    train, held_out = labelled.train, labelled.held_out
    print(f"{len(train.labels):,} documents to train on, {len(held_out.labels):,} held out", flush=True)
    result = train_classifier(config, encoder, train, held_out, params=loaded.params or None)
    if result.finished:
        print(f"the classifier is in {options['output']}: held-out AUC {result.measures['auc']:.4f}")
    return 0


def _initial(options: Mapping[str, Any]) -> Loaded:
    if options["init"]:
        found = read_roberta(options["init"], options["num_labels"])
        return Loaded(found.config, found.params, found.tokenizer, None)
    width = options["embed_dim"]
    shape = {"num_layers": options["num_layers"], "embed_dim": width, "mlp_dim": 4 * width, "num_heads": width // 64}
    return Loaded(RobertaConfig(num_labels=options["num_labels"], **shape), {}, None, None)


def _labelled(options: Mapping[str, Any], encoder: WindowEncoder) -> Labelled:
    """Documents that have a label, in the order of their ids, so that the order of the input does not matter."""
    found = list(read_labels(options["labels"], options["prompt"]))
    prompts = sorted({label.prompt for label in found})
    if len(prompts) > 1:
        raise ValueError(f"{options['labels']} answers {len(prompts)} questions; choose one with --prompt={prompts[0]}")
    labels = {label.id: float(label.label) for label in found if label.label is not None}
    texts = {identity: text for identity, text in _documents(options) if identity in labels}
    if not texts:
        raise ValueError(f"no document of {','.join(options['input'])} has a label in {options['labels']}")

    def part(held_out: bool) -> Examples:
        ids = [identity for identity in sorted(texts) if (int(identity[:8], 16) % HELD_OUT == 0) == held_out]
        return encode_examples(encoder, [texts[name] for name in ids], [labels[name] for name in ids])

    return Labelled(part(held_out=False), part(held_out=True), found[0].kind)


def _documents(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for document in read_documents(options["input"], field=options["field"], errors="replace"):
        yield page_id(document.text), document.text


def _predict(options: Mapping[str, Any]) -> int:
    scorer = _scorer(options)
    count = 0
    with open(options["output"], "w", encoding="utf-8") as output:
        for chunk in _chunks(_documents(options), CHUNK):
            scores = scorer([text for _, text in chunk])
            for (identity, _), score in zip(chunk, scores.tolist(), strict=True):
                output.write(json.dumps({"id": identity, "score": score}) + "\n")
            count += len(chunk)
    print(f"{options['output']}: {count:,} scores")
    return 0


def _chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _scorer(options: Mapping[str, Any]) -> Scorer:
    mesh = make_mesh(MeshConfig(tensor=options["tensor"]))
    loaded = _load(options["checkpoint"])
    compute = ComputeConfig(
        param_dtype=options["dtype"], compute_dtype=options["dtype"], attention="auto", remat="none"
    )
    module = Roberta(loaded.config, resolve_compute(compute, mesh), encoder_layout(mesh))
    length = options["length"] or (loaded.windows.length if loaded.windows else loaded.config.max_length)
    windows = WindowConfig(length=length, max_windows=options["max_windows"])
    encoder = WindowEncoder(_tokenizer(options, loaded), windows)
    return Scorer(module, place_params(module, loaded.params, mesh), encoder, mesh, options["batch_tokens"])


def _load(folder: str) -> Loaded:
    """A classifier that was trained here, or a Hugging Face folder; its arrays on the host."""
    if not (path_of(folder) / "final").is_dir():
        found = read_roberta(folder)
        if not found.has_head:
            raise ValueError(f"{folder} holds an encoder without a classifier's head")
        return Loaded(found.config, found.params, found.tokenizer, None)
    stored = open_classifier(folder)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    params = stored.restore(Roberta(stored.config.model, ComputeConfig(), encoder_layout(mesh)), mesh)
    return Loaded(stored.config.model, jax.device_get(params), pathlib.Path(stored.tokenizer), stored.config.windows)


def _tokenizer(options: Mapping[str, Any], loaded: Loaded) -> pathlib.Path:
    file = options["tokenizer"] or loaded.tokenizer
    if file is None:
        raise ValueError("there is no tokenizer.json with the weights; give one with --tokenizer")
    return pathlib.Path(file)


def _convert(options: Mapping[str, Any]) -> int:
    loaded = _load(options["checkpoint"])
    write_roberta(
        options["output"],
        loaded.config,
        loaded.params,
        dtype=options["dtype"],
        tokenizer=options["tokenizer"] or loaded.tokenizer,
        overwrite=options["overwrite"],
    )
    print(f"{options['output']}: a Hugging Face folder of {options['dtype']} weights")
    return 0


# action -> (flags that it needs, what it does)
ACTIONS = {
    "train": (("input", "labels"), _train),
    "predict": (("input", "checkpoint"), _predict),
    "convert": (("checkpoint",), _convert),
}
