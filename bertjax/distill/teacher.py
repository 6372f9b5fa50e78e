"""Reads a frozen teacher, checks it against the student, and places it on the devices."""

import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bertjax import config as config_lib
from bertjax import initial, models, sharding
from bertjax.config import heads
from bertjax.convert.pretrained import Pretrained
from bertjax.data import tokenizer as tokenizer_lib
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.errors import UsageError
from bertjax.initial import TEACHER
from bertjax.models.placement import Placement
from bertjax.processes import distributed

PRETRAINING = "masked_lm"  # the teacher's head that pretraining learns from


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A job's teacher.

    Attributes:
      uri: the source that it was read from.
      model: its config as it runs: without dropout, in `config.teacher.dtype`.
      params: parameters on the devices, in that type, sharded as a student's; or abstract ones.
      sha256: hash of the float32 weights.
      source: the float32 weights; None if no student starts from them.
      notes: lines on what its files do not say.
    """

    uri: str
    model: config_lib.Model
    params: dict
    sha256: str = ""
    source: Pretrained | None = None
    notes: tuple[str, ...] = ()

    def outputs(self, params: dict, batch: dict, placement: Placement) -> dict:
        """The outputs of `models.apply`, without a gradient."""
        outputs = models.apply(self.model, params, batch, dropout_key=None, placement=placement)
        return jax.lax.stop_gradient(outputs)


def read(config: config_lib.Config) -> Pretrained | None:
    """The teacher that a config names; None if it names none and needs none.

    Raises:
      UsageError: the config needs a teacher and names none; or as `convert.read`.
      DataError: as `convert.read`.
    """
    if config.teacher.init_from is not None:
        return initial.read(config, TEACHER)
    for name in ("distill", "cosine"):
        if weight := getattr(config.objective, name):
            raise UsageError(
                f"config.objective.{name}={weight}: needs a teacher; name one: "
                "config.teacher.init_from=hf:DIR"
            )
    if config.teacher.layers:
        raise UsageError(
            f"config.teacher.layers={config.teacher.layers}: there is no teacher; name one: "
            "config.teacher.init_from=hf:DIR"
        )
    return None


def resolved(config: config_lib.Config, source: Pretrained) -> config_lib.Config:
    """The config of a pretraining with a teacher, before any text is prepared for it.

    A config that names no tokenizer takes the teacher's.

    Raises:
      UsageError: as `open`; or the teacher's tokenizer is not in files of its own.
      DataError: the tokenizer that the config names cannot be read.
    """
    check(config, source, PRETRAINING)
    if not config.model.vocab_size:  # a teacher may have more rows than its tokenizer has pieces
        config = config.with_model(vocab_size=source.config.model.vocab_size)
    if config.tokenizer.path is not None:
        if jax.process_index() == 0:  # other hosts need not have the files
            ours, _ = tokenizer_lib.read(config.tokenizer)
            initial.require_same_tokenizer(config, source, ours, TEACHER)
        return config
    uri = initial.named(config, TEACHER)
    if source.tokenizer is None:
        raise UsageError(
            f"config.teacher.init_from={uri}: has no tokenizer; name its files: "
            "config.tokenizer.path"
        )
    place = initial.tokenizer_place(uri)
    if place is None:
        raise UsageError(
            f"config.teacher.init_from={uri}: its tokenizer has no files of its own; run "
            f"bertjax convert {uri} hf:DIR, then set config.teacher.init_from=hf:DIR"
        )
    tokenizer = dataclasses.replace(config.tokenizer, path=place)
    return dataclasses.replace(config, tokenizer=tokenizer)


def check(config: config_lib.Config, source: Pretrained, head: str) -> None:
    """Raises UsageError if a teacher does not fit a student; arguments as in `open`."""
    uri, theirs = initial.named(config, TEACHER), source.config.model
    wanted = {part.name for part in heads.HEADS[head].parts}
    if missing := wanted - {part.name for part in theirs.head_record.parts}:
        raise UsageError(
            f"config.teacher.init_from={uri}: its head is {theirs.head}, without "
            f"{', '.join(sorted(missing))}; take a teacher with head={head}"
        )
    if config.model.vocab_size not in (0, theirs.vocab_size):
        raise UsageError(
            f"config.model.vocab_size={config.model.vocab_size}: the teacher "
            f"{uri} has {theirs.vocab_size}; set the same"
        )
    for phase in config.active_phases.values():
        if phase.sequence_length > theirs.max_sequence_length:
            raise UsageError(
                f"config.teacher.init_from={uri}: has positions for {theirs.max_sequence_length} "
                f"tokens, a phase has {phase.sequence_length}; take shorter sequences"
            )


def open(
    config: config_lib.Config, source: Pretrained, tokenizer: Tokenizer, head: str, mesh: Mesh
) -> Teacher:
    """The teacher for a resolved config, with its weights on the devices.

    Args:
      tokenizer: the tokenizer of the student's text.
      head: the teacher's head to learn from, a value of `config.model.head`.

    Raises:
      UsageError: the teacher lacks this head, has another tokenizer or vocabulary, or too few
        positions; its layers do not divide by the mesh; or processes read different weights.
    """
    check(config, source, head)
    check_on(config, source, head, mesh)
    initial.require_same_tokenizer(config, source, tokenizer, TEACHER)
    model, uri = model_of(source.config.model, config, head), initial.named(config, TEACHER)
    kept = {part: source.params[part] for part in models.abstract_params(model)}
    sha256 = digest(kept)
    _require_one(uri, sha256)
    notes = source.notes
    if source.tokenizer is None:
        notes += ("has no tokenizer; its vocabulary is assumed to be the text's",)
    from_it = source if config.teacher.layers else None
    return Teacher(uri, model, place(kept, model, mesh), sha256, from_it, notes)


def check_on(config: config_lib.Config, source: Pretrained, head: str, mesh: Mesh) -> None:
    """Raises UsageError if a mesh cannot run a teacher; arguments as in `open`."""
    model = model_of(source.config.model, config, head)
    sharding.check_model(model, mesh, "the teacher's ")
    for phase in config.active_phases.values():
        models.attention_kernel(model, sharding.Placement(mesh), phase.sequence_length)


def _require_one(uri: str, sha256: str) -> None:
    """Raises UsageError if this process read other weights than process 0."""
    number = int(sha256[:7], 16)  # of 28 bits
    if distributed.first_decides(number) != number:
        raise UsageError(
            f"config.teacher.init_from={uri}: process {jax.process_index()} reads other weights "
            "there than process 0; give all hosts the same"
        )


def model_of(theirs: config_lib.Model, config: config_lib.Config, head: str) -> config_lib.Model:
    """A teacher's config as it runs beside a student: its own sizes, the student's kernels."""
    return dataclasses.replace(
        theirs,
        head=head,
        dtype=config.teacher.dtype,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attention=config.model.attention,
        scan_unroll=config.model.scan_unroll,
    )


def abstract(config: config_lib.Config, source: Pretrained, head: str) -> Teacher:
    """A teacher with abstract parameters, for a plan; arguments and errors as in `open`."""
    check(config, source, head)
    model = model_of(source.config.model, config, head)
    return Teacher(initial.named(config, TEACHER), model, shapes(model))


def shapes(model: config_lib.Model) -> dict:
    """Shapes and types of a teacher's parameters."""
    dtype = jnp.dtype(model.dtype)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, dtype), models.abstract_params(model)
    )


def place(params: dict, model: config_lib.Model, mesh: Mesh) -> dict:
    """Puts host arrays on the devices of a mesh; each process fills its own devices."""

    return jax.tree.map(
        lambda value, like: sharding.put(np.asarray(value).astype(like.dtype), like),
        params,
        sharding.abstract(mesh, shapes(model)),
    )


def digest(params: dict) -> str:
    """SHA-256 of names and values of host arrays."""
    found = hashlib.sha256()
    for path, value in sorted(
        (sharding.leaf_name(path), value)
        for path, value in jax.tree_util.tree_leaves_with_path(params)
    ):
        found.update(path.encode())
        found.update(np.ascontiguousarray(value, np.float32).data)
    return found.hexdigest()
