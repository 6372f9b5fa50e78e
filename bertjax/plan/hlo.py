"""Reads the text of a compiled program (HLO): what one device runs in a step, and how often.

XLA's own `cost_analysis` counts the body of a loop once, but a scanned encoder with micro-batches
is a loop in a loop. Here every instruction counts as often as it runs. `hlo_cost` has the cost of
an instruction.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_ITEM_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "f16": 2, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_CALLED = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.-]+)")


class Array(NamedTuple):
    """An array of one device; `in_hbm` is False where the compiler placed it on the chip itself."""

    dtype: str
    dims: tuple[int, ...]
    in_hbm: bool

    @property
    def bytes(self) -> float:
        """Size without the padding of tiles."""
        width = re.search(r"\d+", self.dtype)
        item = _ITEM_BYTES.get(self.dtype, int(width[0]) / 8 if width else 0)
        return math.prod(self.dims) * item


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction: `results` are the arrays it makes, `operands` names in its computation."""

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    def attribute(self, pattern: str) -> str:
        """The first group of `pattern` in the attributes; "" if the pattern is not found."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else ""

    @property
    def called(self) -> list[str]:
        """Computations that the instruction runs: a loop's body, or a conditional's branches."""
        branches = self.attribute(r"branch_computations=\{([^}]*)\}")
        return [*_CALLED.findall(self.attributes), *re.findall(r"[\w.-]+", branches)]


Computation = dict[str, Instruction]  # by name


class Collective(NamedTuple):
    """Arrays of one type that a collective sends.

    Attributes:
      kind: its name in XLA. Between slices it is the type of the host's transfer ("all-reduce"):
        the compiler scatters the array within a slice before the transfer and gathers it after.
      over_dcn: between slices, over the data-center network, instead of between chips.
      bytes: size of the whole array on one device in one execution: the result of an all-gather,
        the operand of a reduce-scatter.
      count: executions in a step.
      devices: number of devices in a group that communicates.
      shapes: shapes of the operands.
    """

    kind: str
    dtype: str
    bytes: float
    count: int  # type: ignore[assignment]  # it hides a tuple's method, which is not called
    devices: int
    shapes: tuple[tuple[int, ...], ...]
    over_dcn: bool = False


class Program:
    """The computations of a compiled program, by name; each maps names to its instructions.

    Args:
      text: `compiled.as_text()`.
      devices: number that the program runs on; also the group of a collective that names none.
      slices: number that the devices belong to; also the group of a transfer between slices.
    """

    def __init__(self, text: str, devices: int = 1, slices: int = 1):
        self.computations: dict[str, Computation] = {}
        self._devices, self._slices = devices, slices
        current: Computation = {}
        for line in text.splitlines():
            if " = " in line and line.startswith(" "):
                instruction = _parse(line)
                current[instruction.name] = instruction
            elif header := _HEADER.match(line):
                current = self.computations[header[2]] = {}
                if header[1]:
                    self.entry = header[2]

    def executed(
        self, name: str | None = None, times: int = 1
    ) -> Iterator[tuple[Computation, Instruction, int]]:
        """`(computation, instruction, times)` of all that a step runs; a fusion is one instruction.

        For a conditional, the branch with the most instructions counts.
        """
        computation = self.computations[name or self.entry]
        for instruction in computation.values():
            if instruction.opcode == "while":
                (body,) = instruction.called
                yield from self.executed(body, times * self.trips(instruction))
            elif instruction.opcode == "conditional":
                branches = [list(self.executed(b, times)) for b in instruction.called]
                yield from max(branches, key=len)
            elif instruction.opcode in ("call", "async-start"):
                for called in instruction.called:
                    yield from self.executed(called, times)
            else:
                yield computation, instruction, times

    def trips(self, loop: Instruction) -> int:
        """How often a loop's body runs.

        The compiler's `known_trip_count` if there is one. Otherwise the bound in the loop's
        condition, which is the number of trips if the counter starts at 0, as in `lax.scan`.
        """
        if known := loop.attribute(r'known_trip_count[^}]*?"?n"?:"?(\d+)'):
            return int(known)
        condition = loop.attribute(r"condition=%?([\w.-]+)")
        bounds = [
            int(i.operands[0])
            for i in self._inside(condition)
            if i.opcode == "constant" and i.results[0].dtype in ("s32", "u32", "s64")
        ]
        return max([1, *bounds])

    def _inside(self, name: str) -> Iterator[Instruction]:
        """Instructions of a computation and of the computations that it calls."""
        for instruction in self.computations[name].values():
            yield instruction
            for called in instruction.called:
                yield from self._inside(called)

    def collectives(self) -> list[Collective]:
        """Every collective of a step, with one entry for each type that it sends."""
        found: list[Collective] = []
        chains: set[str] = set()
        for computation, instruction, times in self.executed():
            found += self._collectives(computation, instruction, times, "", chains)
        return found

    def _collectives(
        self,
        computation: Computation,
        instruction: Instruction,
        times: int,
        fused_in: str,
        chains: set[str],
    ) -> list[Collective]:
        kind = instruction.opcode.removesuffix("-start")
        if instruction.opcode == "fusion":
            (name, *_) = instruction.called
            inner = self.computations[name]
            parts = (self._collectives(inner, i, times, name, chains) for i in inner.values())
            return [c for part in parts for c in part]
        # A TPU's sum in the background of products has a piece in each of their kernels, and every
        # piece has the shape of the whole.
        if chain := instruction.attribute(r'chain_id="(\w+)"'):
            if chain in chains:
                return []
            chains.add(chain)
        transfer = instruction.attribute(r'_xla_megascale_transfer_type="(\w+)"')
        if kind == "send" and transfer:
            kind = transfer.lower().replace("_", "-")
        elif kind not in COLLECTIVES:
            return []
        if kind == "all-reduce" and "all-reduce-scatter" in fused_in:
            kind = "reduce-scatter"  # the TPU compiler writes it as an all-reduce and a slice
        devices = self._slices if transfer else _group_size(instruction, self._devices)
        by_type = defaultdict(list)
        for name in instruction.operands:
            for array in computation[name].results:
                by_type[array.dtype].append(array)
        factor = devices if kind == "all-gather" else 1
        return [
            Collective(
                kind,
                dtype,
                factor * sum(a.bytes for a in arrays),
                times,
                devices,
                tuple(a.dims for a in arrays),
                bool(transfer),
            )
            for dtype, arrays in by_type.items()
            if dtype != "token"
        ]

    def kernels(self) -> set[str]:
        """Targets of custom calls that a step runs: `tpu_custom_call` is a Pallas kernel."""
        calls = (i for _, i, _ in self.executed() if i.opcode == "custom-call")
        return {i.attribute(r'custom_call_target="([^"]*)"') for i in calls}


def _parse(line: str) -> Instruction:
    left, _, right = line.strip().partition(" = ")
    end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    opcode, _, _ = right[end:].strip().partition("(")
    start = right.index("(", end)
    stop = _closing(right, start)
    inside = right[start + 1 : stop]
    operands = re.findall(r"%([\w.-]+)", inside)
    if opcode in ("constant", "parameter"):
        operands = [inside]
    results = tuple(_array(*found) for found in _ARRAY.findall(right[:end]))
    name = left.removeprefix("ROOT ").removeprefix("%")
    return Instruction(
        name, opcode, results, tuple(operands), right[stop + 1 :], left.startswith("ROOT")
    )


def _array(dtype: str, dims: str, layout: str) -> Array:
    return Array(dtype, tuple(int(d) for d in dims.split(",") if d), "S(" not in layout)


def _closing(text: str, start: int) -> int:
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            return at
    raise ValueError(f"no closing parenthesis: {text[start : start + 80]}")


def _group_size(instruction: Instruction, devices: int) -> int:
    """Devices in a group, from any of the forms `replica_groups` has."""
    if iota := instruction.attribute(r"replica_groups=\[([\d,]+)\]<="):
        return int(iota.split(",")[-1])
    if axes := instruction.attribute(r"replica_groups=mesh\[([^\]]*)\]"):
        sizes = dict(re.findall(r"'?([\w]+)'?=(\d+)", axes))
        named = instruction.attribute(r"replica_groups=mesh\[[^\]]*\][^{]*\{([^}]*)\}")
        parts = re.findall(r"'?([a-zA-Z]\w*)'?(?::\(\d+\)(\d+))?", named)
        return math.prod(int(part or sizes[name]) for name, part in parts)
    if groups := instruction.attribute(r"replica_groups=\{\{([\d,]*)\}"):
        return groups.count(",") + 1
    if instruction.opcode.startswith("collective-permute"):
        return 2
    return devices
