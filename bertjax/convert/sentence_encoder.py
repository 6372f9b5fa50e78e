"""sentence-transformers' files in a Hugging Face folder: how a text's tokens become a vector.

`modules.json` lists the modules in the order in which they run: the encoder, a pooling, often a
normalization. Each module has its own folder; since version 2.0, the encoder's is the root.
"""

import json
import re
from pathlib import Path
from typing import Any

from bertjax import config as config_lib
from bertjax.config.embedding_fields import POOLINGS, Embedding
from bertjax.convert.folder import Folder, listed
from bertjax.convert.pretrained import Pretrained
from bertjax.data.tokenizer_settings import CONFIG
from bertjax.errors import DataError, UsageError

MODULES, PROMPTS, SETTINGS = (
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
)
POOLING = "1_Pooling"
# Versions before 1.0 named the settings, and the class of the encoder, after the architecture.
_OLD_SETTINGS = ("sentence_roberta_config.json", "sentence_distilbert_config.json")
_ENCODERS = ("Transformer", "BERT", "RoBERTa", "DistilBERT")
# Before version 5.4: one switch per mode. Vectors of several modes are concatenated in this order.
_SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
# Settings that need no note: they are read here, or do not concern an encoder of plain text.
_HARMLESS = {
    "max_seq_length",
    "do_lower_case",
    "transformer_task",
    "modality_config",
    "module_output_name",
    "unpad_inputs",
    "__version__",
    "model_type",
    "prompts",
    "default_prompt_name",
    "similarity_fn_name",
}


def read(folder: Folder) -> tuple[Embedding, Folder, list[str]]:
    """`(how vectors are made, the folder of the encoder, notes)`.

    A folder without modules.json is a plain encoder, not a sentence encoder.

    Raises:
      DataError: a file is missing, damaged or leads out of the folder, or has a value that no
        version of sentence-transformers accepts.
    """
    if not folder.has(MODULES):
        return Embedding(), folder, []
    modules = [_module(entry, folder) for entry in folder.json(MODULES, list)]
    if not modules or modules[0][0] not in _ENCODERS:
        first = modules[0][0] if modules else "nothing"
        raise DataError(f"{folder.root / MODULES}: starts with {first}; expected Transformer")
    inner = folder.folder(modules[0][1]) if modules[0][1] else folder
    fields = _settings(inner, notes := [])
    _prompts(folder, fields, notes)
    _steps(folder, modules[1:], fields, notes)
    try:
        config = config_lib.from_config_dict({"embedding": fields})
    except UsageError as error:
        raise DataError(f"{folder.root / MODULES}: {error}") from None
    return config.embedding, inner, notes


def directories(folder: Folder) -> list[str]:
    """The subfolders that `read` opens: the plain names in modules.json."""
    modules = folder.json(MODULES, list) if folder.has(MODULES) else []
    found = [_module(entry, folder) for entry in modules]
    return [
        path
        for kind, path in found
        if kind in (*_ENCODERS, "Pooling") and re.fullmatch(r"[\w\-]+", path)
    ]


def _module(entry: Any, folder: Folder) -> tuple[str, str]:
    """The class and the folder of one module; "" is the root."""
    kind, path = (entry.get(name) if isinstance(entry, dict) else None for name in ("type", "path"))
    if not isinstance(kind, str) or not isinstance(path, str):
        raise DataError(f"{folder.root / MODULES}: expected objects with a type and a path")
    own = kind.startswith("sentence_transformers.")
    return (kind.rpartition(".")[2] if own else kind)[:80], path.removesuffix("/")


def _settings(inner: Folder, notes: list[str]) -> dict:
    """`max_length` (tokens, 0 if not given) and `lowercase`, from the encoder's settings."""
    names = [name for name in (SETTINGS, *_OLD_SETTINGS) if inner.has(name)]
    tree = inner.json(names[0]) if names else {}
    _name_unused(tree, names and names[0], notes)
    longest = tree.get("max_seq_length")
    if longest is None and inner.has(CONFIG):  # since version 5.4
        longest = inner.json(CONFIG).get("model_max_length")
        # transformers writes 1e30 where a tokenizer has no limit.
        longest = longest if isinstance(longest, int) and longest < 1 << 20 else None
    return {"max_length": longest or 0, "lowercase": tree.get("do_lower_case") or False}


def _prompts(folder: Folder, fields: dict, notes: list[str]) -> None:
    """Adds to `fields` the prompt before every text, and the similarity that compares vectors."""
    tree = folder.json(PROMPTS) if folder.has(PROMPTS) else {}
    _name_unused(tree, PROMPTS, notes)
    prompts = tree.get("prompts") if isinstance(tree.get("prompts"), dict) else {}
    default = tree.get("default_prompt_name")
    if default is not None:
        if not isinstance(default, str) or default not in prompts:
            raise DataError(f"{folder.root / PROMPTS}: has no prompt {default!r:.80}")
        fields["prompt"] = prompts[default]
    others = [f"{name}={text!r:.80}" for name, text in prompts.items() if text and name != default]
    if others:
        notes.append(f"prompts that are not kept (put them before a text): {listed(others)}")
    similarity = tree.get("similarity_fn_name")
    if similarity in _SIMILARITIES:
        fields["similarity"] = similarity
    elif similarity is not None:
        notes.append(f"{PROMPTS}: not used: similarity_fn_name={similarity!r:.80}")


