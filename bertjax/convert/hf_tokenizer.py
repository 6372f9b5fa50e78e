"""The tokenizer files of a Hugging Face folder, in and out."""

import json
from pathlib import Path

from bertjax import config as config_lib
from bertjax.convert.folder import Folder
from bertjax.convert.pretrained import Hints
from bertjax.data import tokenizer, tokenizer_files, vocabulary
from bertjax.data.added_tokens import FLAGS
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.data.tokenizer_settings import CONFIG, SPECIALS


def read(
    folder: Folder, model_type: str, hints: Hints
) -> tuple[Tokenizer | None, config_lib.Tokenizer, list[str]]:
    """The tokenizer of a folder, its part of the config, and notes on what was decided.

    Args:
      model_type: from config.json; it decides the kind of tokenizer if the folder has none.
      hints: `tokenizer`, a file or directory, replaces the folder's files. `lowercase` decides if
        the files contradict each other or do not say whether text is lower-cased.

    Raises:
      DataError, UsageError: as `tokenizer_files.read`.
    """
    place = folder
    if hints.tokenizer is not None:
        named = Path(hints.tokenizer)
        place = Folder(named) if named.is_dir() else named
    elif not tokenizer_files.holds_one(folder):
        kind = "byte_bpe" if model_type == "roberta" else "wordpiece"
        note = "tokenizer: the folder has none; --tokenizer names one"
        return None, config_lib.Tokenizer(kind=kind), [note]
    found, notes = tokenizer_files.read(place, hints.tokenizer_wish)
    group = config_lib.Tokenizer(vocab_size=found.vocab_size)
    return found, tokenizer.resolved(group, found), notes


def write(
    tokenizer_: Tokenizer,
    model_type: str,
    max_length: int,
    directory: Path,
) -> list[str]:
    """Writes the files from which `transformers.AutoTokenizer` makes the same tokenizer.

    One difference remains: `transformers` reads a special token's spelling inside a text as that
    special token.

    Args:
      max_length: longest sequence of the model, in tokens.

    Returns:
      Notes on what `transformers` will not do.
    """
    pad, unk, cls, sep, mask = tokenizer_.tokens(
        getattr(tokenizer_, f"{name}_id") for name in ("pad", "unk", "cls", "sep", "mask")
    )
    specials = {"pad_token": pad, "unk_token": unk, "cls_token": cls, "sep_token": sep}
    specials["mask_token"] = mask
    settings = {"model_max_length": max_length}
    notes = []
    if tokenizer_.kind == "wordpiece":
        distil = model_type == "distilbert"
        settings["tokenizer_class"] = "DistilBertTokenizer" if distil else "BertTokenizer"
        if tokenizer_.ruleset == "google":  # other classes derive their rules from the settings
            settings["tokenizer_class"] = "PreTrainedTokenizerFast"
            notes.append("tokenizer: google-research/bert's rules are in tokenizer.json alone")
        settings["do_lower_case"] = tokenizer_.lowercase
        settings["strip_accents"] = tokenizer_.strip_accents
        settings["tokenize_chinese_chars"] = tokenizer_.handle_chinese_chars
        lines = vocabulary.as_lines(tokenizer_.vocabulary)
        (directory / "vocab.txt").write_text(lines, encoding="utf-8")
    elif tokenizer_.kind == "byte_bpe":
        settings["tokenizer_class"] = "RobertaTokenizer"
        settings["add_prefix_space"] = tokenizer_.add_prefix_space
        specials |= {"bos_token": cls, "eos_token": sep, "mask_token": _swallows_space(mask)}
        merges = "".join(f"{left} {right}\n" for left, right in tokenizer_.merges)
        (directory / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
        _write_json(
            directory / "vocab.json", {piece: i for i, piece in enumerate(tokenizer_.vocabulary)}
        )
    else:
        settings["do_lower_case"] = tokenizer_.lowercase
        notes.append("tokenizer: SentencePiece; transformers' BERT classes cannot read it")
    tokenizer_.save(directory)
    more = [tokenizer_.tokens([i])[0] for i in tokenizer_.marker_ids]
    listed = {"additional_special_tokens": more} if more else {}
    if tokenizer_.added:
        settings["added_tokens_decoder"] = _decoder(tokenizer_, specials)
    _write_json(directory / CONFIG, settings | specials | listed)
    plain = {name: _untyped(token) for name, token in specials.items()}
    _write_json(directory / SPECIALS, plain | listed)
    return notes


def _decoder(tokenizer_: Tokenizer, specials: dict) -> dict[str, dict]:
    """Every added token by its id. For `transformers`, the core special tokens are added tokens."""
    plain = dict.fromkeys(FLAGS, False) | {"special": True}
    found = {}
    for token in specials.values():
        entry = {"content": token, **plain} if isinstance(token, str) else _untyped(token)
        found[tokenizer_.id_of(entry["content"])] = entry
    for token in tokenizer_.added:
        found[token.id] = {"content": token.content} | {f: getattr(token, f) for f in FLAGS}
    return {str(i): found[i] for i in sorted(found)}


def _swallows_space(token: str) -> dict:
    flags = {"lstrip": True, "rstrip": False, "normalized": False, "single_word": False}
    return {"__type": "AddedToken", "content": token, **flags, "special": True}


def _untyped(token: str | dict) -> str | dict:
    return token if isinstance(token, str) else {k: v for k, v in token.items() if k != "__type"}


def _write_json(path: Path, tree: dict) -> None:
    path.write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
