"""Articles as WikiExtractor writes them: what is text stays, what is not is left out and counted."""

import json
from collections import Counter

import pytest
from corpus_files import article, article_json

from bertjax.config import Data
from bertjax.data import documents, sources
from bertjax.errors import DataError


def read(tmp_path, content):
    """The text of each article that is kept, and what was left out."""
    (tmp_path / "wiki_00").write_text(content)
    return read_file(tmp_path / "wiki_00")


def read_file(path):
    data, dropped, found = Data(files=str(path)), Counter(), []
    for chunk in sources.chunks(data):
        dropped.update(chunk.dropped)
        found += [documents.read_text(record, "text", dropped) for record in chunk.records]
    return [text for text in found if text is not None], +dropped


TEXT = 'Albedo (;) is the "fraction" of sunlight that is reflected, and 3 &lt; 4 &amp; so on.\nHistory.'
READ = 'Albedo is the "fraction" of sunlight that is reflected, and 3 < 4 & so on.\nHistory.'
TITLE = 'Albedo "of" AT&amp;T'


@pytest.mark.parametrize("write", [article, article_json])
def test_an_article_loses_its_title_line_and_what_is_left_of_markup(tmp_path, write):
    content = write(12, TITLE, TEXT) + write(14, "Empty", "") + write(15, "B", "It is. ()")
    found, dropped = read(tmp_path, content)
    assert found == [READ, "It is."]
    titles = {"title line": 3} if write is article else {}
    assert dropped == titles | {"leftover of markup": 2, "article without text": 1}


def test_what_version_2_writes_is_read_alike(tmp_path):
    head = '<doc id="12" revid="9" url="https://en.wikipedia.org/wiki?curid=12" title="Albedo">'
    old = f"{head}\nAlbedo\n\nIt is &amp; was.\n\n</doc>\n"
    assert read(tmp_path, old)[0] == ["It is & was."]
    more = old.replace('title="Albedo"', 'title="Albedo" language="en" revision="9"')
    assert read(tmp_path, more)[0] == ["It is & was."]
    record = {"id": "12", "url": "https://en.wikipedia.org/wiki?curid=12", "title": "Albedo"}
    line = json.dumps(record | {"text": "Albedo\n\nIt is &amp; was."}) + "\n"
    assert read(tmp_path, line)[0] == ["It is & was."]


@pytest.mark.parametrize(
    ("text", "kept", "count"),
    [
        ('&lt;templatestyles src="a.css" /&gt;One is.', "One is.", 1),
        ("One&lt;br&gt;two &lt;ref name=x&gt;is&lt;/ref&gt;.", "One two is.", 3),
        ("__NOEDITSECTION__One is. &lt;!-- a\nnote --&gt;Two.", "One is. Two.", 2),
        ('See &lt;a href="x"&gt;here&lt;/a&gt; and call print().', "See here and call print().", 2),
        (
            "It holds that x &lt; y and y &gt; z, &lt;sic&gt;.",
            "It holds that x < y and y > z, <sic>.",
            0,
        ),
        (
            "An order has a &lt;b iff a is smaller, and p &lt;q and q&gt; r.",
            "An order has a <b iff a is smaller, and p <q and q> r.",
            0,
        ),
    ],
)
def test_leftover_markup(tmp_path, text, kept, count):
    found, dropped = read(tmp_path, article(1, "A", text))
    assert found == [kept]
    assert dropped["leftover of markup"] == count


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("Mercury", "Mercury most commonly refers to:\nMercury may also refer to:"),
        ("AA", "AA, Aa, or aa may refer to:"),
        ("Mercury (disambiguation)", "Whatever stands here."),
        ("Merkur", "Merkur steht für:"),
        ("Mercure", "Mercure peut désigner :"),
        ("Merkur (Begriffsklärung)", "Merkur ist ein Wort."),
    ],
)
def test_disambiguation_pages_are_left_out(tmp_path, title, text):
    found, dropped = read(tmp_path, article(1, title, text) + article(2, "B", "It stays."))
    assert found == ["It stays."]
    assert dropped["disambiguation page"] == 1


def test_an_article_that_speaks_of_a_meaning_stays(tmp_path):
    text = "The word may refer to two things. Both are old:\nOne."
    assert read(tmp_path, article(1, "Word", text))[0] == [text]


def test_a_first_line_that_is_not_the_title_stays(tmp_path):
    whole = article(1, "Albedo", "It is.").replace("\nAlbedo\n\n", "\nAlbedo is more.\n\n")
    assert read(tmp_path, whole)[0] == ["Albedo is more.\n\nIt is."]


def test_damage_names_file_and_line(tmp_path):
    good = article(1, "A", "One is.")
    for content, message in (
        (good + good[:-8], r"wiki_00:7: an article without </doc>: the file was cut"),
        (good[:-8] + good, r"wiki_00:1: an article without </doc>"),
        (good + "Stray.\n" + good, r"wiki_00:7: text between </doc> and the next <doc id="),
    ):
        with pytest.raises(DataError, match=message):
            read(tmp_path, content)
    (tmp_path / "wiki_00").write_bytes(good.encode() + article(2, "É", "x").encode("latin-1"))
    with pytest.raises(DataError, match="wiki_00:7: not UTF-8 at byte"):
        read_file(tmp_path / "wiki_00")


def test_a_record_of_another_wikipedia_is_plain_json(tmp_path):
    """Hugging Face's `wikipedia` has the same fields, and text without entities."""
    record = {"id": "12", "url": "https://en.wikipedia.org/wiki/Albedo", "title": "Albedo"}
    text = "Albedo\nWrite &lt; for a sign."
    assert read(tmp_path, json.dumps(record | {"text": text}))[0] == [text]
