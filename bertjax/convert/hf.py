"""Hugging Face folders: `config.json`, safetensors, tokenizer files and a model card.

`transformers` and PyTorch are not needed, with one exception: PyTorch opens a `pytorch_model.bin`,
and only if pickles are allowed (see `torch_file`).
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bertjax import config as config_lib
from bertjax.config import heads
from bertjax.convert import (
    card,
    hf_config,
    hf_files,
    hf_labels,
    hf_names,
    hf_task,
    hf_tokenizer,
    names,
    sentence_encoder,
    tensor_file,
    use,
)
from bertjax.convert.folder import Folder, listed
from bertjax.convert.names import Tensor
from bertjax.convert.pretrained import Hints, Pretrained, config_of
from bertjax.errors import DataError, UsageError


def read(path: Path, hints: Hints) -> Pretrained:
    """Reads a folder in the Hub's layout, saved from any BERT, RoBERTa or DistilBERT class.

    The tensors decide the head, whatever class config.json names. A head that bertjax does not
    have is left out, with a note. Weights of lower precision become float32 without rounding.

    Raises:
      DataError: a file is missing, damaged or leads out of the folder, or the model is not one
        that bertjax computes.
      UsageError: the weights are a pickle, and pickles are not allowed.
    """
    embedding, folder, notes = sentence_encoder.read(Folder(path))
    hf_files.refuse_other_folders(folder)
    tree = folder.json(hf_files.CONFIG)
    where = str(folder.root / hf_files.CONFIG)
    architecture, model, more = hf_config.read(hf_task.without(tree), where)
    notes += more
    tied = tree.get("tie_word_embeddings") is not False and tree.get("tie_weights_") is not False
    tensors = _plain_names(hf_files.tensors(folder, hints), architecture, tied, where)
    head, more = _head(architecture, tensors, tree, model, tied, where)
    notes += more
    try:
        model = dataclasses.replace(model, head=head)
        number = _num_labels(architecture, head, tensors)
        model, more = hf_labels.read(tree, model, number)
    except UsageError as error:
        raise DataError(f"{where}: {error}") from None
    notes += more + hf_config.read_dropout(tree, architecture, model)
    tokenizer, tokenizer_config, more = hf_tokenizer.read(folder, architecture, hints)
    notes += more
    if embedding.max_length >= model.max_sequence_length:
        embedding = dataclasses.replace(embedding, max_length=0)
    config = config_of(model, tokenizer_config, where, hf_task.read(tree, model))
    config = dataclasses.replace(config, embedding=embedding)
    if tokenizer is not None and tokenizer.vocab_size > model.vocab_size:
        raise DataError(
            f"{where}: vocab_size={model.vocab_size}, but the tokenizer has "
            f"{tokenizer.vocab_size} pieces"
        )
    rows = hf_names.table(architecture, model.head)
    params = names.gather(rows, model, tensors, str(folder.root))
    notes += _check_the_rest(rows, model, tensors, tied, str(folder.root))
    notes += hf_files.strangers(folder)
    return Pretrained(config, tokenizer, params, notes=tuple(notes))


def _plain_names(
    tensors: Mapping[str, Tensor], architecture: str, tied: bool, where: str
) -> dict[str, Tensor]:
    """The tensors under the table's names: no prefix, names from before 2019 renamed, no buffers.

    A file may hold either of two tied names: `safetensors.torch.save_model` keeps only one.
    """
    result: dict[str, Tensor] = {}
    for full, tensor in tensors.items():
        name = full.removeprefix(f"{architecture}.")
        name = re.sub(r"\bLayerNorm\.gamma$", "LayerNorm.weight", name)
        name = re.sub(r"\bLayerNorm\.beta$", "LayerNorm.bias", name)
        if name in ("embeddings.position_ids", "embeddings.token_type_ids"):
            continue
        if name in result:
            raise DataError(f"{where}: the weights hold {name} twice, as {full!r:.80} too")
        result[name] = tensor
    for copy, original in hf_names.TIED.items():
        is_bias = original.endswith(".bias")
        if copy in result and original not in result and (tied or is_bias):
            result[original] = result.pop(copy)
    return result


def _claimed_class(tree: dict) -> str | None:
    classes = tree.get("architectures")
    return str(classes[0])[:80] if isinstance(classes, list) and classes else None


def _head(
    architecture: str,
    tensors: Mapping[str, Tensor],
    tree: dict,
    model: config_lib.Model,
    tied: bool,
    where: str,
) -> tuple[str, list[str]]:
    """The name of the head that the tensors form, among those that bertjax computes; and notes."""
    claimed, notes = _claimed_class(tree), []
    another, rows = None, hf_names.table(architecture, "masked_lm")
    if names.has_parts(rows, heads.HEADS["masked_lm"], tensors):
        another = _another_masked_lm(architecture, tensors, model, tied, where)
    if another is not None:
        notes.append(f"head: the masked-LM head is left out: {another}")
    head = _of_tensors(architecture, tensors, claimed or "", masked_lm=another is None)
    if claimed != hf_names.class_of(architecture, head):
        notes.append(f"head: {head}, from the tensors; config.json names {claimed or 'no class'}")
    return head, notes


def _another_masked_lm(
    architecture: str,
    tensors: Mapping[str, Tensor],
    model: config_lib.Model,
    tied: bool,
    where: str,
) -> str | None:
    """How bertjax's masked-LM head differs from the tensors' head; None if it does not."""
    if architecture == "roberta" and model.hidden_act != "gelu":
        return f"RoBERTa's always has the erf form of gelu, bertjax's would have {model.hidden_act}"
    if tied:
        return None
    decoders = [name for name in hf_names.TIED if name.endswith(".weight") and name in tensors]
    if not decoders:
        raise DataError(f"{where}: tie_word_embeddings=False, but the weights hold no decoder")
    words = tensors.get(hf_names.TIED[decoders[0]])
    if words is not None and _same(tensors[decoders[0]], words):
        return None
    return f"{decoders[0]} differs from the word embeddings; bertjax ties the two"


def _of_tensors(
    architecture: str, tensors: Mapping[str, Tensor], claimed: str, *, masked_lm: bool
) -> str:
    """The first head whose parts are all present; among heads with equal tensors, the claimed one.

    Before version 4, `BertForTokenClassification` had an unused pooler, so its tensors are the same
    as those of `BertForSequenceClassification`.
    """
    by_name = [head for head in heads.HEADS.values() if head.by_name]
    shared = {part.hf_name for head in by_name for part in head.parts} - {None}
    alike = [h for h in heads.HEADS.values() if shared & {part.hf_name for part in h.parts}]
    named = [head for head in alike if head.hf_class in claimed]
    for name, head in heads.telling():
        fits = hf_names.class_of(architecture, name) is not None and (
            names.has_parts(hf_names.table(architecture, name), head, tensors)
        )
        if head in alike:
            fits = fits and (head in named if named else not head.by_name)
        if fits and (masked_lm or heads.MASKED_LM not in head.parts):
            return name
    return "none"


def _num_labels(architecture: str, head: str, tensors: Mapping[str, Tensor]) -> int:
    """Rows of the last layer of a head with labels; 0 if the head has none."""
    paths = [f"{p.name}/dense/bias" for p in heads.HEADS[head].parts if p.width == "num_labels"]
    for row in hf_names.table(architecture, head):
        if row.path in paths and row.name in tensors:
            return next(iter(tensors[row.name].shape), 0)
    return 0


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and np.array_equal(a.read(), b.read())


def _check_the_rest(
    rows: list[names.Row],
    model: config_lib.Model,
    tensors: dict[str, Tensor],
    tied: bool,
    where: str,
) -> list[str]:
    """Notes on tensors that no row reads; raises DataError if a tied copy differs."""
    used = {name for name, _ in names.named_shapes(rows, model)}
    left_out = []
    for name in tensors.keys() - used:
        original = hf_names.TIED.get(name)
        if original not in used or not (model.has_masked_lm or tied):
            left_out.append(name)
        elif not _same(tensors[name], tensors[original]):
            raise DataError(f"{where}: {name} differs from {original}; bertjax ties the two")
    return [f"left out: {listed(sorted(left_out))}"] if left_out else []


def write(pretrained: Pretrained, path: Path) -> list[str]:
    """Writes a folder that `transformers`' Auto classes load with no missing or unexpected key.

    Returns:
      Notes on what `transformers` will not do.

    Raises:
      UsageError: `transformers` has no class that computes this model.
    """
    model, tokenizer = pretrained.config.model, pretrained.tokenizer
    architecture = hf_names.architecture(model)
    ids = {}
    if tokenizer is not None:
        ids = {"pad": tokenizer.pad_id, "cls": tokenizer.cls_id, "sep": tokenizer.sep_id}
        if architecture == "roberta" and tokenizer.pad_id != model.position_offset - 1:
            raise UsageError(
                f"config.model.position_offset={model.position_offset}: transformers starts "
                f"RoBERTa's positions at the padding id + 1 = {tokenizer.pad_id + 1}"
            )
    tree = hf_config.write(model, ids) | hf_task.write(pretrained.config)
    path.mkdir(parents=True)
    (path / hf_files.CONFIG).write_text(json.dumps(tree, indent=2) + "\n")
    rows = hf_names.table(architecture, model.head)
    tensor_file.write(
        path / hf_files.WEIGHTS,
        (
            (hf_names.base_prefix(architecture, model.head, name) + name, array)
            for name, array in names.scatter(rows, model, pretrained.params)
        ),
        {"format": "pt"},
    )
    (path / "README.md").write_text(card.text(pretrained, tree["architectures"][0]))
    notes = sentence_encoder.write(pretrained, path) + use.of_task(pretrained)
    if tokenizer is None:
        return [*notes, "tokenizer: the source has none, so the folder has none"]
    longest = model.max_sequence_length
    if getattr(tokenizer, "absent", ()):
        return [
            *notes,
            f"tokenizer: not written: {len(tokenizer.absent):,} pieces are <unk> here, which "
            "tokenizers of transformers cannot express",
        ]
    return notes + hf_tokenizer.write(tokenizer, architecture, longest, path)
