"""Compiler flags of a platform as shell assignments, and manifests with their variables filled in.

    python3 launch/flags.py tpu_v6e               prints LIBTPU_INIT_ARGS='--flag=value ...'
    python3 launch/flags.py --fill FILE           prints FILE with $NAME replaced from the environment

Standard library only: it runs on hosts where nothing is installed yet.
"""

import json
import os
import pathlib
import shlex
import string
import sys
import tomllib

TABLE = pathlib.Path(__file__).with_name("xla_flags.toml")


def assignments(platform: str) -> dict[str, str]:
    """Environment variable -> value. Raises KeyError for a platform that the table does not have."""
    with TABLE.open("rb") as file:
        tables = tomllib.load(file)
    if platform not in tables:
        raise KeyError(f"no platform {platform!r} in {TABLE.name}; there are {', '.join(tables)}")
    table, flags, environment = tables[platform], {}, {}
    for part in (*(tables[name] for name in table.get("includes", [])), table):
        flags |= part.get("flags", {})
        environment |= part.get("environment", {})
    variable = table["variable"]
    return {variable: " ".join(f"--{name}={value}" for name, value in flags.items()), **environment}


def fill(path: str) -> str:
    """A manifest with the variables of the environment. Raises KeyError naming one that is missing."""
    text = pathlib.Path(path).read_text(encoding="utf-8")
    run = f"exec env {os.environ['FLAGS']} {os.environ['COMMAND']}"
    name, hosts = os.environ["NAME"], os.environ["HOSTS"]
    cluster = f"--coordinator={name}-host-0-0.{name}:8476 --num_processes={hosts} --process_id=$JOB_COMPLETION_INDEX"
    values = {**os.environ, "ARGS": json.dumps(run), "CLUSTER_ARGS": json.dumps(f"{run} {cluster}")}
    return string.Template(text).substitute(values)


def main(arguments: list[str]) -> int:
    """Prints what was asked for; a sentence and status 2 when it cannot."""
    try:
        if arguments[:1] == ["--fill"]:
            print(fill(arguments[1]))
        else:
            (platform,) = arguments
            print(" ".join(f"{name}={shlex.quote(value)}" for name, value in assignments(platform).items()))
    except (KeyError, ValueError) as error:
        print(f"flags.py: {error.args[0]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
