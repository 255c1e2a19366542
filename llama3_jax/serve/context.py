"""What all endpoints need: the service, the model's words, and limits."""

import asyncio
import dataclasses
import time
import uuid

from llama3_jax.data.chat import ChatFormat
from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.serve.fields import ApiError, Fields
from llama3_jax.serve.metrics import Metrics
from llama3_jax.serve.service import Service

LONG_TEXT = 20_000  # characters from which on tokenizing is left to a thread


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a client may ask for."""

    max_length: int  # tokens of prompt and answer
    max_body: int = 8 * 2**20  # bytes
    body_seconds: float = 60.0  # for a body to arrive
    send_seconds: float = 120.0  # for a client to take what was sent
    request_seconds: float | None = None  # from a request to the end of its answer
    chat_tokens: int = 1024  # longest answer of a chat that asks for no length


@dataclasses.dataclass(eq=False)
class Context:
    """A running server."""

    service: Service
    tokenizer: Tokenizer
    chat: ChatFormat
    metrics: Metrics
    limits: Limits
    model: str  # its name to clients
    api_key: str | None = None
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))
    open_calls: int = 0  # that are being answered
    draining: bool = False

    def check_model(self, fields: Fields) -> None:
        """Raises ApiError for another model's name. A client may leave it out."""
        name = fields.text("model", self.model)
        if name != self.model:
            message = f"the model {name[:100]!r} does not exist; this server has {self.model!r}"
            raise ApiError(404, message, param="model", code="model_not_found")

    def room(self, fields: Fields, name: str, prompt: int, wanted: int | None, most: int) -> int:
        """Tokens of an answer: `wanted`, or up to `most` of what the prompt leaves. ApiError if there is no room."""
        longest = self.limits.max_length
        if prompt + (1 if wanted is None else wanted) <= longest:
            return min(most, longest - prompt) if wanted is None else wanted
        asked = f"the prompt has {prompt} tokens" + (f" and {wanted} more are asked for" if wanted is not None else "")
        message = f"the longest sequence is {longest} tokens; {asked}"
        raise ApiError(400, message, param="messages" if name == "messages" else name, code="context_length_exceeded")

    async def encode(self, text: str, *, bos: bool, special: bool = False) -> list[int]:
        """Token ids of a text; long ones do not hold up everybody else."""
        if len(text) < LONG_TEXT:
            return self.tokenizer.encode(text, bos=bos, allow_special=special)
        return await asyncio.to_thread(self.tokenizer.encode, text, bos=bos, allow_special=special)


def new_id(kind: str) -> str:
    """A name for an answer or a call."""
    return f"{kind}-{uuid.uuid4().hex}"
