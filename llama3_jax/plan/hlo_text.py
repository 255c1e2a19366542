"""Optimised HLO text, as `jax.stages.Compiled.as_text()` prints it, read into computations and instructions.

Only what costs need is looked at: every instruction keeps its line and is taken apart when asked. Texts of 50 MB are
normal at full scale, so a line costs one regular expression.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping

BITS = {
    "pred": 8,
    **{f"{kind}{bits}": bits for kind in "su" for bits in (2, 4, 8, 16, 32, 64)},
    "f16": 16,
    "bf16": 16,
    "f32": 32,
    "f64": 64,
    "c64": 64,
    "c128": 128,
    "f4e2m1fn": 4,
    "f8e8m0fnu": 8,
    **{f"f8e{kind}": 8 for kind in ("5m2", "4m3", "4m3fn", "4m3b11fnuz", "5m2fnuz", "4m3fnuz", "3m4")},
}

_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*-> .*\{$")
_INSTRUCTION = re.compile(r"  (ROOT )?%?([\w.\-]+) = (.*)$", re.DOTALL)
_OPCODE = re.compile(r" ([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """Element type and dims of one array of a shape."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def num_bytes(self) -> int:
        """Bytes without the padding of layouts; tokens and opaque values are 0."""
        return self.size * BITS.get(self.dtype, 0) // 8


class Instruction:
    """One line of HLO."""

    __slots__ = ("_after", "is_root", "name", "opcode", "shape_text", "text")

    def __init__(self, name: str, text: str, is_root: bool):
        self.name, self.text, self.is_root = name, text, is_root
        found = _OPCODE.search(text)
        self.opcode = found[1] if found else ""
        self.shape_text = text[: found.start()] if found else text
        self._after = found.end() if found else len(text)

    @property
    def arrays(self) -> list[Array]:
        """The arrays of the result, those of nested tuples in order."""
        return list(_arrays(self.shape_text))

    @property
    def arguments(self) -> str:
        """What stands between the parentheses: operands, or the value of a constant."""
        return self.text[self._after : _closing(self.text, self._after)]

    @property
    def operands(self) -> list[str]:
        """Names of the operands."""
        return _NAME.findall(self.arguments)

    @property
    def attributes(self) -> str:
        """Everything after the operands."""
        return self.text[_closing(self.text, self._after) + 1 :]

    def attribute(self, name: str) -> str | None:
        """The value of `name=`, up to the comma that ends it; None when the instruction has none."""
        found = re.search(rf"\b{name}=", self.text[self._after :])
        if found is None:
            return None
        start = self._after + found.end()
        return self.text[start : _value_end(self.text, start)]

    def called(self, name: str) -> str | None:
        """The computation that attribute `name` names."""
        value = self.attribute(name)
        return value.lstrip("%") if value else None


@dataclasses.dataclass
class Computation:
    """A named list of instructions."""

    name: str
    is_entry: bool
    instructions: dict[str, Instruction] = dataclasses.field(default_factory=dict)

    @property
    def root(self) -> Instruction:
        """The instruction whose value the computation returns."""
        return next(i for i in reversed(self.instructions.values()) if i.is_root)

    def operand_arrays(self, instruction: Instruction) -> list[Array]:
        """The arrays of all operands of `instruction`."""
        return [
            array
            for name in instruction.operands
            if name in self.instructions
            for array in self.instructions[name].arrays
        ]

    def parameter(self, index: int) -> Instruction | None:
        """The parameter of that number."""
        wanted = str(index)
        return next(
            (i for i in self.instructions.values() if i.opcode == "parameter" and i.arguments.strip() == wanted), None
        )


def parse(text: str) -> dict[str, Computation]:
    """All computations of an HLO module by name."""
    computations: dict[str, Computation] = {}
    current: Computation | None = None
    pending: list[str] = []  # the lines of one instruction; kernels put line breaks into their metadata

    def finish() -> None:
        if pending and current is not None:
            found = _INSTRUCTION.match("\n".join(pending))
            if found:
                current.instructions[found[2]] = Instruction(found[2], found[3], bool(found[1]))
        pending.clear()

    for line in text.split("\n"):
        if line.startswith("  ") and (" = " in line):
            finish()
            pending.append(line)
        elif line.endswith("{") and (header := _HEADER.match(line)):
            finish()
            current = computations[header[2]] = Computation(header[2], bool(header[1]))
        elif line.startswith("}") and not line.startswith("}}"):
            finish()
        elif pending:
            pending.append(line)
    finish()
    return computations


def entry(computations: Mapping[str, Computation]) -> Computation:
    """The computation that runs first. Raises ValueError when the text is not an HLO module."""
    for computation in computations.values():
        if computation.is_entry:
            return computation
    raise ValueError("this is not the text of an HLO module: it has no ENTRY computation")


@functools.lru_cache(maxsize=65_536)
def _arrays(shape: str) -> tuple[Array, ...]:
    return tuple(
        Array(dtype, tuple(int(dim) for dim in dims.split(",") if dim))
        for dtype, dims in _ARRAY.findall(re.sub(r"\{[^{}]*\}", "", shape))
    )


def _closing(text: str, start: int) -> int:
    """Index of the parenthesis that closes the one before `start`."""
    depth = 1
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    return len(text)


def _value_end(text: str, start: int) -> int:
    """Index of the comma or end that closes an attribute's value: commas inside brackets and quotes do not."""
    depth, quoted, index = 0, False, start
    while index < len(text):
        letter = text[index]
        if letter == "\\" and quoted:
            index += 1
        elif letter == '"':
            quoted = not quoted
        elif not quoted and letter in "{[(":
            depth += 1
        elif not quoted and letter in "}])":
            depth -= 1
        elif not quoted and letter == "," and depth == 0:
            break
        index += 1
    return index
