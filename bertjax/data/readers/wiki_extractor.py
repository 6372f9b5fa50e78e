"""Articles as WikiExtractor writes them, in files such as AA/wiki_00.

It writes an article in one of two forms (`write_output`, or `extract`, of its versions 2 and 3):

    <doc id="12" url="https://en.wikipedia.org/wiki?curid=12" title="Anarchism">
    Anarchism
                                            an empty line, then a paragraph or a heading a line
    </doc>

and with `--json` one object a line: `id`, `url`, `title`, `text`. The text of versions 2 starts
with the title in this form too. Versions 3 write `&`, `<` and `>` of the text as entities, which
hides the tags that they left in it.
"""

import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from bertjax.errors import DataError

HEAD = re.compile(rb'\s*<doc id="[^\n]* title="[^\n]*>\s*?\n')
_TITLE = re.compile(r' title="(.*?)"(?: \w+="[^"]*")*>\s*$')
_OPENING, _CLOSING = b"<doc id=", b"</doc>"

# What the extraction leaves of markup: tags with their attributes, comments, magic words.
_MARKUP = re.compile(
    r"</?(?:a|abbr|big|blockquote|br|center|chem|cite|code|del|div|em|font|gallery|h[1-6]|hiero|hr|"
    r"i|b|u|s|p|includeonly|indicator|ins|kbd|li|mapframe|maplink|math|noinclude|nobr|nowiki|ol|"
    r"onlyinclude|poem|pre|q|ref|references|rp|rt|ruby|samp|score|section|small|source|span|strike|"
    r"strong|sub|sup|syntaxhighlight|table|tbody|td|templatestyles|th|thead|timeline|tr|tt|ul|var|"
    r"wbr)(?:\s+[\w:-]+\s*=[^<>]{0,500})?\s*/?>|<!--.{0,2000}?-->|__[A-Z]{3,}__",
    re.IGNORECASE | re.DOTALL,
)
_BREAK = re.compile(r"<br\b", re.IGNORECASE)
# What is left of a template in parentheses: "Albedo (; ) is".
_EMPTY_PARENTHESES = re.compile(r" \([\s,;:]*\)")

_DISAMBIGUATION_TITLE = re.compile(
    r"\((?:disambiguation|Begriffsklärung|homonymie|desambiguación|desambiguação|disambigua|"
    r"doorverwijspagina|ujednoznacznienie|olika betydelser|значения|значення)\)$",
    re.IGNORECASE,
)
_DISAMBIGUATION_START = re.compile(
    r"\b(?:may|can|could|might|commonly|usually|often|generally)\b.*"
    r"\b(?:refers? to|stands? for|means?)\b[^.]{0,40}:$"
    r"|\b(?:steht für|bezeichnet|peut désigner|peut faire référence|puede (?:referirse|hacer "
    r"referencia) a|può riferirsi a|kan verwijzen naar|pode (?:se )?referir)[^.]{0,40}:$"
)


def articles(
    lines: Iterable[tuple[int, int, bytes]], path: str, longest: int, dropped: Counter
) -> Iterator[tuple[int, int, str, bytes]]:
    """Yields `(line number, byte offset, "wiki", article)` of each `<doc ...>` to its `</doc>`.

    Raises:
      DataError: text between articles, or an article without its end.
    """
    article, held, first = [], 0, (0, 0)
    for number, offset, line in lines:
        if line.startswith(_OPENING):
            if article:
                break
            first = number, offset
        elif not article:
            if line.strip():
                raise DataError(f"{path}:{number}: text between </doc> and the next <doc id=")
            continue
        elif line.rstrip() == _CLOSING:
            if held < longest:
                yield *first, "wiki", b"".join(article)
            else:
                dropped[f"article over {longest >> 20} MiB"] += 1
            article, held = [], 0
            continue
        held += len(line)
        if held < longest or not article:
            article.append(line)
    if article:
        raise DataError(f"{path}:{first[0]}: an article without </doc>: the file was cut")


def text_of(article: str, dropped: Counter) -> str | None:
    """The text of an article in `<doc>` form, as `cleaned`; its lines end in line feeds."""
    head, _, text = article.partition("\n")
    title = _TITLE.search(head)
    return cleaned(title[1] if title else "", text, dropped)


def cleaned(title: str, text: str, dropped: Counter) -> str | None:
    """The text of an article without its title line and what is left of markup.

    A line that repeats the title is no sentence: NVIDIA's and MLPerf's BERT scripts leave it out
    as well. Pages that only list the meanings of a word go as a whole. `dropped` counts all this.

    Returns:
      None for a page that is left out, which `dropped` has then counted.
    """
    text = html.unescape(text).strip()
    first, _, rest = text.partition("\n")
    if first.strip() == html.unescape(title).strip():
        text = rest.strip()
        dropped["title line"] += 1
    text, tags = _MARKUP.subn(lambda tag: " " if _BREAK.match(tag[0]) else "", text)
    text, empty = _EMPTY_PARENTHESES.subn("", text)
    dropped["leftover of markup"] += tags + empty
    if not text.strip():
        dropped["article without text"] += 1
        return None
    first = text.lstrip().partition("\n")[0].rstrip()
    if _DISAMBIGUATION_TITLE.search(title) or (
        len(first) < 300 and _DISAMBIGUATION_START.search(first)
    ):
        dropped["disambiguation page"] += 1
        return None
    return text
