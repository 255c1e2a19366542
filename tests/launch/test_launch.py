"""Launch files: valid shell, what they would run, what they miss, manifests that Kubernetes would accept."""

import importlib.util
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import tomllib

import pytest
import yaml

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
PLATFORMS = tomllib.loads((LAUNCH / "xla_flags.toml").read_text())
JOB = ("--", "llama3", "pretrain", "--config=a b.py")  # a space: quoting must survive every layer

# script -> arguments before the command, and the variables without which it stops
CALLS = {
    "local.sh": (["2"], {}),
    "tpu_pod.sh": ([], {"TPU_NAME": "pod", "ZONE": "us-east5-a"}),
    "xpk.sh": ([], {"CLUSTER": "c", "NAME": "n", "TPU_TYPE": "v5p-256", "IMAGE": "i"}),
    "slurm.sbatch": ([], {}),
    "kubernetes.sh kubernetes_gpu": (["kubernetes_gpu"], {"NAME": "n", "IMAGE": "i", "HOSTS": "2", "CLAIM": "data"}),
    "kubernetes.sh gke_jobset": (
        ["gke_jobset"],
        {"NAME": "n", "IMAGE": "i", "HOSTS": "16", "ACCELERATOR": "tpu-v5p-slice", "TOPOLOGY": "4x4x4", "CHIPS": "4"},
    ),
}  # fmt: skip


def call(name: str, *arguments: str, variables: dict[str, str], timeout: float = 30) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(LAUNCH / name.split()[0]), *arguments],
        cwd=LAUNCH.parent,
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def dry_run(name: str) -> str:
    arguments, variables = CALLS[name]
    result = call(name, *arguments, "--dry-run", *JOB, variables=variables)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_valid_shell(path):
    assert subprocess.run(["bash", "-n", str(path)]).returncode == 0
    if path.name != "checks.sh":
        assert os.access(path, os.X_OK)


SHELLCHECK = shutil.which(
    "shellcheck", path=os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
)


