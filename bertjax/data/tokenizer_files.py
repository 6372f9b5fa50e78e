"""The files of a tokenizer: which files of a folder are read, and how they are combined.

`transformers` takes the pieces from one file and the rules for cutting text from another. If the
files of a folder contradict each other, nothing tells which file the weights were trained with.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from bertjax import storage
from bertjax.data import byte_bpe, tokenizer_settings, vocabulary, wordpiece
from bertjax.data.added_tokens import Added
from bertjax.data.byte_bpe import ByteBPE
from bertjax.data.sentence_piece import SentencePiece
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.data.tokenizer_settings import ADDED, CONFIG, SPECIALS, Directory, Files, Settings
from bertjax.data.wordpiece import WordPiece
from bertjax.errors import DataError, UsageError, one_line

# The formats that hold most of the settings come first.
FORMATS = (
    ("tokenizer.json",),
    ("spiece.model",),
    ("vocab.txt",),
    ("vocab.json", "merges.txt"),
    ("encoder.json", "vocab.bpe", "dict.txt"),
)
IN_ONE_FILE = tuple(names[0] for names in FORMATS if len(names) == 1)
NAMES = {name for names in FORMATS for name in names} | {CONFIG, SPECIALS, ADDED}


@dataclasses.dataclass(frozen=True)
class Wish:
    """The settings that a user asks for; None takes them from the tokenizer's files.

    Attributes:
      lowercase, rules: as in `config.tokenizer`.
      field: the config field or flag that sets `lowercase`, for messages.
    """

    lowercase: bool | None = None
    rules: str | None = None
    field: str = "config.tokenizer.lowercase"


def holds_one(folder: Files) -> bool:
    """Whether a folder holds a tokenizer."""
    return any(folder.has(first) for first, *_ in FORMATS)


def read(
    place: Path | str | Files, wish: Wish, *, name: str | None = None, google: bool = False
) -> tuple[Tokenizer, list[str]]:
    """The tokenizer of a folder or a file, and a line for each setting that no file gives.

    The settings beside a file apply if the file has a name of `FORMATS`, because `transformers`
    would read the whole folder. A file with another name stands alone.

    Args:
      name: the file of the folder `place` to read; by default the first of `FORMATS`.
      google: a vocab.txt has google-research/bert's rules unless `wish` asks for others. The same
        holds for a vocab.txt beside google-research/bert's own bert_config.json.

    Raises:
      DataError: a file is missing, damaged or of another kind, or files contradict each other.
      UsageError: `wish` contradicts the files.
    """
    folder, names, settings = _open(place, name)
    path, *others = [folder.file(each) for each in names]
    notes: list[str] = []
    found = _pieces(path, others, settings, wish)
    tokenizer_settings.check_class(settings, found.kind, path.name)
    tokenizer_settings.check_core(settings, found, path.name)
    added = tokenizer_settings.added_to(settings, found)
    if isinstance(found, SentencePiece):
        return _as_it_is(found, path, settings, added, wish, notes), notes
    if isinstance(found, ByteBPE):
        return _byte_bpe(found, path, settings, added, wish), notes
    assert isinstance(found, WordPiece)
    rules = _rules(found, path, folder, wish, google, notes)
    return _wordpiece(found, path, settings, added, wish, rules, notes), notes


def _open(place: Path | str | Files, name: str | None) -> tuple[Files, tuple[str, ...], Settings]:
    """The folder, the files that hold the pieces, and the settings that apply."""
    if not isinstance(place, Files):
        path = storage.path(place)
        if storage.is_directory(path):
            place = Directory(path)
        else:
            place, name = Directory(path.parent), path.name
    if name is None:
        names = next((names for names in FORMATS if place.has(names[0])), None)
        if names is None:
            firsts = ", ".join(first for first, *_ in FORMATS)
            raise DataError(f"{place.root}: holds none of {firsts}")
        return place, names, tokenizer_settings.read(place)
    for names in FORMATS:
        if names[0] == name:
            return place, names, tokenizer_settings.read(place)
    return place, (name,), tokenizer_settings.none(place.root)


def _pieces(path: Path, others: list[Path], settings: Settings, wish: Wish) -> Tokenizer:
    """The tokenizer of one format's files, before the other settings of the folder are applied."""
    if path.name == "vocab.json":
        space = settings.choices.get("add_prefix_space", False)
        return byte_bpe.from_files(path, others[0], space)
    if path.name == "encoder.json":
        return byte_bpe.from_gpt2(path, *others)
    if path.suffix == ".model":
        return SentencePiece(vocabulary.read_bytes(path), str(path))
    if path.suffix != ".json":
        pieces = vocabulary.read_pieces(path)
        said = settings.choices.get("do_lower_case", wish.lowercase)
        likely = _capital(pieces) is None if said is None else said  # a guess; `_casing` decides
        return WordPiece(pieces, likely, str(path), ruleset=wish.rules or "huggingface")
    tree, name = vocabulary.read_json(path), str(path)
    try:
        model = tree["model"]
        # Files of early versions do not name the model.
        if model.get("type", "BPE" if "merges" in model else "WordPiece") == "BPE":
            return byte_bpe.from_json(tree, name)
        return wordpiece.from_json(tree, name)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{name}: not a tokenizer.json ({one_line(error, longest=200)})") from None


