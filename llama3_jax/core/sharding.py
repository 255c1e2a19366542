"""The one place where array dims meet mesh axes (Llama 3, 3.3.2).

Every array in the system is written with one letter per dim (`x_BSD`). `DIMS` names the logical axis behind each
letter, `STORED` and `USED` say which mesh axes split it: STORED while a parameter, gradient or moment rests in memory,
USED while it takes part in a computation. `Layout` is the only resolver: it turns letters into a `PartitionSpec`.
Model code names letters; mesh axis names live here and in `parallel/`.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from llama3_jax.core.mesh import arrange_devices

# letter -> (logical axis, meaning). Files with more dims (vision, speech) carry their own legend.
DIMS = {
    "B": ("batch", "sequences in a batch"),
    "S": ("sequence", "query positions"),
    "R": ("residual", "query positions of the residual stream: as S, split over tensor too (sequence parallelism)"),
    "T": ("keys", "key positions"),
    "D": ("embed", "model width"),
    "H": ("heads", "query heads"),
    "K": ("kv_heads", "key and value heads"),
    "G": ("group", "query heads per kv head"),
    "E": ("head", "width of one head"),
    "F": ("mlp", "width of the feed-forward layer"),
    "V": ("vocab", "vocabulary"),
    "N": ("layers", "stacked layers"),
    "M": ("norm", "a norm's scale, never split"),
    "P": ("pages", "pages of the KV cache"),
    "A": ("page", "places in a page"),
    "J": ("kv_pairs", "keys and values of the kv heads in turn: key 0, value 0, key 1, ..."),
    "W": ("table", "a row's pages, in order"),
    "Q": ("places", "rows of a table of learned positions"),
    "U": ("units", "hidden units of a classifier's head"),
    "L": ("labels", "outputs of a classifier"),
}

# Outermost first; tensor innermost, as the paper's [TP, CP, PP, DP] read from the inside out.
MESH_AXES = ("data", "fsdp", "stage", "context", "tensor")

STORED: Mapping[str, tuple[str, ...]] = {
    "layers": ("stage",),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("stage", "tensor"),
}
USED: Mapping[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "sequence": ("context",),
    "residual": ("context", "tensor"),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "kv_pairs": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("stage", "tensor"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Sizes of the mesh axes. One of them may be -1: it takes the devices the others leave."""

    data: int = 1
    fsdp: int = -1
    stage: int = 1
    context: int = 1
    tensor: int = 1

    def __post_init__(self):
        sizes = [getattr(self, axis) for axis in MESH_AXES]
        if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
            raise ValueError(f"mesh: every axis is a positive size and at most one is -1, got {self}")

    def resolve(self, num_devices: int) -> dict[str, int]:
        """Axis sizes for `num_devices`. Raises ValueError when their product is not the number of devices."""
        sizes = {axis: getattr(self, axis) for axis in MESH_AXES}
        fixed = math.prod(size for size in sizes.values() if size != -1)
        for axis, size in sizes.items():
            if size == -1:
                sizes[axis] = max(1, num_devices // fixed)
        if math.prod(sizes.values()) != num_devices:
            asked = " x ".join(f"{axis} {getattr(self, axis)}" for axis in MESH_AXES)
            raise ValueError(
                f"mesh: {asked} needs a multiple or product of {fixed} devices, but there are {num_devices}"
            )
        return sizes


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with all five named axes, every one of `Explicit` type (sharding is part of an array's type).

    Devices are placed by their wires (core/mesh.py). Raises ValueError when the axis sizes do not multiply to the
    number of devices, or the tensor axis would leave a host or slice.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = config.resolve(len(devices))
    types = (AxisType.Explicit,) * len(MESH_AXES)
    return Mesh(arrange_devices(sizes, devices), MESH_AXES, axis_types=types)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Mesh axis sizes and the two rule tables: all that is needed to place any array.

    Hashable and free of devices, so a model can hold it. The default is one device: every method is then the identity.

    A `local` layout is that of code which runs on every device's own parts (`local_replica`): arrays carry no sharding
    there, collectives are written out (parallel/moves.py), and sums over tokens stay open.
    """

    sizes: tuple[tuple[str, int], ...] = ()
    stored_rules: tuple[tuple[str, tuple[str, ...]], ...] = tuple(STORED.items())
    used_rules: tuple[tuple[str, tuple[str, ...]], ...] = tuple(USED.items())
    local: bool = False

    @classmethod
    def of(cls, mesh: Mesh, **choices: bool) -> "Layout":
        """The layout of `mesh`: see `of_sizes`."""
        return cls.of_sizes(mesh.shape, **choices)

    @classmethod
    def of_sizes(
        cls,
        sizes: Mapping[str, int],
        *,
        sequence_parallel: bool = True,
        vocab_over_stages: bool = True,
        vocab_split: bool = True,
    ) -> "Layout":
        """The layout of a mesh of these sizes, axes left out being 1.

        Without `sequence_parallel` the residual stream is whole on every tensor rank, as short sequences need it;
        without `vocab_over_stages` every pipeline stage holds embedding and output head; without `vocab_split` every
        device holds all of the vocabulary, as one needs it whose size divides by nothing.
        """
        stored, used = dict(STORED), dict(USED)
        if not sequence_parallel:
            used["residual"] = USED["sequence"]
        if not vocab_over_stages:
            stored["vocab"] = used["vocab"] = ("tensor",)
        if not vocab_split:
            stored["vocab"] = used["vocab"] = ()
        sizes_of_axes = tuple((axis, sizes.get(axis, 1)) for axis in MESH_AXES)
        return cls(sizes=sizes_of_axes, stored_rules=tuple(stored.items()), used_rules=tuple(used.items()))

    def local_replica(self) -> "Layout":
        """The layout of one data-parallel replica's devices, for code that runs on each one's own parts.

        Rows are the replica's own and weights come whole over fsdp, so neither axis is there to be named.
        """
        sizes = dict(self.sizes) | dict.fromkeys(("data", "fsdp"), 1)
        return dataclasses.replace(self, sizes=tuple(sizes.items()), local=True)

    def size(self, axis: str) -> int:
        """Number of devices along mesh axis `axis` (1 where the mesh has none)."""
        return dict(self.sizes).get(axis, 1)

    def num_devices(self, axes: Sequence[str]) -> int:
        """Number of devices along all these mesh axes together."""
        return math.prod(self.size(axis) for axis in axes)

    @property
    def single(self) -> bool:
        """True when no mesh axis is larger than one device."""
        return all(size == 1 for _, size in self.sizes)

    def stored(self, letters: str) -> PartitionSpec:
        """Spec of a parameter, gradient or optimizer moment at rest, e.g. `stored("DHE")`."""
        return self._resolve(letters, dict(self.stored_rules))

    def used(self, letters: str) -> PartitionSpec:
        """Spec of an activation, or of a weight while it is multiplied, e.g. `used("BSD")`."""
        return self._resolve(letters, dict(self.used_rules))

    def split_axes(self, letters: str, *, stored: bool = False) -> tuple[str, ...]:
        """Mesh axes, larger than one device, that split an activation or a used weight along any of these dims.

        With `stored`: that split a parameter at rest.
        """
        rules = dict(self.stored_rules if stored else self.used_rules)
        return tuple(axis for letter in letters for axis in self._axes(letter, rules))

    @property
    def sequence_parallel_axes(self) -> tuple[str, ...]:
        """Mesh axes that split the residual stream but not the sequence in between: products gather over them."""
        return tuple(axis for axis in self.split_axes("R") if axis not in self.split_axes("S"))

    @property
    def token_axes(self) -> tuple[str, ...]:
        """Mesh axes over which sums over tokens are completed at once; none where the caller adds up first."""
        return () if self.local else self.split_axes("BS")

    def _axes(self, letter: str, rules: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        return tuple(axis for axis in rules.get(logical_axis(letter), ()) if self.size(axis) > 1)

    def _resolve(self, letters: str, rules: Mapping[str, tuple[str, ...]]) -> PartitionSpec:
        entries, owner = [], {}
        for letter in letters:
            axes = self._axes(letter, rules)
            for axis in axes:
                if axis in owner:
                    raise ValueError(
                        f"dims {owner[axis]!r} and {letter!r} of an array {letters!r} are both split over mesh axis "
                        f"{axis!r}"
                    )
                owner[axis] = letter
            entries.append(axes[0] if len(axes) == 1 else axes or None)
        return PartitionSpec(*entries)

    def place(self, x: jax.Array, letters: str) -> jax.Array:
        """`x` resharded to its USED spec; the identity on one device."""
        return x if self.single else jax.sharding.reshard(x, self.used(letters))

    def einsum(self, terms: str, *operands: jax.Array, **options) -> jax.Array:
        """`jnp.einsum` whose result has the USED spec of its own letters, e.g. `einsum("BSD,DHE->BSHE", x, w)`.

        A result written with R for S (`"BSHE,HED->BRD"`) is split along the sequence as the residual stream is.
        """
        result, terms = terms.split("->")[1], whole(terms)
        if self.single:
            return jnp.einsum(terms, *operands, **options)
        return jnp.einsum(terms, *operands, out_sharding=self.used(result), **options)

    def check_divides(self, dims: Mapping[str, int], letters_list: Sequence[str], rules: str = "stored") -> None:
        """Raises ValueError naming the dim, the axis and the nearest legal size when a split is not even."""
        for letters in letters_list:
            spec = getattr(self, rules)(letters)
            for letter, entry in zip(letters, spec, strict=True):
                axes = (entry,) if isinstance(entry, str) else entry or ()
                parts = math.prod(self.size(axis) for axis in axes)
                if dims[letter] % parts:
                    legal = [n for n in range(1, parts + 1) if dims[letter] % n == 0]
                    raise ValueError(
                        f"{logical_axis(letter)} {dims[letter]} does not divide by mesh axis {'x'.join(axes)} {parts}; "
                        f"nearest legal size: {legal[-1]}"
                    )


def whole(letters: str) -> str:
    """The letters with S for R: the same dims, the sequence not split over tensor."""
    return letters.replace("R", "S")


def is_matrix(letters: str) -> bool:
    """Whether a parameter with these letters takes part in products; norm scales (M) do not."""
    return "M" not in letters


def logical_axis(letter: str) -> str:
    """Logical axis of a dim letter. Raises ValueError with the nearest letter for an unknown one."""
    if letter not in DIMS:
        near = difflib.get_close_matches(letter, DIMS, n=1, cutoff=0.0)
        raise ValueError(
            f"unknown dim letter {letter!r}; the table in core/sharding.py has {''.join(DIMS)} (near: {near})"
        )
    return DIMS[letter][0]


def batch_sharding(mesh: Mesh, ndim: int, *, leading: int = 0) -> NamedSharding:
    """Sharding of a batch array `[..., B, S]` with `leading` unsplit dims in front (micro-batches)."""
    spec = Layout.of(mesh).used("BS"[: ndim - leading])
    return NamedSharding(mesh, PartitionSpec(*(None,) * leading, *spec))


def local_rows(sharding: NamedSharding, shape: Sequence[int], dim: int) -> np.ndarray:
    """Sorted indices along `dim` of a global array of `shape` that this process's devices hold."""
    rows: set[int] = set()
    for index in sharding.addressable_devices_indices_map(tuple(shape)).values():
        rows.update(range(*index[dim].indices(shape[dim])))  # pyright: ignore[reportOptionalSubscript]
    return np.array(sorted(rows))