@pytest.mark.skipif(SHELLCHECK is None, reason="no shellcheck")
def test_shellcheck_has_nothing_to_say():
    result = subprocess.run([SHELLCHECK, "-x", *map(str, SCRIPTS)], cwd=LAUNCH.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", CALLS)
def test_a_dry_run_prints_the_command(name):
    printed = dry_run(name)
    assert "--config=a b.py" in printed and "llama3" in printed


@pytest.mark.parametrize("name", CALLS)
def test_a_missing_variable_or_command_is_named(name):
    arguments, variables = CALLS[name]
    for missing in variables:
        result = call(name, *arguments, "--dry-run", *JOB, variables={**variables, missing: ""})
        assert result.returncode == 2 and f"set {missing} (" in result.stderr
    result = call(name, *arguments, "--dry-run", variables=variables)
    assert result.returncode == 2 and "no command; put it after --" in result.stderr


def test_pod_setup_copies_and_installs():
    result = call("tpu_pod.sh", "setup", "--dry-run", variables=CALLS["tpu_pod.sh"][1])
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["'git'", "'gcloud'", "'gcloud'"]


@pytest.mark.parametrize("name", ["kubernetes.sh kubernetes_gpu", "kubernetes.sh gke_jobset"])
def test_manifests_have_what_a_jobset_needs(name):
    manifest = yaml.safe_load(dry_run(name))
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert manifest["metadata"]["name"] == "n"
    assert manifest["spec"]["failurePolicy"]["maxRestarts"] == 100
    (group,) = manifest["spec"]["replicatedJobs"]
    assert isinstance(group["name"], str) and isinstance(group["replicas"], int)
    job = group["template"]["spec"]
    assert job["completions"] == job["parallelism"] == int(CALLS[name][1]["HOSTS"])
    assert job["completionMode"] == "Indexed" and job["backoffLimit"] == 0
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    assert container["image"] == "i" and container["command"] == ["bash", "-c"]
    assert {type(number) for number in container["resources"]["limits"].values()} == {int}
    mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
    assert mounted == {volume["name"] for volume in pod.get("volumes", [])}
    (line,) = container["args"]
    assert line.startswith("exec env ") and "'llama3' 'pretrain' '--config=a b.py'" in line
    assert subprocess.run(["bash", "-nc", line]).returncode == 0
    if "gpu" in name:
        assert (
            f"--coordinator=n-{group['name']}-0-0.n:8476 --num_processes=2 --process_id=$JOB_COMPLETION_INDEX" in line
        )


def local(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    return call("local.sh", *arguments, variables=variables)


def test_local_starts_all_with_their_rank_and_devices():
    show = "import os, sys; print(sys.argv[1:], os.environ.get('XLA_FLAGS'))"
    result = local("3", "2", "--", "python3", "-c", show)
    lines = sorted(result.stdout.splitlines())
    assert result.returncode == 0 and [line[:4] for line in lines] == ["[0] ", "[1] ", "[2] "]
    for process, line in enumerate(lines):
        assert f"'--num_processes=3', '--process_id={process}'" in line and "device_count=2" in line
    assert len({line.split("'")[1] for line in lines}) == 1  # one coordinator


FAILS = "import sys, time; last = sys.argv[-1] == '--process_id=1'; time.sleep(0 if last else 60); sys.exit(3 * last)"


def test_local_fails_with_the_first_failure_and_ends_the_rest():
    start = time.monotonic()
    assert local("3", "--", "python3", "-c", FAILS, PATIENCE="1").returncode == 3
    assert time.monotonic() - start < 20


def test_local_passes_a_signal_on_once():
    wait = "import signal, sys; signal.sigwait({signal.SIGTERM}); print('told'); sys.exit(75)"
    guarded = (
        f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGTERM}}); print('up', flush=True); {wait}"
    )
    process = subprocess.Popen(
        ["bash", str(LAUNCH / "local.sh"), "2", "--", "python3", "-c", guarded],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert sorted(process.stdout.readline() for _ in range(2)) == ["[0] up\n", "[1] up\n"]
    process.send_signal(signal.SIGTERM)  # a shell's background jobs ignore SIGINT, and so would local.sh in one
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 75 and sorted(output.splitlines()) == ["[0] told", "[1] told"]


def assignments(platform: str) -> dict[str, str]:
    result = subprocess.run(
        [sys.executable, str(LAUNCH / "flags.py"), platform], capture_output=True, text=True, check=True
    )
    line = subprocess.run(["bash", "-c", f"env -i {result.stdout} env"], capture_output=True, text=True, check=True)
    return dict(
        entry.split("=", 1) for entry in line.stdout.splitlines() if not entry.startswith(("_=", "PWD", "SHLVL"))
    )


def test_an_unknown_platform_is_refused():
    result = subprocess.run([sys.executable, str(LAUNCH / "flags.py"), "abacus"], capture_output=True, text=True)
    assert result.returncode == 2 and "no platform 'abacus'" in result.stderr


@pytest.mark.parametrize(
    "platform", [name for name in PLATFORMS if name.startswith("gpu")], ids=lambda name: f"on_{name}"
)
def test_xla_knows_every_flag(platform):
    """XLA aborts on an unknown flag, on any back end."""
    variables = {**os.environ, **assignments(platform), "JAX_PLATFORMS": "cpu"}
    start = [sys.executable, "-c", "import jax; jax.devices()"]
    assert subprocess.run(start, env=variables, capture_output=True).returncode == 0
    variables["XLA_FLAGS"] += " --xla_no_such_flag=1"
    assert subprocess.run(start, env=variables, capture_output=True).returncode != 0


COMPILE = """
import sys
import jax, jax.numpy as jnp
from jax.experimental import topologies
devices = topologies.get_topology_desc(platform="tpu", topology_name=sys.argv[1]).devices
mesh = jax.sharding.Mesh(devices, ("x",))
split, whole = (jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)) for axes in (("x",), ()))
argument = jax.ShapeDtypeStruct((2048, 2048), jnp.bfloat16)
gather_and_reduce = lambda x, y: (x @ jax.lax.with_sharding_constraint(y, whole), (x.T @ x))
jax.jit(gather_and_reduce, in_shardings=split, out_shardings=split).lower(argument, argument).compile()
"""
GENERATIONS = {
    "tpu": ("v5e:2x2", "v5p:2x2x1", "v6e:2x2"),
    "tpu_collective_matmul": ("v5p:2x2x1", "v6e:2x2"),
    "tpu_v5e": ("v5e:2x2",),
    "tpu_sparsecore": ("v5p:2x2x1", "v6e:2x2"),
    "tpu_v5p": ("v5p:2x2x1",),
    "tpu_v6e": ("v6e:2x2",),
}


@pytest.mark.tpu_aot
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
@pytest.mark.parametrize("platform", [name for name in PLATFORMS if name.startswith("tpu")])
def test_libtpu_compiles_with_every_flag(platform):
    variables = {**os.environ, **assignments(platform), "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    variables.pop("JAX_COMPILATION_CACHE_DIR", None)  # every compile is to be a real one
    for topology in GENERATIONS[platform]:
        compile_it = [sys.executable, "-c", COMPILE, topology]
        result = subprocess.run(compile_it, env=variables, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, f"{topology}: {result.stderr[-2000:]}"
