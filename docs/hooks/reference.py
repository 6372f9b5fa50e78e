"""The tables of docs/reference/, made from the code: a page has `<!-- generated: NAME -->`."""

import ast
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bertjax import __main__ as program
from bertjax import config as config_lib
from bertjax import errors
from bertjax.commands import Command, Flag
from bertjax.config import help as config_help
from bertjax.config.finetune_fields import KINDS
from bertjax.data import pipeline
from bertjax.finetune import batches as finetune_batches

ROOT = Path(__file__).parents[2]
_MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the tables where a page asks for them; a KeyError names what nothing makes."""
    return _MARK.sub(lambda match: TABLES[match[1]](), markdown)


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown; of `|` in a cell, the cell keeps the look."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def plain(text: str) -> str:
    """Text of the program in which flags and `names` are code, and nothing else is Markdown."""
    found = re.compile(r"(`[^`]*`)|(--[a-z][\w.=:/-]*\w)|([\\*_<\[\]#])")
    return found.sub(
        lambda match: match[1] or (f"`{match[2]}`" if match[2] else f"\\{match[3]}"), text
    )


def config_fields() -> str:
    """A table for each group of fields: name, default, meaning."""
    groups: dict[str, list] = {}
    for path, default, meaning in config_help.describe():
        group, _, name = path.rpartition(".")
        groups.setdefault(group, []).append((f"`{name}`", f"`{default!s}`", plain(meaning)))
    sections = (
        f"## `{group}`\n\n{table(('field', 'default', 'meaning'), rows)}"
        for group, rows in groups.items()
    )
    return "\n\n".join(sections)


def commands() -> str:
    """A section for each command: how it is typed, what it does, its own flags."""
    return "\n\n".join(_command(command) for command in program.COMMANDS.values())


def _command(command: Command) -> str:
    usage, text = command.usage
    lines = text.splitlines()
    further = [line for line in lines if line.startswith(" ")]  # of the usage
    usage = textwrap.fill(
        " ".join(f"bertjax {usage} {' '.join(further)}".split()),
        width=78,
        subsequent_indent="    ",
        break_on_hyphens=False,
    )
    said = " ".join(line for line in lines if line not in further)
    parts = [f"## {command.name}", f"```text\n{usage}\n```", plain(said)]
    if command.flags:
        rows = ((f"`--{flag.name}`", _accepts(flag), f"`{flag.default}`") for flag in command.flags)
        parts.append(table(("flag", "values", "default"), rows))
    return "\n\n".join(parts)


def _accepts(flag: Flag) -> str:
    return " ".join(f"`{choice}`" for choice in flag.choices) or flag.kind.__name__


def exit_codes() -> str:
    """The codes of `errors`, their meaning and the errors that leave with them."""
    source = Path(errors.__file__).read_text(encoding="utf-8")
    pattern = re.compile(r"^([A-Z]+) = (\d+)(?:  # (.*))?$", re.MULTILINE)
    classes = _subclasses(errors.BertjaxError)
    rows = []
    for name, code, comment in pattern.findall(source):
        raised = (f"`{c.__name__}`: {plain(_first(c.__doc__))}" for c in classes if _own(c, code))
        meaning = "<br>".join(filter(None, [plain(comment), *raised]))
        rows.append((code, f"`{name}`", meaning))
    return table(("code", "name", "meaning, and the errors that leave with it"), rows)


def _subclasses(cls: type) -> list[type]:
    return [sub for each in cls.__subclasses__() for sub in (each, *_subclasses(each))]


def _own(cls: type, code: str) -> bool:
    return str(getattr(cls, "exit_code", "")) == code


def _first(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())


def configs() -> str:
    """The header of every file of configs/, as it stands there."""
    sections = []
    for path in sorted(ROOT.glob("configs/*.py")):
        header = path.read_text(encoding="utf-8").split('"""')[1].replace("\\\\", "\\")
        sections.append(f"## `configs/{path.name}`\n\n```text\n{header.strip()}\n```")
    return "\n\n".join(sections)


