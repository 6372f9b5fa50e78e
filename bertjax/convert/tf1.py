"""Reads and writes TensorFlow 1 checkpoints of google-research/bert, with Adam's slots.

A checkpoint is PREFIX.index and PREFIX.data-*-of-* (see `tensor_bundle`) with `bert_config.json`
and `vocab.txt` beside them.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bertjax import config as config_lib
from bertjax.config import heads
from bertjax.convert import hf_config, names, tensor_bundle
from bertjax.convert.folder import Folder
from bertjax.convert.pretrained import Hints, Pretrained, config_of
from bertjax.convert.tensor_bundle import Entry
from bertjax.convert.tf1_names import ROWS, SLOTS, slot_rows
from bertjax.data import tokenizer as tokenizer_lib
from bertjax.data import tokenizer_files, vocabulary
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.data.tokenizer_files import Wish
from bertjax.data.wordpiece import WordPiece
from bertjax.errors import DataError, UsageError

CONFIG = "bert_config.json"
VOCAB = "vocab.txt"
_TOKENIZER_FILES = tokenizer_files.IN_ONE_FILE
_READ = (CONFIG, "checkpoint", "README*", "LICENSE*", ".git*", *_TOKENIZER_FILES)
# Files that google-research/bert's scripts leave beside a checkpoint; no part of the model.
_OF_ITS_TRAINING = ("*.ckpt*", "graph.pbtxt", "events.out.*", "eval*", "*.tf_record", "*.tfrecord")

# Fields that bert_config.json and `config.Model` both have, under one name.
_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
)


def read(path: Path, hints: Hints, *, moments: bool = False) -> Pretrained:
    """Reads a checkpoint that google-research/bert or `write` made.

    The tensors decide the head. google-research/bert's files leave two things open. `hidden_act`
    needs a hint, because their "gelu" is the erf form in the releases of 2018 and the tanh form in
    the code since January 2019. Casing follows a hint or the vocabulary. Text is tokenized by
    google-research/bert's rules (see `data.wordpiece`).

    Args:
      path: PREFIX, for example `uncased_L-12_H-768_A-12/bert_model.ckpt`.
      moments: also read Adam's moments, if every parameter has both.

    Raises:
      DataError: a file is missing, damaged, hostile, or describes another model.
      UsageError: the activation needs a hint, or a hint contradicts what the files record.
    """
    path = Path(path)
    folder = Folder(path.parent)
    entries = tensor_bundle.read_index(path)
    tree, where = folder.json(CONFIG), str(folder.root / CONFIG)
    if "bertjax" in tree:
        config = _recorded_config(tree["bertjax"], hints, where)
        tokenizer, notes = _recorded_tokenizer(tree["bertjax"], config, folder, hints), []
    else:
        model = _model_of(tree, entries, hints, where)
        tokenizer, tokenizer_config, notes = _open_vocabulary(folder, hints)
        config = config_of(model, tokenizer_config, where)
        notes += hf_config.unused(tree, {*_FIELDS}, where)
    notes += folder.unread((f"{path.name}*", *_READ, *_OF_ITS_TRAINING))
    model = config.model
    if tokenizer is not None and tokenizer.vocab_size > model.vocab_size:
        raise DataError(
            f"{where}: vocab_size={model.vocab_size}, but the vocabulary has "
            f"{tokenizer.vocab_size} pieces"
        )
    params = names.gather(ROWS, model, entries, str(path))
    return Pretrained(
        config,
        tokenizer,
        params,
        step=_global_step(entries),
        moments=_read_moments(model, entries, path, notes) if moments else None,
        notes=(*notes, *_left_out(model, entries)),
    )


def _read_moments(
    model: config_lib.Model, entries: Mapping[str, Entry], path: Path, notes: list[str]
) -> dict | None:
    tables = {part: slot_rows(part) for part in SLOTS}
    wanted = [name for rows in tables.values() for name, _ in names.named_shapes(rows, model)]
    missing = [name for name in wanted if name not in entries]
    if missing:
        notes.append(
            f"moments: {len(missing)} of {len(wanted)} Adam slots are not in the checkpoint "
            f"({missing[0]} first); none was read"
        )
        return None
    return {part: names.gather(rows, model, entries, str(path)) for part, rows in tables.items()}


def _global_step(entries: Mapping[str, Entry]) -> int:
    entry = entries.get("global_step")
    if entry is None:
        return 0
    if entry.shape != () or entry.dtype is None or entry.dtype.kind != "i":
        raise DataError(f"{entry.path}: global_step is not a count of steps")
    step = int(entry.read())
    if not 0 <= step < 1 << 31:
        raise DataError(f"{entry.path}: global_step={step}; expected a count of steps")
    return step


def _left_out(model: config_lib.Model, entries: Mapping[str, Entry]) -> list[str]:
    used = {name for name, _ in names.named_shapes(ROWS, model)} | {"global_step"}
    slots = tuple(f"/{slot}" for slot in SLOTS.values())
    others = sorted(name for name in entries.keys() - used if not name.endswith(slots))
    if not others:
        return []
    first = ", ".join(name if len(name) <= 80 else f"{name[:80]}..." for name in others[:3])
    return [f"left out: {len(others)} tensors ({first}{', ...' if len(others) > 3 else ''})"]


# google-research/bert's own config and vocabulary


def _model_of(
    tree: dict, entries: Mapping[str, Entry], hints: Hints, where: str
) -> config_lib.Model:
    missing = [name for name in _FIELDS if name not in tree]
    if missing:
        raise DataError(f"{where}: lacks {', '.join(missing)}")
    fields = {name: tree[name] for name in _FIELDS} | {"head": _head(entries)}
    fields["hidden_act"] = _activation(tree["hidden_act"], hints, where)
    if fields["head"] == "classification":
        fields["num_labels"] = next(iter(entries["output_weights"].shape), 0)
    try:
        return config_lib.model_of(fields)
    except UsageError as error:
        raise DataError(f"{where}: {error}") from None


def _head(entries: Mapping[str, Entry]) -> str:
    """The first head whose parts are all present; heads that share tensors cannot be told apart."""
    named = ((name, head) for name, head in heads.telling() if not head.by_name)
    return next(name for name, head in named if names.has_parts(ROWS, head, entries))


def _activation(name: Any, hints: Hints, where: str) -> str:
    if name != "gelu":
        raise DataError(f"{where}: hidden_act={name!r:.80}; bertjax computes gelu")
    if hints.hidden_act is None:
        raise UsageError(
            f"{where}: hidden_act=gelu has two meanings; pass --hidden_act=gelu for the erf form "
            "(the 2018 releases) or --hidden_act=gelu_new for the tanh form"
        )
    return hints.hidden_act


def _open_vocabulary(
    folder: Folder, hints: Hints
) -> tuple[Tokenizer | None, config_lib.Tokenizer, list[str]]:
    """`(tokenizer, its config, notes)` of a checkpoint that records no tokenizer."""
    if hints.tokenizer is not None:
        tokenizer, notes = tokenizer_files.read(hints.tokenizer, hints.tokenizer_wish, google=True)
    elif folder.has(VOCAB):
        wish = hints.tokenizer_wish
        tokenizer, notes = tokenizer_files.read(folder, wish, name=VOCAB, google=True)
    else:
        note = f"{folder.root}: no {VOCAB}; name a vocabulary with --tokenizer to use text"
        return None, config_lib.Tokenizer(), [note]
    group = config_lib.Tokenizer(vocab_size=tokenizer.vocab_size)
    return tokenizer, tokenizer_lib.resolved(group, tokenizer), notes


# The record that `write` adds to bert_config.json


def _recorded_config(own: Any, hints: Hints, where: str) -> config_lib.Config:
    parts = ("model", "tokenizer", "optimizer")
    missing = [part for part in parts if not isinstance(own, dict) or part not in own]
    if missing:
        raise DataError(f"{where}: bertjax lacks {', '.join(missing)}")
    try:
        model = config_lib.model_of(own["model"])
        groups = {"tokenizer": own["tokenizer"], "optimizer": {"name": own["optimizer"]}}
        groups["embedding"] = own.get("embedding", {})
        others = config_lib.from_config_dict(groups)
    except UsageError as error:
        raise DataError(f"{where}: {error}") from None
    recorded = {"hidden_act": model.hidden_act}
    if own.get("tokenizer_file") and others.tokenizer.kind == "wordpiece":
        recorded["lowercase"] = others.tokenizer.lowercase
    for name, value in recorded.items():
        if getattr(hints, name) not in (None, value):
            raise UsageError(
                f"{where}: records {name}={value}; {getattr(hints, name)} was asked for"
            )
    # The file is not trusted: its tokenizer.path must not decide which files are opened.
    tokenizer = dataclasses.replace(others.tokenizer, path=None)
    config = config_of(model, tokenizer, where)
    return dataclasses.replace(config, optimizer=others.optimizer, embedding=others.embedding)


def _recorded_tokenizer(
    own: dict, config: config_lib.Config, folder: Folder, hints: Hints
) -> Tokenizer | None:
    name = own.get("tokenizer_file")
    if hints.tokenizer is not None:
        return tokenizer_files.read(hints.tokenizer, hints.tokenizer_wish)[0]
    if name is None:
        return None
    if name not in _TOKENIZER_FILES:  # other names could lead to files that nothing checks
        raise DataError(
            f"{folder.root / CONFIG}: tokenizer_file={name!r:.80}; bertjax writes no such file"
        )
    if name == VOCAB:
        return _of_vocabulary(folder.file(name), config.tokenizer)
    return tokenizer_files.read(folder, Wish(), name=name)[0]


def _of_vocabulary(path: Path, group: config_lib.Tokenizer) -> WordPiece:
    """The tokenizer of a vocab.txt, with the recorded group of the config."""
    ruleset = group.rules or "huggingface"  # the only rules before the config recorded them
    pieces = vocabulary.read_pieces(path)
    return WordPiece(pieces, bool(group.lowercase), str(path), ruleset=ruleset)


def write(pretrained: Pretrained, path: Path) -> None:
    """Writes a checkpoint under PREFIX, with `bert_config.json` and the vocabulary beside it.

    google-research/bert reads every such checkpoint, but computes the same model only for BERT: it
    has no position offset (RoBERTa), always adds token types (DistilBERT has none), knows one
    pooler (tanh) and one LayerNorm epsilon (1e-12), and its "gelu" is the tanh form. Values that
    its config cannot express are under `bertjax` in `bert_config.json`, so that `read` restores the
    model exactly.

    Args:
      path: PREFIX; its directory is created if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    config = pretrained.config
    fields = dataclasses.asdict(config.model)
    tree = {name: fields[name] for name in _FIELDS} | {"hidden_act": "gelu"}
    tree["bertjax"] = {
        "model": fields,
        "tokenizer": dataclasses.asdict(config.tokenizer) | {"path": None},
        "tokenizer_file": _write_tokenizer(pretrained.tokenizer, config.tokenizer, path.parent),
        "optimizer": config.optimizer.name,
        "embedding": dataclasses.asdict(config.embedding),
    }
    (path.parent / CONFIG).write_text(json.dumps(tree, indent=2) + "\n")
    tensor_bundle.write(path, _tensors(pretrained))
    (path.parent / "checkpoint").write_text(
        f'model_checkpoint_path: "{path.name}"\nall_model_checkpoint_paths: "{path.name}"\n'
    )


def _tensors(pretrained: Pretrained) -> Iterator[tuple[str, np.ndarray]]:
    model = pretrained.config.model
    yield from names.scatter(ROWS, model, pretrained.params)
    for part in SLOTS if pretrained.moments is not None else ():
        yield from names.scatter(slot_rows(part), model, pretrained.moments[part])
    yield "global_step", np.array(pretrained.step, np.int64)


def _write_tokenizer(
    tokenizer: Tokenizer | None, config: config_lib.Tokenizer, directory: Path
) -> str | None:
    """Writes the tokenizer; returns the file from which `tokenizer.load` makes the same one."""
    if tokenizer is None:
        return None
    if tokenizer.kind == "wordpiece":
        text = vocabulary.as_lines(tokenizer.tokens(range(tokenizer.vocab_size)))
        (directory / VOCAB).write_text(text, encoding="utf-8", newline="\n")
        if _of_vocabulary(directory / VOCAB, config).sha256 == tokenizer.sha256:
            return VOCAB
    return tokenizer.save(directory).name
