"""The tokenizer files of a Hugging Face folder, in and out.

`transformers` takes the pieces from one file and how to cut text from another: where the files
of a folder contradict each other, nothing tells which one its weights were trained with.
"""

import json
import re
from pathlib import Path

from bertjax import config as config_lib
from bertjax.convert.folder import Folder
from bertjax.convert.pretrained import Hints
from bertjax.data import byte_bpe, tokenizer
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.errors import DataError, UsageError

SETTINGS = "tokenizer_config.json"
# The files that a tokenizer is kept in, the most telling first.
_FORMATS = (
    ("tokenizer.json",),
    ("spiece.model",),
    ("vocab.txt",),
    ("vocab.json", "merges.txt"),
    ("encoder.json", "vocab.bpe", "dict.txt"),
)


def read(
    folder: Folder, model_type: str, hints: Hints
) -> tuple[Tokenizer | None, config_lib.Tokenizer, list[str]]:
    """The tokenizer of a folder, its part of the config, and notes on what was decided.

    Args:
      model_type: as config.json names it; says the kind of tokenizer where there is none.
      hints: `tokenizer`, a file or directory, stands in for the folder's files; `lowercase`
        decides where they contradict each other, or do not say whether text is lower-cased.

    Raises:
      DataError: a file is damaged or of another kind, or the files contradict each other.
      UsageError: `hints.lowercase` for a tokenizer that has no such choice.
    """
    notes: list[str] = []
    if hints.tokenizer is None:
        found = _find(folder, hints, notes)
    elif Path(hints.tokenizer).is_dir():
        found = _find(Folder(hints.tokenizer), hints, notes)
        if found is None:
            raise DataError(f"{hints.tokenizer}: holds no tokenizer files")
    else:
        found = _open(Path(hints.tokenizer), {}, hints, notes)
    if found is None:
        kind = "byte_bpe" if model_type == "roberta" else "wordpiece"
        notes.append("tokenizer: the folder has none; --tokenizer names one")
        return None, config_lib.Tokenizer(kind=kind), notes
    opened, lowercase = found
    size = opened.vocab_size
    return opened, config_lib.Tokenizer(opened.kind, None, size, lowercase), notes


def _find(folder, hints, notes):
    for names in _FORMATS:
        if all(folder.has(name) for name in names):
            path, *_ = [folder.file(name) for name in names]
            settings = folder.json(SETTINGS) if folder.has(SETTINGS) else {}
            return _open(path, settings, hints, notes)
    return None


def _open(path: Path, settings: dict, hints: Hints, notes: list) -> tuple[Tokenizer, bool]:
    """A tokenizer, and whether its text is lower-cased."""
    for field in ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space"):
        if type(settings.get(field)) not in (bool, type(None)):
            raise DataError(f"{path.with_name(SETTINGS)}: {field} must be true or false")
    if path.name == "vocab.json":
        space = settings.get("add_prefix_space") or False
        found = byte_bpe.from_files(path, path.with_name("merges.txt"), space)
    else:
        found = tokenizer.load(path)
    if found.kind == "byte_bpe":
        if hints.lowercase:
            raise UsageError(f"--do_lower_case: {path} holds byte-level BPE, which keeps case")
        _agree(path, settings, "add_prefix_space", found.add_prefix_space)
        return found, False
    said = {SETTINGS: settings.get("do_lower_case")}
    if found.kind == "sentencepiece":
        return found, _casing(found, path, said, hints, notes)
    chinese = settings.get("tokenize_chinese_chars", True)
    strip = settings.get("strip_accents")
    if path.suffix == ".json":
        said[path.name] = found.lowercase
        chinese, strip = found.handle_chinese_chars, found.strip_accents
    lowercase = _casing(found, path, said, hints, notes)
    _agree(path, settings, "tokenize_chinese_chars", chinese)
    _agree(path, settings, "strip_accents", lowercase if strip is None else strip)
    found = tokenizer.WordPiece(
        found.tokens(range(found.vocab_size)),
        lowercase,
        str(path),
        strip_accents=strip,
        handle_chinese_chars=chinese,
    )
    return found, lowercase


