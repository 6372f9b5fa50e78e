"""The cost of one execution of a compiled instruction: FLOPs of matrix products, bytes of HBM."""

import math
import re

from bertjax.plan.hlo import Computation, Instruction, Program

# Instructions without a cost: they name arrays that exist already, or their `-start` has the cost.
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "optimization-barrier",
    "iota",
    "copy-done",
    "slice-done",
    "async-done",
    "async-update",
    "send-done",
    "recv-done",
    "recv",
    "send",
    "add-dependency",
    "domain",
    "rng-get-and-update-state",
}
_SLICES = ("dynamic-slice", "slice", "gather")  # they read the bytes they return, not the operand
_RENAMES = ("bitcast", "reshape", "copy", "transpose", "convert", "get-tuple-element")


def flops(program: Program, computation: Computation, instruction: Instruction) -> int:
    """FLOPs of the matrix products in one execution; a multiply-add counts as 2.

    A kernel (custom call) counts the FLOPs that it declares, a call of cuBLAS its product.
    """
    if instruction.opcode == "fusion":
        (inner, *_) = (program.computations[name] for name in instruction.called)
        return sum(flops(program, inner, i) for i in inner.values())
    if instruction.opcode == "dot":
        return 2 * math.prod(instruction.results[0].dims) * _contracted(computation, instruction)
    if instruction.opcode == "convolution":
        return _convolution(computation, instruction)
    if _is_gemm(instruction):
        axes = instruction.attribute(r'"lhs_contracting_dimensions":\[([^\]]*)\]').replace('"', "")
        return 2 * math.prod(instruction.results[0].dims) * _sizes(computation, instruction, axes)
    if instruction.opcode == "custom-call":
        return _declared(instruction)
    return 0


def _declared(kernel: Instruction) -> int:
    """FLOPs of a Pallas kernel: of all of it (TPU), or of each program of its grid (GPU)."""
    if of_program := kernel.attribute(r"program_flops\W+(?:22\W+22)?(\d+)"):
        sides = (kernel.attribute(rf"grid_{side} = (\d+)") for side in "xyz")
        return int(of_program) * math.prod(int(side or 1) for side in sides)
    return int(kernel.attribute(r'cost_estimate"?:\{[^}]*"?flops"?:"?(\d+)') or 0)


def total_flops(program: Program) -> int:
    """FLOPs of the matrix products of one device in one step."""
    return sum(times * flops(program, c, i) for c, i, times in program.executed())


def total_bytes(program: Program) -> float:
    """Bytes that one device reads from and writes to HBM in one step."""
    return sum(times * hbm_bytes(program, c, i) for c, i, times in program.executed())


def total_kernels(program: Program) -> int:
    """Instructions that one device runs in one step; on a GPU each one is a launch."""
    return sum(times for _, i, times in program.executed() if not _is_free(i))


def _is_free(instruction: Instruction) -> bool:
    return instruction.opcode in _FREE or instruction.opcode.endswith("-done")


def hbm_bytes(program: Program, computation: Computation, instruction: Instruction) -> float:
    """Bytes that one execution reads from and writes to HBM.

    Operands and results count once each. An array that is only sliced or updated in place counts
    the slice (as in HloCostAnalysis), and an array in the chip's own memory counts nothing. Padding
    to tiles is left out.
    """
    opcode = instruction.opcode
    if _is_free(instruction):
        return 0
    if opcode == "custom-call" and not _is_kernel(instruction):
        return 0
    if opcode == "fusion":
        inner = program.computations[instruction.called[0]]
        return _fusion_bytes(program, computation, instruction, inner)
    results = instruction.results[:1] if _is_gemm(instruction) else instruction.results
    written = sum(a.bytes for a in results if a.in_hbm)
    if opcode in ("copy-start", "slice-start"):  # results hold the source and the destination
        size = min(a.bytes for a in instruction.results[:2])
        return sum(size for a in instruction.results[:2] if a.in_hbm)
    if opcode in _SLICES:
        source = computation[instruction.operands[0]].results[0]
        return written + source.in_hbm * instruction.results[0].bytes
    if opcode == "dynamic-update-slice":
        return 2 * computation[instruction.operands[1]].results[0].bytes * (written > 0)
    return written + sum(_hbm(computation, name) for name in instruction.operands)


def _is_gemm(instruction: Instruction) -> bool:
    """Whether cuBLAS is called. Its results are the product and the workspace."""
    return 'custom_call_target="__cublas' in instruction.attributes


def _is_kernel(instruction: Instruction) -> bool:
    target = instruction.attribute(r'custom_call_target="([^"]*)"')
    return target == "tpu_custom_call" or target.startswith("__")


