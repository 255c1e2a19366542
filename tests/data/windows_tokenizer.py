"""A small tokenizer of RoBERTa's kind, trained where it is needed."""

import pathlib

import tokenizers

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def roberta_tokenizer(texts, vocab_size: int = 300) -> tokenizers.Tokenizer:
    """Byte-level BPE with RoBERTa's special tokens in its order and its post-processor."""
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=byte_level.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def write_tokenizer(folder: pathlib.Path, texts, vocab_size: int = 300) -> pathlib.Path:
    path = folder / "tokenizer.json"
    roberta_tokenizer(texts, vocab_size).save(str(path))
    return path
