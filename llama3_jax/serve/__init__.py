"""A model over HTTP, in the shapes of OpenAI's API. Needs the extra `serve`."""

from llama3_jax.serve.context import Context as Context
from llama3_jax.serve.context import Limits as Limits
from llama3_jax.serve.metrics import Metrics as Metrics
from llama3_jax.serve.server import Server as Server
from llama3_jax.serve.server import listen as listen
from llama3_jax.serve.server import serve as serve
from llama3_jax.serve.service import Service as Service
from llama3_jax.serve.warm_up import warm_up as warm_up