def _hbm(computation: Computation, name: str) -> float:
    return sum(a.bytes for a in computation[name].results if a.in_hbm)


def _fusion_bytes(
    program: Program, computation: Computation, fusion: Instruction, inner: Computation
) -> float:
    by_place = {int(i.operands[0]): i for i in inner.values() if i.opcode == "parameter"}
    read = 0
    for place, name in enumerate(fusion.operands):
        whole = _hbm(computation, name)
        if whole and place in by_place:
            read += min(whole, _read(program, inner, by_place[place]))
    (root,) = (i for i in inner.values() if i.is_root)
    parts = [inner[n] for n in root.operands] if root.opcode == "tuple" else [root]
    written = sum(
        min(array.bytes, _written(program, inner, part))
        for array, part in zip(fusion.results, parts, strict=False)
        if array.in_hbm
    )
    return read + written


def _read(program: Program, inner: Computation, source: Instruction) -> float:
    """Bytes of `source` that the instructions after it read."""
    total = 0
    for user in inner.values():
        if source.name not in user.operands or user.opcode in ("parameter", "constant"):
            continue
        place = user.operands.index(source.name)
        if user.opcode in _SLICES and place == 0:
            total += user.results[0].bytes
        elif user.opcode == "dynamic-update-slice" and place == 0:
            continue  # the rest of the array stays where it is
        elif user.opcode in _RENAMES:
            total += _read(program, inner, user)
        elif user.opcode == "fusion":
            nested = program.computations[user.called[0]]
            parameters = (i for i in nested.values() if i.opcode == "parameter")
            (inside,) = (i for i in parameters if int(i.operands[0]) == place)
            total += _read(program, nested, inside)
        else:
            total += sum(a.bytes for a in source.results)
    return total


def _written(program: Program, inner: Computation, root: Instruction) -> float:
    """Bytes that are written to make `root`; for an update in place, only the update."""
    if root.opcode == "dynamic-update-slice":
        return inner[root.operands[1]].results[0].bytes
    if root.opcode in ("bitcast", "copy", "reshape") and root.operands[0] in inner:
        return _written(program, inner, inner[root.operands[0]])
    if root.opcode == "fusion":
        nested = program.computations[root.called[0]]
        (last,) = (i for i in nested.values() if i.is_root)
        return _written(program, nested, last)
    return sum(a.bytes for a in root.results)


def _contracted(computation: Computation, dot: Instruction) -> int:
    return _sizes(computation, dot, dot.attribute(r"lhs_contracting_dims=\{([\d,]*)\}"))


def _sizes(computation: Computation, product: Instruction, axes: str) -> int:
    """Product of the sizes of these axes ("1,2") of a matrix product's first factor."""
    dims = computation[product.operands[0]].results[0].dims
    return math.prod(dims[int(axis)] for axis in axes.split(",") if axis)


def _convolution(computation: Computation, instruction: Instruction) -> int:
    """FLOPs as HloCostAnalysis counts them: only products of two elements that exist.

    The TPU compiler writes batched matrix products as convolutions whose input is dilated with
    zeros (`lhs_dilate`). The zeros do not exist in memory and are not multiplied.
    """
    lhs, rhs = (computation[name].results[0].dims for name in instruction.operands[:2])
    out = instruction.results[0].dims
    labels = re.split("_|->", instruction.attribute(r"dim_labels=(\S+?)(?:,|$)"))
    window = instruction.attribute(r"window=\{([^}]*)\}")
    spatial = sorted(axis for axis in labels[2] if axis.isdigit())
    features = math.prod(size for axis, size in zip(labels[2], out, strict=True) if axis in "bf")

    def field(name: str, default: str) -> list[str]:
        found = re.search(rf"(?:^| ){name}=(\S+)", window)
        return found[1].split("x") if found else [default] * len(spatial)

    fields = [
        field("stride", "1"),
        field("pad", "0_0"),
        field("lhs_dilate", "1"),
        field("rhs_dilate", "1"),
    ]
    products = 1
    for axis, stride, pad, spread, step in zip(spatial, *fields, strict=True):
        inner, window, outer = (
            dims[label.index(axis)] for dims, label in zip((lhs, rhs, out), labels, strict=True)
        )
        first = int(pad.split("_")[0])
        products *= _pairs(inner, window, outer, int(stride), first, int(spread), int(step))
    return 2 * rhs[labels[1].index("i")] * features * products


def _pairs(
    inputs: int, window: int, outputs: int, stride: int, pad: int, spread: int, step: int
) -> int:
    """Number of pairs of an output place and a window place that fall on an input element."""
    last = (inputs - 1) * spread
    places = (o * stride + w * step - pad for o in range(outputs) for w in range(window))
    return sum(0 <= place <= last and place % spread == 0 for place in places)