def _agree(path, settings, field, value):
    if settings.get(field) not in (None, value):
        raise DataError(
            f"{path.with_name(SETTINGS)}: {field}={settings[field]}, but {path.name} has {value}; "
            "make the two agree"
        )


def _casing(found: Tokenizer, path: Path, said: dict, hints: Hints, notes: list) -> bool:
    """Whether text is lower-cased: asked for, or said by a file, or seen in the vocabulary."""
    said = {name: value for name, value in said.items() if value is not None}
    if hints.lowercase is not None:
        other = [name for name, value in said.items() if value != hints.lowercase]
        if other:
            notes.append(f"casing: lowercase={hints.lowercase}, as asked, against {other[0]}")
        return hints.lowercase
    if len(set(said.values())) > 1:
        names = " and ".join(f"{name} (lowercase={value})" for name, value in said.items())
        raise DataError(
            f"{path.parent}: {names} contradict each other; say --do_lower_case=true or false"
        )
    if said:
        return next(iter(said.values()))
    words = (
        p for p in found.tokens(range(found.vocab_size)) if not re.fullmatch(r"[\[<].*[\]>]", p)
    )
    capital = next((piece for piece in words if piece != piece.lower()), None)
    seen = "no piece has a capital" if capital is None else f"it has the piece {capital!r}"
    notes.append(f"casing: lowercase={capital is None}, by the vocabulary alone ({seen})")
    return capital is None


def write(
    tokenizer_: Tokenizer,
    group: config_lib.Tokenizer,
    model_type: str,
    max_length: int,
    directory: Path,
) -> list[str]:
    """The files from which `transformers.AutoTokenizer` makes the same tokenizer.

    One difference stays: there a special token's spelling inside a text is the special token.

    Args:
      group: the config's, which carries a SentencePiece model's casing.
      max_length: longest sequence of the model, in tokens.

    Returns:
      Notes on what the other side will not do.
    """
    pad, unk, cls, sep, mask = tokenizer_.tokens(
        getattr(tokenizer_, f"{name}_id") for name in ("pad", "unk", "cls", "sep", "mask")
    )
    specials = {"pad_token": pad, "unk_token": unk, "cls_token": cls, "sep_token": sep}
    specials["mask_token"] = mask
    settings = {"model_max_length": max_length}
    notes = []
    pieces = tokenizer_.tokens(range(tokenizer_.vocab_size))
    if tokenizer_.kind == "wordpiece":
        distil = model_type == "distilbert"
        settings["tokenizer_class"] = "DistilBertTokenizer" if distil else "BertTokenizer"
        settings["do_lower_case"] = tokenizer_.lowercase
        settings["strip_accents"] = tokenizer_.strip_accents
        settings["tokenize_chinese_chars"] = tokenizer_.handle_chinese_chars
        (directory / "vocab.txt").write_text("".join(f"{p}\n" for p in pieces), encoding="utf-8")
    elif tokenizer_.kind == "byte_bpe":
        settings["tokenizer_class"] = "RobertaTokenizer"
        settings["add_prefix_space"] = tokenizer_.add_prefix_space
        specials |= {"bos_token": cls, "eos_token": sep, "mask_token": _swallows_space(mask)}
        merges = "".join(f"{left} {right}\n" for left, right in tokenizer_.merges)
        (directory / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
        _write_json(directory / "vocab.json", {piece: i for i, piece in enumerate(pieces)})
    else:
        settings["do_lower_case"] = group.lowercase
        notes.append("tokenizer: SentencePiece; transformers' BERT classes cannot read it")
    tokenizer_.save(directory)
    _write_json(directory / SETTINGS, settings | specials)
    plain = {name: _untyped(token) for name, token in specials.items()}
    _write_json(directory / "special_tokens_map.json", plain)
    return notes


def _swallows_space(token):
    flags = {"lstrip": True, "rstrip": False, "normalized": False, "single_word": False}
    return {"__type": "AddedToken", "content": token, **flags, "special": True}


def _untyped(token):
    return token if isinstance(token, str) else {k: v for k, v in token.items() if k != "__type"}


def _write_json(path, tree):
    path.write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
