"""Pages that lie outside docs/, and notebooks, as pages of the site.

A link in a page is written as it works in the repository (`../../benchmarks/RESULTS.md`). The site
keeps the repository's paths, except that docs/ itself is its root.
"""

import json
import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "launch/README.md",
    "benchmarks/RESULTS.md",
)
_LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages of `OUTSIDE`, the pictures of the results, and a page for each notebook."""
    pictures = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("benchmarks/*.png"))
    for name in (*OUTSIDE, *pictures):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            files.remove(file)
            text = notebook(Path(str(file.abs_src_path)).read_text(encoding="utf-8"))
            files.append(File.generated(config, _page(file.src_uri), content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns the links of a page from places in the repository into places on the site."""
    return to_site(markdown, page.file.src_uri)


def to_site(markdown: str, uri: str) -> str:
    """The text of the page at `uri` with its links as the site has them."""
    inside = uri not in OUTSIDE
    folder = posixpath.dirname(f"docs/{uri}" if inside else uri)

    def rewrite(match: re.Match) -> str:
        place = posixpath.normpath(posixpath.join(folder, match[2]))
        target = "index.md" if place == "README.md" else _page(place.removeprefix("docs/"))
        return match[1] + os.path.relpath(target, posixpath.dirname(uri) or ".") + match[3]

    return _LINK.sub(rewrite, markdown)


def _page(uri: str) -> str:
    return re.sub(r"\.ipynb$", ".md", uri)


def notebook(text: str) -> str:
    """A notebook as Markdown: its text, its code and what the code printed and drew.

    Args:
      text: the JSON of an .ipynb file of format 4.
    """
    language = "python"
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code" and source.strip():
            parts.append(f"```{language}\n{source}\n```")
            parts.extend(_output(output) for output in cell.get("outputs", ()))
    return "\n\n".join(part for part in parts if part) + "\n"


def _output(output: dict) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        return f"![output](data:image/png;base64,{''.join(data['image/png']).strip()})"
    printed = "".join(output.get("text", data.get("text/plain", ""))).rstrip()
    return f"```text\n{printed}\n```" if printed else ""
