"""Small inputs and runs that the tests of training share."""

import pathlib

from llama3_jax.core.config import freeze
from llama3_jax.data.stdlib_corpus import standard_library
from llama3_jax.data.token_store import TokenStoreWriter
from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.data.tokenizer_training import train_tokenizer
from llama3_jax.train.run_config import PretrainConfig

VOCAB_SIZE = 512
CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def write_inputs(folder: pathlib.Path) -> None:
    """A tokenizer of 512 tokens and two stores, from the standard library's help topics."""
    topics = [document.text for document in standard_library() if document.id.startswith("help/")]
    tokenizer = train_tokenizer(topics, vocab_size=VOCAB_SIZE)
    tokenizer.save(str(folder / "tokenizer.model"))
    write_store(folder / "train", tokenizer, topics[:60])
    write_store(folder / "held_out", tokenizer, topics[60:64])


def write_store(path: pathlib.Path, tokenizer: Tokenizer, texts: list[str]) -> None:
    with TokenStoreWriter(
        str(path), tokenizer_fingerprint=tokenizer.fingerprint, vocab_size=tokenizer.vocab_size, num_shards=2
    ) as writer:
        for text, tokens in zip(texts, tokenizer.encode_batch(texts, bos=True, eos=True), strict=True):
            writer.add(tokens, num_bytes=len(text.encode()))
        writer.close()


def tiny_config(inputs: pathlib.Path, workdir: pathlib.Path, variant: str = "", **changes) -> PretrainConfig:
    """`configs/tiny.py` on these inputs, with dotted overrides (`recipe__total_tokens=...`)."""
    namespace: dict = {}
    exec(compile((CONFIGS / "tiny.py").read_text(), "tiny.py", "exec"), namespace)
    config = namespace["get_config"](variant)
    config.workdir = str(workdir)
    config.data.tokenizer = str(inputs / "tokenizer.model")
    config.data.sources.text = str(inputs / "train")
    config.data.held_out = str(inputs / "held_out")
    for name, value in changes.items():
        target, *path, leaf = [config, *name.split("__")]
        for part in path:
            target = target[part]
        target[leaf] = value
    return freeze(PretrainConfig, config)


def flags_of(inputs: pathlib.Path, workdir: pathlib.Path) -> list[str]:
    """The same as command-line flags."""
    return [
        f"--config={CONFIGS / 'tiny.py'}",
        f"--config.workdir={workdir}",
        f"--config.data.tokenizer={inputs / 'tokenizer.model'}",
        f"--config.data.sources.text={inputs / 'train'}",
        f"--config.data.held_out={inputs / 'held_out'}",
    ]
