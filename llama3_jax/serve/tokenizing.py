"""`/tokenize`, `/detokenize` and `/tokenizer_info`, in the shapes of vLLM's.

lm-eval's `local-completions` reads them and needs no tokenizer of its own then. It asks for the id of
`<|end_of_text|>` by its name, so a prompt that is nothing but the name of a special token is that token; otherwise
names of special tokens are text, unless `parse_special` is true.
"""

from typing import Any

from llama3_jax.serve.chat import encode_chat, read_tools
from llama3_jax.serve.context import Context
from llama3_jax.serve.fields import ApiError, Fields
from llama3_jax.serve.tokens import name_of


async def tokenize(context: Context, body: dict[str, Any]) -> dict[str, Any]:
    """Token ids of a prompt, or of the dialog in `messages`."""
    fields = Fields(body)
    context.check_model(fields)
    if fields.raw("messages") is not None:
        prompt = fields.boolean("add_generation_prompt", True)
        tokens = encode_chat(context, fields, read_tools(fields), prompt=prompt).ids.tolist()
    else:
        text, bos = fields.text("prompt"), fields.boolean("add_special_tokens", True)
        special = fields.boolean("parse_special") or text in context.tokenizer.special_tokens
        tokens = await context.encode(text, bos=bos, special=special)
    found = {"count": len(tokens), "max_model_len": context.limits.max_length, "tokens": tokens, "token_strs": None}
    if fields.boolean("return_token_strs"):
        found["token_strs"] = [name_of(context.tokenizer, token) for token in tokens]
    return found


async def detokenize(context: Context, body: dict[str, Any]) -> dict[str, Any]:
    """The text of token ids, special tokens by name."""
    fields = Fields(body)
    context.check_model(fields)
    if fields.raw("tokens") is None:
        raise fields.error("tokens", "is required", "missing_required_parameter")
    try:
        return {"prompt": context.tokenizer.decode(fields.integers("tokens"))}
    except (ValueError, OverflowError) as error:
        raise ApiError(400, f"tokens: {error}", param="tokens", code="invalid_value") from error


def tokenizer_info(context: Context) -> dict[str, Any]:
    """What a `tokenizer_config.json` would say. Chats have no template here: see /v1/chat/completions."""
    tokenizer = context.tokenizer
    names = {token: name for name, token in tokenizer.special_tokens.items()}
    added = {
        str(token): {"content": name, "special": True, "normalized": False, "lstrip": False, "rstrip": False}
        for token, name in names.items()
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": names[tokenizer.bos_id],
        "eos_token": names[tokenizer.eos_id],
        "pad_token": names[tokenizer.pad_id],
        "model_max_length": context.limits.max_length,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": added,
        "chat_template": None,
    }
