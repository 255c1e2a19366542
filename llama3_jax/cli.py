"""`llama3 <command> [--config=configs/x.py] [--config.a.b=c] ...`: the door to every part of the system.

A command is a module of `commands/` with a summary, a manual, an example, its flags and a `run`; `TAKES_CONFIG` gives
it `--config` and the overrides of its settings, and `ACTIONS` are the words of which it takes one first: a command with
a `DEFAULT_ACTION` does that without a word. `ARGUMENTS` names what an action is about where that is no flag. Errors
that a user can cause end in one sentence on stderr and exit status 1; anything else is a bug and keeps its traceback.
"""

import difflib
import logging
import re
import sys
from collections.abc import Sequence
from types import ModuleType

from absl import flags
from ml_collections import config_flags

from llama3_jax.commands import (
    chat,
    classifier,
    convert,
    corpus,
    curate,
    encoder,
    evaluate,
    generate,
    label,
    plan,
    pretrain,
    serve,
    tokenize,
    tokenizer,
)
from llama3_jax.commands import compile as compile_command
from llama3_jax.curation.labelling.judge import JobError
from llama3_jax.train.checkpoint import CheckpointError
from llama3_jax.train.pretrain import GateFailed
from llama3_jax.train.resilience import NonFiniteError

COMMANDS: dict[str, ModuleType] = {
    "corpus": corpus,
    "curate": curate,
    "label": label,
    "classifier": classifier,
    "encoder": encoder,
    "tokenizer": tokenizer,
    "tokenize": tokenize,
    "plan": plan,
    "compile": compile_command,
    "pretrain": pretrain,
    "evaluate": evaluate,
    "generate": generate,
    "chat": chat,
    "serve": serve,
    "convert": convert,
}
USER_ERRORS = (ValueError, OSError, ImportError, CheckpointError, GateFailed, NonFiniteError, JobError, flags.Error)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(COMMANDS)}"
        return _fail(name, f"no such command; {hint}")
    command = COMMANDS[name]
    values = flags.FlagValues()
    values.set_gnu_getopt()  # what an action is about may stand before its flags
    command.define_flags(values)
    if getattr(command, "TAKES_CONFIG", False):
        config_flags.DEFINE_config_file(
            "config", None, "config file, FILE.py or FILE.py:VARIANT", flag_values=values, sys_argv=[name, *rest]
        )
    if any(argument in ("-h", "--help") for argument in rest):
        print(_manual(name, command, values))
        return 0
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax repeats as log records what it raises
    try:
        action, rest = _take_action(command, rest)
        argument, left = _take_argument(command, action, _parse(values, name, rest))
        if left:
            return _fail(name, f"unexpected argument {left[0]!r}")
        return command.run(values.flag_values_dict() | action | argument)
    except USER_ERRORS as error:
        return _fail(name, str(error))


def _take_action(command: ModuleType, arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """The option "action" of a command that has actions, and the arguments that are left."""
    actions, default = getattr(command, "ACTIONS", ()), getattr(command, "DEFAULT_ACTION", None)
    if not actions:
        return {}, arguments
    if arguments and arguments[0] in actions:
        return {"action": arguments[0]}, arguments[1:]
    if default is not None and (not arguments or arguments[0].startswith("-")):
        return {"action": default}, arguments
    words = ", ".join(actions) + ("" if default is None else ", or nothing")
    raise ValueError(f"say first what to do: {words}" + (f", not {arguments[0]}" if arguments else ""))


def _take_argument(command: ModuleType, action: dict[str, str], left: list[str]) -> tuple[dict[str, str], list[str]]:
    """What the action is about, under the name that the command gives it, and what is left."""
    name = getattr(command, "ARGUMENTS", {}).get(action.get("action"))
    if name is None:
        return {}, left
    if not left:
        raise ValueError(f"{action['action']} needs a {name.upper()}")
    return {name: left[0]}, left[1:]


def _parse(values: flags.FlagValues, name: str, arguments: list[str]) -> list[str]:
    """Parses flags; ml_collections reports an unknown config key as AttributeError or KeyError."""
    try:
        return values([f"llama3 {name}", *arguments])[1:]
    except (AttributeError, KeyError) as error:
        raise ValueError(_unknown_setting(str(error.args[0]))) from error
    except flags.Error as error:
        if "Traceback" not in str(error):
            raise
        last = str(error).strip().splitlines()[-1]  # ml_collections quotes the whole traceback of a config file
        raise ValueError(re.sub(r"^\w+: ", "", last)) from error


def _unknown_setting(said: str) -> str:
    """ml_collections names the key in quotes and, on the next line, the nearest one."""
    key, near = re.search(r"\w+", said), re.search(r'Did you mean "(\w+)"', said)
    return f"the config has no setting {key[0] if key else said!r}" + (f"; did you mean {near[1]!r}?" if near else "")


def _own_flags(values: flags.FlagValues) -> list:
    return [values[name] for name in sorted(values)]


def _overview() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {module.SUMMARY}" for name, module in COMMANDS.items()]
    return "\n".join(
        [
            "llama3: train, post-train and serve Llama 3 class models in JAX.",
            "",
            "usage: llama3 <command> [flags]",
            "",
            *lines,
            "",
            "llama3 <command> --help explains one command, with an example.",
        ]
    )


def _manual(name: str, module: ModuleType, values: flags.FlagValues) -> str:
    lines = [f"llama3 {name}: {module.SUMMARY}", "", module.MANUAL.strip(), "", "flags:"]
    for flag in _own_flags(values):
        default = "" if flag.default in (None, "") else f" (default {flag.default})"
        lines.append(f"  --{flag.name}: {flag.help}{default}")
    return "\n".join([*lines, "", "example:", *(f"  {line}" for line in module.EXAMPLE.strip().splitlines())])


def _fail(name: str, message: str) -> int:
    print(f"llama3 {name}: {' '.join(message.split())}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