def files() -> str:
    """A table for each folder of the package: file, and the first sentence of its docstring."""
    package = ROOT / "bertjax"
    folders: dict[str, list] = {}
    for path in sorted(package.rglob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        if text:
            folder = path.parent.relative_to(ROOT).as_posix()
            folders.setdefault(folder, []).append((f"`{path.name}`", plain(_first(text))))
    return "\n\n".join(
        f"## `{folder}/`\n\n{table(('file', 'what it is'), rows)}"
        for folder, rows in folders.items()
    )


# What an array of a batch holds. A key that the code has and this table lacks ends the build.
MEANING = {
    "input_ids": "token ids; [CLS], then each part of the example and a [SEP], then padding",
    "token_type_ids": "0 in the first part of a pair, 1 in the second",
    "attention_mask": "1 at tokens, 0 at padding",
    "example_ids": "number of the example in its epoch; -1 where a row has none",
    "next_sentence_labels": "1 where the second part is random",
    "mask_epochs": "the epoch whose masks the row has",
    "components": "number of the corpus in `config.mixture`",
    "segment_ids": "1 to E, the example that a token belongs to; 0 at padding",
    "position_ids": "place of a token in its example, from 0",
    "cls_positions": "place of each example's [CLS] in the row",
    "labels": "class, number or tag; -1 where nothing is scored",
    "start_positions": "first token of the answer, counted in the row",
    "end_positions": "last token of the answer, counted in the row",
}
_B, _L, _E, _C = 101, 103, 107, 109  # sizes that no other size equals
_LETTERS = {_B: "B", _L: "L", _E: "E", _C: "C"}


def batch_keys() -> str:
    """A row for each array of a host batch, and in which batches it has which shape."""
    shapes: dict[str, dict[str, list[str]]] = {}
    for form, arrays in _forms():
        for key, shape in arrays.items():
            letters = f"[{', '.join(_LETTERS[size] for size in shape)}]"
            shapes.setdefault(key, {}).setdefault(letters, []).append(form)
    rows = (
        (
            f"`{key}`",
            "<br>".join(f"`{s}`: {', '.join(f)}" for s, f in found.items()),
            plain(MEANING[key]),
        )
        for key, found in shapes.items()
    )
    return table(("array", "shape, and the batches that have it", "what it holds"), rows)


def _forms() -> Iterable[tuple[str, dict[str, tuple[int, ...]]]]:
    """`(name, shapes)` of each kind of batch: pretraining's by builder, fine-tuning's by kind."""
    phase = config_lib.phase(steps=1, sequence_length=_L, batch_size=_B)
    for name, builder, most in (
        ("sentence pairs", "segment_pair_nsp", 1),
        ("packed pairs", "segment_pair_nsp", _E),
        ("blocks", "full_sentences", 1),
        ("packed blocks", "full_sentences", _E),
        ("a mixture", "segment_pair_nsp", 1),
    ):
        config = config_lib.default()
        config.examples.builder, config.examples.max_per_row = builder, most
        config.phases.phase1 = phase
        if name == "a mixture":
            config.mixture.one = config_lib.component(1.0, files="1.jsonl")
            config.mixture.two = config_lib.component(1.0, files="2.jsonl")
        if builder == "full_sentences":
            config.objective.nsp, config.model.head = 0.0, "masked_lm"
        built = config_lib.from_config_dict(config)
        yield name, pipeline.batch_shapes(built, built.phases["phase1"])
    for kind in KINDS:
        yield f"task `{kind}`", finetune_batches.batch_shapes(kind, _B, _L, _C)


TABLES = {
    "config_fields": config_fields,
    "commands": commands,
    "exit_codes": exit_codes,
    "configs": configs,
    "batch_keys": batch_keys,
    "files": files,
}
