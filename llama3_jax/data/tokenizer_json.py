"""A tokenizer as Hugging Face's `tokenizer.json`, which gives the same ids on every string.

tiktoken merges any two neighbours that join into a token, lowest id first. `tokenizers` merges listed pairs in the
order of the list, so all pairs are listed, in the order of the tokens they make; `ignore_merges` looks whole words up
first, as tiktoken does. `Tokenizer.load` proves of such a file that it is equivalent, and does so of what is written
here.
"""

import json
import os
import pathlib

import tokenizers

from llama3_jax.data.tokenizer import SPLIT_REGEX, Tokenizer, byte_level

BEGIN, END, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>"


def write_tokenizer_json(tokenizer: Tokenizer, folder: str | os.PathLike, max_length: int) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json` for `transformers.AutoTokenizer`.

    As in Meta's uploads `<|begin_of_text|>` is put before every text. There is no chat template.
    """
    folder = pathlib.Path(folder)
    _pipeline(tokenizer).save(str(folder / "tokenizer.json"))
    if Tokenizer.load(folder / "tokenizer.json").fingerprint != tokenizer.fingerprint:
        raise AssertionError("the tokenizer.json that was written is not the tokenizer")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": PAD,
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _pipeline(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    vocab = {byte_level(token): rank for rank, token in enumerate(tokenizer.learned_tokens)}
    pipeline = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=_merges(vocab), ignore_merges=True))
    pipeline.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(SPLIT_REGEX), behavior="isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pipeline.decoder = tokenizers.decoders.ByteLevel()
    pipeline.add_special_tokens(
        [tokenizers.AddedToken(name, special=True, normalized=False) for name in tokenizer.special_tokens]
    )
    begin = (BEGIN, tokenizer.bos_id)
    pipeline.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN}:1 $B:1", special_tokens=[begin]
    )
    return pipeline


def _merges(vocab: dict[str, int]) -> list[tuple[str, str]]:
    """All pairs of tokens that join into a token, in the order of the tokens they make."""
    merges = []
    for token in vocab:
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [pair for pair in pairs if pair[0] in vocab and pair[1] in vocab]
        merges += sorted(known, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    return merges
