"""A corpus without a download: English prose that every Python installation carries.

`pydoc_data.topics` is Python's language reference. The rest are docstrings of the standard library
and of the installed packages, read from source files without importing them. Text that is not
prose (examples, signatures, tables) is left out, and no paragraph comes twice.
"""

import ast
import inspect
import itertools
import re
import sysconfig
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pydoc_data import topics
from typing import Any, NamedTuple

MOST_BYTES = 8 << 20
FEWEST_PARAGRAPHS = 3  # in a document
FEWEST_BYTES = 1000  # of docstrings in a module; with fewer the module is not parsed
_SKIPPED = {"test", "tests", "testing", "idlelib", "_vendor", "site-packages", "__pycache__"}
_MARKUP = [
    (re.compile(r"``([^`\n]+)``"), r"\1"),
    (re.compile(r":[\w:+-]+:`~?([^`<\n]+?)(?:\s*<[^`>]*>)?`"), r"\1"),
    (re.compile(r"`([^`<\n]+?)(?:\s*<[^`>]*>)?`_{0,2}"), r"\1"),
    (re.compile(r"(?<!\w)(\*{1,2}|_)(\w[^*\n]*?)\1(?!\w)"), r"\2"),
    (re.compile(r"\s+\(\S*[:.]//\S*\)|\s*\[\d+\]_?|<?https?://\S+>?"), ""),
]
_LABELS = {"Args:", "Arguments:", "Parameters", "Returns:", "Returns", "Raises:", "Attributes:"}
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*[,.;:!?)\"']*$")


class Source(NamedTuple):
    """Text of one module, or one topic of the language reference."""

    package: str
    module: str
    text: str
    is_standard: bool  # part of Python itself


@cache
def documents() -> list[str]:
    """Documents of paragraphs with blank lines between them, about `MOST_BYTES` bytes in all.

    The order of the documents depends only on the installed packages.
    """
    return ["\n\n".join(paragraphs) for _, paragraphs in _documents()]


def labeled(classes: int, most: int) -> list[tuple[str, str, str]]:
    """`(package, module, paragraph)` of the standard library: a task to guess the package.

    The result depends on the version of Python, but not on the installed packages.

    Args:
      classes: number of packages to keep: those with the most paragraphs among the packages with
        at least four modules.
      most: most paragraphs of a package, taken from its modules in turn.
    """
    found: dict[str, list[list[tuple[str, str, str]]]] = {}
    seen: set[str] = set()
    for source in itertools.takewhile(lambda source: source.is_standard, _sources()):
        rows = [(source.package, source.module, p) for p in _paragraphs(source, seen)]
        if rows:
            found.setdefault(source.package, []).append(rows)
    counts = {p: sum(map(len, modules)) for p, modules in found.items() if len(modules) >= 4}
    largest = sorted(counts, key=lambda package: (-counts[package], package))[:classes]
    result = []
    for package in largest:
        in_turn = itertools.chain.from_iterable(itertools.zip_longest(*found[package]))
        result += list(itertools.islice(filter(None, in_turn), most))
    return result


def _documents() -> Iterator[tuple[Source, list[str]]]:
    """Sources with their paragraphs; no paragraph comes twice."""
    seen, size = set(), 0
    for source in _sources():
        paragraphs = _paragraphs(source, seen)
        if len(paragraphs) < FEWEST_PARAGRAPHS:
            continue
        yield source, paragraphs
        size += len("\n\n".join(paragraphs).encode())
        if size > MOST_BYTES:
            break


def _paragraphs(source: Source, seen: set[str]) -> list[str]:
    """The prose paragraphs of a source that are not in `seen`; adds them to `seen`."""
    parts = map(_prose, re.split(r"\n\s*\n", source.text))
    paragraphs = list(dict.fromkeys(p for p in parts if p and p not in seen))
    seen.update(paragraphs)
    return paragraphs


def _sources() -> Iterator[Source]:
    """Topics of the language reference, then the docstrings of each module as one text."""
    for topic in sorted(topics.topics):
        yield Source("pydoc_data", topic, topics.topics[topic], True)
    paths = sysconfig.get_paths()
    for root in dict.fromkeys([paths["stdlib"], paths["purelib"], paths["platlib"]]):
        for path in _modules(Path(root)):
            inside = path.relative_to(root)
            yield Source(
                Path(inside.parts[0]).stem, str(inside), _docstrings(path), root == paths["stdlib"]
            )


def _modules(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path.suffix == ".py":
            yield path
        elif path.is_dir() and path.name not in _SKIPPED:
            yield from _modules(path)


def _docstrings(path: Path) -> str:
    try:
        source = path.read_bytes()
        quoted = sum(map(len, source.split(b'"""')[1::2]))
        if quoted < max(FEWEST_BYTES, 0.3 * len(source)):
            return ""  # parsing is slow, and would yield little
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    return "\n\n".join(_collect(tree))


def _collect(node: Any) -> Iterator[str]:
    """Docstrings of a module or class and of its definitions, in source order."""
    text = ast.get_docstring(node)
    if text:
        yield text
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _collect(child)


def _prose(paragraph: str) -> str:
    """The paragraph on one line without its markup, or "" if it does not read as English."""
    if re.search(r">>>|\.\. |::$|^\s*[|+=~-]{3}|[{}\\]|(?<=\S) {3}\S", paragraph, re.MULTILINE):
        return ""
    text = inspect.cleandoc(paragraph)
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    text = re.sub(r"^[*-]\s+", "", " ".join(text.split()))
    words = text.split(" ")
    if len(words) < 6 or words[0] in _LABELS or not text[0].isupper() or text[-1] not in ".!?":
        return ""
    english = sum(bool(_WORD.match(word)) for word in words)
    return text if english >= 0.85 * len(words) else ""
