"""Hugging Face folders: `config.json`, safetensors, tokenizer files and a model card.

Nothing of `transformers` or PyTorch is needed; a `pytorch_model.bin` is opened only where pickles
are allowed (see `torch_file`).
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bertjax.convert import card, hf_config, hf_names, hf_tokenizer, names, tensor_file, torch_file
from bertjax.convert.folder import Folder
from bertjax.convert.names import Tensor
from bertjax.convert.pretrained import Hints, Pretrained, config_of
from bertjax.errors import DataError, UsageError

WEIGHTS, INDEX, PICKLE = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
)


def read(path: Path, hints: Hints) -> Pretrained:
    """A folder as the Hub lays it out, of any BERT, RoBERTa or DistilBERT class.

    The head is what the tensors make up, whatever class the config names. Weights of lower
    precision become float32, which holds them exactly.

    Raises:
      DataError: a file is missing, damaged or leads out of the folder, or the model is not one
        that bertjax computes.
      UsageError: the weights are a pickle, and pickles are not allowed.
    """
    folder = Folder(path)
    tree = folder.json("config.json")
    where = str(folder.root / "config.json")
    architecture, model, notes = hf_config.read(tree, where)
    tensors = _plain_names(_tensors(folder, hints), architecture)
    model = dataclasses.replace(model, head=_head(architecture, tensors, tree, where))
    claimed = _claimed_class(tree)
    if claimed != hf_names.CLASSES.get((architecture, model.head)):
        notes.append(f"head: {model.head}, by the tensors; config.json names {claimed}")
    tokenizer, tokenizer_config, more = hf_tokenizer.read(folder, architecture, hints)
    notes += more
    config = config_of(model, tokenizer_config, where)
    if tokenizer is not None and tokenizer.vocab_size > model.vocab_size:
        raise DataError(
            f"{where}: vocab_size={model.vocab_size}, but the tokenizer has "
            f"{tokenizer.vocab_size} pieces"
        )
    rows = hf_names.table(architecture, model.head)
    params = names.gather(rows, model, tensors, str(folder.root))
    notes += _check_the_rest(rows, model, tensors, str(folder.root))
    return Pretrained(config, tokenizer, params, notes=tuple(notes))


def _tensors(folder: Folder, hints: Hints) -> Mapping[str, Tensor]:
    """The tensors of all the folder's weight files, unread."""
    if folder.has(INDEX):
        weight_map = folder.json(INDEX).get("weight_map")
        if not isinstance(weight_map, dict):
            raise DataError(f"{folder.root / INDEX}: has no weight_map")
        # Every name is checked before a file is opened.
        shards = [folder.file(name) for name in dict.fromkeys(weight_map.values())]
        found: dict[str, Tensor] = {}
        for shard in shards:
            found |= tensor_file.read(shard)
        return found
    if folder.has(WEIGHTS):
        return tensor_file.read(folder.file(WEIGHTS))
    if folder.has(PICKLE):
        return torch_file.tensors(torch_file.load_torch_file(folder.file(PICKLE), hints))
    raise DataError(f"{folder.root}: holds neither {WEIGHTS} nor {INDEX}")


def _plain_names(tensors: Mapping[str, Tensor], architecture: str) -> dict[str, Tensor]:
    """The tensors under the names of the table: no prefix, no names of before 2019, no buffers."""
    result = {}
    for name, tensor in tensors.items():
        name = name.removeprefix(f"{architecture}.")
        name = re.sub(r"\bLayerNorm\.gamma$", "LayerNorm.weight", name)
        name = re.sub(r"\bLayerNorm\.beta$", "LayerNorm.bias", name)
        if name not in ("embeddings.position_ids", "embeddings.token_type_ids"):
            result[name] = tensor
    return result


def _claimed_class(tree: dict) -> str | None:
    classes = tree.get("architectures")
    return classes[0] if isinstance(classes, list) and classes else None


def _head(architecture: str, tensors: Mapping[str, Tensor], tree: dict, where: str) -> str:
    """The head that the tensors make up."""
    classifier = {"roberta": "classifier.out_proj.weight"}.get(architecture, "classifier.weight")
    masked_lm = {
        "bert": "cls.predictions.transform.dense.weight",
        "roberta": "lm_head.dense.weight",
        "distilbert": "vocab_transform.weight",
    }[architecture]
    claimed = str(_claimed_class(tree))
    if masked_lm in tensors:
        whole = {"cls.seq_relationship.weight", "pooler.dense.weight"} <= tensors.keys()
        return "pretraining" if whole else "masked_lm"
    if "qa_outputs.weight" in tensors:
        return "span"
    if "TokenClassification" in claimed:
        raise DataError(f"{where}: {claimed}: bertjax has no head for each token but span")
    if "MultipleChoice" in claimed and "classifier.weight" in tensors:
        return "multiple_choice"
    if classifier in tensors:
        return "classification"
    return "pooler" if "pooler.dense.weight" in tensors else "none"


def _check_the_rest(rows, model, tensors: dict[str, Tensor], where: str) -> list[str]:
    """Copies of tied parameters must be copies; what no row reads is named."""
    used = {name for name, _ in names.named_shapes(rows, model)}
    left_out = []
    for name in tensors.keys() - used:
        original = hf_names.TIED.get(name)
        if original not in used:
            left_out.append(name)
        elif tensors[name].shape != tensors[original].shape or not np.array_equal(
            tensors[name].read(), tensors[original].read()
        ):
            raise DataError(f"{where}: {name} differs from {original}; bertjax ties the two")
    if not left_out:
        return []
    more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
    return [f"left out: {', '.join(sorted(left_out)[:5])}{more}"]


def write(pretrained: Pretrained, path: Path) -> list[str]:
    """The folder that `transformers`' Auto classes load with no key missing and none unexpected.

    Returns:
      Notes on what the other side will not do.

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
    tree = hf_config.write(model, ids)
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(tree, indent=2) + "\n")
    rows = hf_names.table(architecture, model.head)
    tensor_file.write(
        path / WEIGHTS,
        (
            (hf_names.base_prefix(architecture, model.head, name) + name, array)
            for name, array in names.scatter(rows, model, pretrained.params)
        ),
        {"format": "pt"},
    )
    (path / "README.md").write_text(card.text(pretrained, tree["architectures"][0]))
    if tokenizer is None:
        return ["tokenizer: the source has none, so the folder has none"]
    longest = model.max_sequence_length
    return hf_tokenizer.write(tokenizer, architecture, longest, path)