def _as_it_is(
    found: SentencePiece,
    path: Path,
    settings: Settings,
    added: Sequence[Added],
    wish: Wish,
    notes: list[str],
) -> SentencePiece:
    """A SentencePiece model as its file has it: settings cannot change it, so they must agree."""
    if added:
        raise DataError(
            f"{path}: added token {added[0].content[:60]!r}: cannot be kept with a SentencePiece "
            "model; make it a piece of the model"
        )
    if wish.rules is not None:
        raise UsageError(f"config.tokenizer.rules={wish.rules}: {path} is a SentencePiece model")
    folds = "lower-cases itself" if found.lowercase else "keeps case"
    if wish.lowercase not in (None, found.lowercase):
        raise UsageError(
            f"{wish.field}={wish.lowercase}: the SentencePiece model {path} {folds}; leave it unset"
        )
    if settings.choices.get("do_lower_case") and not found.lowercase:
        raise DataError(
            f"{settings.where}: do_lower_case=true, but the SentencePiece model {path.name} keeps "
            "case; lower-case the text, and set it to false"
        )
    if not found.lowercase and _capital(found.tokens(range(found.vocab_size))) is None:
        notes.append(f"casing: {path} keeps case, but no piece has a capital: lower-case the text")
    return found


def _byte_bpe(
    found: ByteBPE, path: Path, settings: Settings, added: Sequence[Added], wish: Wish
) -> ByteBPE:
    if wish.lowercase:
        raise UsageError(
            f"{wish.field}={wish.lowercase}: {path} holds byte-level BPE, which keeps case"
        )
    if wish.rules is not None:
        raise UsageError(f"config.tokenizer.rules={wish.rules}: {path} holds byte-level BPE")
    _agree(path, settings, "add_prefix_space", found.add_prefix_space)
    if tuple(added) == found.added:
        return found
    if isinstance(found, byte_bpe.PartialBPE):
        raise DataError(
            f"{path}: added token {added[0].content[:60]!r}: cannot be kept with a dict.txt that "
            f"lacks pieces of {path.name}"
        )
    parts = found.vocabulary, found.merges, found.add_prefix_space, found.unk_token
    return ByteBPE(*parts, str(path), added)


def _wordpiece(
    found: WordPiece,
    path: Path,
    settings: Settings,
    added: Sequence[Added],
    wish: Wish,
    rules: str,
    notes: list[str],
) -> WordPiece:
    said = {CONFIG: settings.choices.get("do_lower_case")}
    chinese = settings.choices.get("tokenize_chinese_chars", True)
    strip = settings.choices.get("strip_accents")
    if path.suffix == ".json":
        said[path.name] = found.lowercase
        chinese, strip = found.handle_chinese_chars, found.strip_accents
    lowercase = _casing(found.vocabulary, path, said, wish, notes)
    _agree(path, settings, "tokenize_chinese_chars", chinese)
    _agree(path, settings, "strip_accents", lowercase if strip is None else strip)
    if (lowercase, chinese, strip, rules, tuple(added)) == (
        *(found.lowercase, found.handle_chinese_chars, found.strip_accents, found.ruleset),
        found.added,
    ):
        return found
    return WordPiece(
        found.vocabulary,
        lowercase,
        str(path),
        strip_accents=strip,
        handle_chinese_chars=chinese,
        ruleset=rules,
        added=added,
    )


def _rules(
    found: WordPiece, path: Path, folder: Files, wish: Wish, google: bool, notes: list[str]
) -> str:
    """The rules to use: from tokenizer.json, or as asked for, or from the origin of the folder."""
    if path.suffix == ".json":
        if wish.rules not in (None, found.ruleset):
            raise UsageError(
                f"config.tokenizer.rules={wish.rules}: {path} has the rules {found.ruleset}; "
                "leave it unset, or name a vocab.txt"
            )
        return found.ruleset
    if wish.rules is not None:
        return wish.rules
    if google:
        return "google"
    beside = path.name == "vocab.txt" and folder.has("bert_config.json")
    if beside and not (folder.has("config.json") or folder.has(CONFIG)):
        notes.append(f"rules: google, because {path.name} is beside google-research/bert's config")
        return "google"
    return "huggingface"


def _agree(path: Path, settings: Settings, field: str, value: object) -> None:
    if settings.choices.get(field) not in (None, value):
        raise DataError(
            f"{settings.where}: {field}={settings.choices[field]}, but {path.name} has {value}; "
            "make the two agree"
        )


def _casing(pieces: Iterable[str], path: Path, said: dict, wish: Wish, notes: list) -> bool:
    """Whether text is lower-cased: by the files, or as asked for, or guessed from the vocabulary.

    A wish decides if the files contradict each other. A wish against files that agree is refused.
    """
    said = {name: value for name, value in said.items() if value is not None}
    if len(set(said.values())) > 1:
        names = " and ".join(f"{name} (lowercase={value})" for name, value in said.items())
        if wish.lowercase is None:
            raise DataError(
                f"{path.parent}: {names} contradict each other; set {wish.field}=true or false"
            )
        notes.append(f"casing: lowercase={wish.lowercase}, as asked; {names} contradict each other")
        return wish.lowercase
    if said:
        ((name, value), *_) = said.items()
        if wish.lowercase not in (None, value):
            raise UsageError(
                f"{wish.field}={wish.lowercase}: {path.with_name(name)} says lowercase={value}; "
                "leave it unset, or correct that file"
            )
        return value
    capital = _capital(pieces)
    if wish.lowercase and capital is not None:
        raise DataError(
            f"{path}: {capital!r} has a capital letter, which lower-cased text never has; "
            f"set {wish.field}=false with this vocabulary"
        )
    if wish.lowercase is not None:
        return wish.lowercase
    seen = "no piece has a capital" if capital is None else f"it has the piece {capital!r}"
    notes.append(f"casing: lowercase={capital is None}, by the vocabulary alone ({seen})")
    return capital is None


def _capital(pieces: Iterable[str]) -> str | None:
    """The first piece with a capital letter, except pieces like [unused1]."""
    words = (piece for piece in pieces if not re.fullmatch(r"[\[<].*[\]>]", piece))
    return next((piece for piece in words if piece != piece.lower()), None)
