"""Loads models to run on this CPU: exported files with onnxruntime, weights with bertjax."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bertjax.convert.pretrained import Hints, Pretrained
from bertjax.errors import DataError, UsageError, one_line

Batch = dict[str, np.ndarray]
TOKENS = ("input_ids", "attention_mask", "token_type_ids")


@dataclasses.dataclass(frozen=True)
class Program:
    """One model, loaded.

    Attributes:
      place: the .onnx file, or the source of `convert`.
      call: maps the arrays of `takes` to outputs, which have the names of `convert.onnx.write`.
      takes: names of the inputs.
      has_choices: inputs are `[B, C, L]`, not `[B, L]`.
      outputs: names of the outputs.
      compiles: every new shape costs a compilation.
      check: raises if `call` cannot take a batch; None if `call` itself raises, at little cost.
      labels: names of the logits; () if neither the file's metadata nor the config has them.
    """

    place: str
    call: Callable[[Batch], Batch]
    takes: tuple[str, ...]
    has_choices: bool
    outputs: tuple[str, ...]
    compiles: bool
    check: Callable[[Batch], None] | None = None
    labels: tuple[str, ...] = ()

    def run(self, batch: Batch) -> Batch:
        """The outputs of a batch with the arrays of `TOKENS`: `[B, L]`, or `[B, C, L]`.

        A multiple-choice model takes a row of `[B, L]` as the only choice of an example.
        """
        tokens = {name: batch[name] for name in self.takes}
        if self.has_choices and tokens["input_ids"].ndim == 2:
            tokens = {name: array[:, None] for name, array in tokens.items()}
        return self.call(tokens)

    def require(self, batch: Batch) -> None:
        """Raises an exception of the runtime's own class if a batch cannot be run."""
        if self.check is None:
            self.run(batch)
        else:
            self.check(batch)


def is_export(place: str) -> bool:
    """Whether a place is an ONNX file, not a source of `convert`."""
    return place.endswith(".onnx")


def open_export(place: str, threads: int) -> Program:
    """Opens an exported file in onnxruntime with `threads` threads.

    The session sets the number of threads (`intra_op_num_threads`), because OMP_NUM_THREADS does
    not affect onnxruntime's own pool. The threads stop spinning when a call returns; otherwise they
    would take time from the next program.

    Raises:
      DataError: no such file, not an ONNX file, or inputs that `convert` does not export.
      UsageError: the onnxruntime package is not installed.
    """
    if not Path(place).is_file():
        raise DataError(f"{place}: no such file")
    try:
        import onnxruntime
    except ImportError:
        raise UsageError("needs onnxruntime: pip install 'bertjax[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # failures are raised, then reported in one line
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = onnxruntime.InferenceSession(place, options, ["CPUExecutionProvider"])
    except Exception as error:  # of many classes that onnxruntime does not publish
        raise DataError(f"{place}: not an ONNX file that loads: {reason(error)}") from None
    takes = _checked_inputs(place, session.get_inputs())
    outputs = tuple(output.name for output in session.get_outputs())

    def call(tokens: Batch) -> Batch:
        int64 = {name: np.ascontiguousarray(array, np.int64) for name, array in tokens.items()}
        return dict(zip(outputs, session.run(outputs, int64), strict=True))

    has_choices = len(session.get_inputs()[0].shape) == 3
    labels = _labels(session.get_modelmeta().custom_metadata_map)
    return Program(place, call, takes, has_choices, outputs, compiles=False, labels=labels)


def _checked_inputs(place: str, inputs: list[Any]) -> tuple[str, ...]:
    """The names of a file's inputs; raises DataError if they differ from `convert.onnx.write`'s."""
    takes = tuple(each.name for each in inputs)
    ours = set(takes) <= set(TOKENS) and "input_ids" in takes
    if not ours or not all(i.type == "tensor(int64)" and len(i.shape) in (2, 3) for i in inputs):
        listed = ", ".join(f"{i.name} {i.type} of {len(i.shape)} axes" for i in inputs) or "nothing"
        raise DataError(
            f"{place}: takes {listed}; an export of bertjax takes {', '.join(TOKENS)}, int64 [B, L]"
        )
    fixed = [
        f"{i.name} {list(i.shape)}" for i in inputs if any(isinstance(n, int) for n in i.shape)
    ]
    if fixed:
        raise DataError(
            f"{place}: {fixed[0]}: axes of fixed size; export it for any batch and length"
        )
    return takes


def _labels(metadata: dict[str, str]) -> tuple[str, ...]:
    """The names of labels in the order of the logits (`convert.use.of`)."""
    try:
        names = json.loads(metadata.get("id2label", "{}"))
        return tuple(str(names[str(number)]) for number in range(len(names)))
    except (ValueError, KeyError, TypeError):  # another exporter's metadata
        return ()


def open_source(place: str, hints: Hints) -> tuple[Program, Pretrained]:
    """The weights at a source, computed by bertjax in float32 on the CPU, with all cores.

    Raises:
      UsageError, DataError: as `convert.read`.
    """
    from bertjax.convert import read

    pretrained = read(place, hints)
    return of_pretrained(place, pretrained), pretrained


def of_pretrained(place: str, pretrained: Pretrained) -> Program:
    """As `open_source`, for weights that were read already."""
    import jax

    from bertjax.convert import stablehlo

    model = stablehlo.float32(pretrained.config.model)
    cpu = jax.devices("cpu")[0]  # even if there is a GPU
    weights = jax.device_put(dict(stablehlo.weights(model, pretrained.params)), cpu)
    compute = jax.jit(stablehlo.program(model))
    takes = TOKENS if model.type_vocab_size > 1 else TOKENS[:2]

    def check(batch: Batch) -> None:
        """Raises ValueError for an index beyond a table: JAX would read the last row instead."""
        length, most = batch["input_ids"].shape[-1], batch["input_ids"].max()
        if length > model.max_sequence_length:
            raise ValueError(f"{length} tokens, the model has {model.max_sequence_length}")
        if most >= model.vocab_size:
            raise ValueError(f"id {most}, the model has {model.vocab_size:,}")

    def call(tokens: Batch) -> Batch:
        given = [jax.device_put(tokens[name].astype(np.int32), cpu) for name in takes]
        return {name: np.asarray(array) for name, array in compute(weights, *given).items()}

    outputs = tuple(output.name for output in model.head_record.outputs)
    has_choices = model.head_record.has_choices
    labels = model.label_names
    return Program(place, call, takes, has_choices, outputs, True, check, labels)


def reason(error: BaseException) -> str:
    """A runtime's error message, in one line."""
    return one_line(error, longest=200)