def _steps(folder: Folder, modules: list, fields: dict, notes: list[str]) -> None:
    """Adds to `fields` the modules after the encoder: a pooling, then perhaps a normalization."""
    left_out = [] if modules and modules[0][0] == "Pooling" else ["no Pooling"]
    for number, (kind, path) in enumerate(modules):
        if kind == "Pooling" and number == 0:
            tree = folder.folder(path).json("config.json")
            fields["pooling"] = _pooling(tree, folder.root / path / "config.json")
            fields["include_prompt"] = tree.get("include_prompt", True)
        elif kind == "Normalize" and number:
            fields["normalize"] = True
        elif kind != "Dropout":  # it does nothing outside training
            left_out.append(f"{kind} ({path})")
    if left_out:
        fields["left_out"] = listed(left_out)
        notes.append(
            f"sentence encoder: {fields['left_out']}: bertjax has no such module, so its vectors "
            "differ from the model's"
        )


def _pooling(tree: dict, where: Path) -> str:
    """The modes of a pooling, joined by +."""
    modes = tree.get("pooling_mode")
    if modes is None:
        modes = [mode for switch, mode in _SWITCHES.items() if tree.get(switch) is True] or "mean"
    modes = [modes] if isinstance(modes, str) else modes
    known = [mode for mode in POOLINGS if mode != "pooler"]
    if not isinstance(modes, list) or not modes or not all(mode in known for mode in modes):
        raise DataError(f"{where}: pooling_mode={modes!r:.80}; bertjax has {', '.join(known)}")
    return "+".join(modes)


def _name_unused(tree: dict, name: str, notes: list[str]) -> None:
    unused = [
        f"{key}={value!r:.60}"
        for key, value in sorted(tree.items())
        if key not in _HARMLESS and value not in (None, {}, [])
    ]
    if unused:
        notes.append(f"{name}: not used: {listed(unused)}")


def refuse(embedding: Embedding) -> None:
    """Raises UsageError if a model makes its vectors with modules that bertjax does not have."""
    if embedding.left_out:
        raise UsageError(
            f"the model makes its vectors with modules that bertjax lacks: {embedding.left_out}; "
            "--pooling=mean gives vectors of the encoder alone"
        )


def describe(embedding: Embedding) -> str:
    """How a sentence encoder makes its vectors, in words."""
    parts = [f"pooling={embedding.pooling or 'mean'}"]
    defaults = Embedding()
    for name in ("max_length", "normalize", "lowercase", "prompt", "include_prompt", "left_out"):
        if getattr(embedding, name) != getattr(defaults, name):
            parts.append(f"{name}={getattr(embedding, name)!r}")
    return ", ".join(parts)


def write(pretrained: Pretrained, path: Path) -> list[str]:
    """Writes the files from which sentence-transformers 2 and later makes the same vectors.

    Writes nothing for a model that is not a sentence encoder.

    Returns:
      Notes on what sentence-transformers will not do.
    """
    embedding, model = pretrained.config.embedding, pretrained.config.model
    if embedding.left_out or "pooler" in (embedding.pooling or ""):
        return [f"sentence-transformers cannot do {describe(embedding)}; no {MODULES} is written"]
    if embedding.pooling is None:
        return []
    modules = [("", "Transformer"), (POOLING, "Pooling")]
    modules += [("2_Normalize", "Normalize")] * embedding.normalize
    tree = [
        {"idx": i, "name": str(i), "path": folder, "type": f"sentence_transformers.models.{kind}"}
        for i, (folder, kind) in enumerate(modules)
    ]
    _write_json(path / MODULES, tree)
    longest = embedding.max_length or model.max_sequence_length
    settings = {"max_seq_length": longest, "do_lower_case": embedding.lowercase}
    _write_json(path / SETTINGS, settings)
    prompts = {"default": embedding.prompt} if embedding.prompt else {}
    _write_json(
        path / PROMPTS,
        {
            "prompts": prompts,
            "default_prompt_name": "default" if prompts else None,
            "similarity_fn_name": embedding.similarity,
        },
    )
    modes = embedding.pooling.split("+")
    (path / POOLING).mkdir()
    # Versions before 2.4 know only the first four switches.
    known = [switch for i, switch in enumerate(_SWITCHES) if i < 4 or _SWITCHES[switch] in modes]
    pooling = {"word_embedding_dimension": model.hidden_size}
    pooling |= {switch: _SWITCHES[switch] in modes for switch in known}
    if not embedding.include_prompt:
        pooling["include_prompt"] = False
    _write_json(path / POOLING / "config.json", pooling)
    ordered = [mode for mode in _SWITCHES.values() if mode in modes]
    if ordered != modes:
        return [f"sentence-transformers joins pooled vectors in its own order: {'+'.join(ordered)}"]
    return []


def _write_json(path: Path, tree: dict | list) -> None:
    path.write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
