"""Mixtures on disk: a store for each component, one tokenizer, and runs that refuse others."""

import dataclasses
import json

import numpy as np
import pytest

from bertjax import config as configs
from bertjax import pretraining
from bertjax.data import corpus, mask_weights, prepare, store, stores, tokenizer
from bertjax.errors import DataError, UsageError

pytestmark = pytest.mark.usefixtures("shown")  # what is logged is printed

NOUNS = {"books": ["whale", "ship", "sailor"], "wiki": ["comet", "orbit", "planet"]}
VOCAB = [
    *tokenizer.WORDPIECE_SPECIALS,
    "the",
    *NOUNS["books"],
    *NOUNS["wiki"],
    ".",
    *"0123456789",
    *(f"##{d}" for d in range(10)),
]


def write_corpus(path, nouns, count):
    """Documents of two sentences, all different."""
    texts = (f"The {nouns[i % 3]} {i}. The {nouns[(i + 1) % 3]} {i}." for i in range(count))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


@pytest.fixture
def config(tmp_path):
    """A mixture of 60 documents about ships and 30 about planets; config.data names no file."""
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(VOCAB) + "\n")
    tree = configs.default()
    tree.tokenizer.path = str(vocab)
    tree.data.files = str(tmp_path / "nowhere.jsonl")
    for name, weight, count in (("wiki", 3.0, 30), ("books", 1.0, 60)):
        files = write_corpus(tmp_path / f"{name}.jsonl", NOUNS[name], count)
        tree.mixture[name] = configs.component(
            weight, files=files, num_workers=1, heldout_fraction=0.2
        )
    return configs.from_config_dict(tree)


def with_data(config, name, **fields):
    """The config with fields of one component's data changed."""
    part = config.mixture[name]
    part = dataclasses.replace(part, data=dataclasses.replace(part.data, **fields))
    return dataclasses.replace(config, mixture=config.mixture | {name: part})


def only(config, *names):
    """The config with only these components; without names, "books" as a single corpus."""
    if not names:
        return dataclasses.replace(config, mixture={}, data=config.mixture["books"].data)
    return dataclasses.replace(config, mixture={k: config.mixture[k] for k in names})


def files_of(directory):
    found = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def test_each_component_is_the_store_of_its_own_corpus(config, tmp_path):
    manifests = prepare.prepare(config, tmp_path / "w", progress=False)
    assert list(manifests) == ["books", "wiki"]
    assert {p.name for p in (tmp_path / "w").iterdir()} == {"store", "tokenizer"}
    assert {p.name for p in (tmp_path / "w" / "store").iterdir()} == {"books", "wiki"}
    for name in manifests:
        alone = tmp_path / f"only_{name}"
        plain = dataclasses.replace(config, mixture={}, data=config.mixture[name].data)
        prepare.prepare(plain, alone, progress=False)
        mine = files_of(tmp_path / "w" / "store" / name)
        theirs = files_of(alone / "store")
        reports = [json.loads(f.pop("manifest.json")) for f in (mine, theirs)]
        assert mine == theirs
        assert reports[0].pop("report") != reports[1].pop("report")  # one names its component
        assert reports[0] == reports[1]
        assert manifests[name]["report"].startswith(f"{name:12}     documents")
        assert files_of(tmp_path / "w" / "tokenizer") == files_of(alone / "tokenizer")


def test_stores_are_opened_in_order_of_name(config, tmp_path):
    job = pretraining.open(config, tmp_path / "w", build=True)
    encoder = job.tokenizer
    assert job.config.model.vocab_size == config.model.vocab_size
    for split in store.SPLITS:
        books, wiki = stores.open_split(config, tmp_path / "w", split)
        for opened, mine, other in ((books, "books", "wiki"), (wiki, "wiki", "books")):
            words = set(encoder.decode(np.asarray(opened.tokens)).split())
            assert words & set(NOUNS[mine])
            assert not words & set(NOUNS[other])
    (books_again,) = stores.open_split(only(config, "books"), tmp_path / "w", "heldout")
    books, _ = stores.open_split(config, tmp_path / "w", "heldout")
    np.testing.assert_array_equal(books_again.tokens, books.tokens)


def test_counts_of_a_mixture_are_those_of_what_is_read(config, tmp_path):
    """3 of 4 tokens come from wiki, whatever the sizes; masking uses these counts."""
    smooth = dataclasses.replace(config, masking=configs.Masking(smoothing=0.5))
    prepare.prepare(smooth, tmp_path / "w", progress=False)
    books, wiki = (store.read_unigrams(tmp_path / "w" / "store" / n) for n in ("books", "wiki"))
    total = books.sum() + wiki.sum()
    assert books.sum() > 1.5 * wiki.sum()
    read = 0.25 * total * books / books.sum() + 0.75 * total * wiki / wiki.sum()
    found = mask_weights.read(smooth, tmp_path / "w")
    np.testing.assert_allclose(found, np.maximum(read, 1) ** -0.5, rtol=1e-6)
    alone = mask_weights.read(only(smooth, "wiki"), tmp_path / "w")
    np.testing.assert_allclose(alone, np.maximum(wiki, 1) ** -0.5, rtol=1e-6)


def test_without_a_mixture_there_is_one_store(config, tmp_path):
    plain = only(config)
    pretraining.open(plain, tmp_path / "w", build=True)
    (opened,) = stores.open_split(plain, tmp_path / "w", "train")
    expected = store.open_store(tmp_path / "w" / "store", "train")
    np.testing.assert_array_equal(opened.tokens, expected.tokens)


@pytest.mark.parametrize(
    ("prepared", "wanted", "said"),
    [
        (["books", "wiki"], [], "holds a mixture of books, wiki, the config reads one corpus"),
        ([], ["books", "wiki"], "holds one corpus, the config reads a mixture of books, wiki"),
        (["wiki"], ["books", "wiki"], "holds a mixture of wiki, the config reads a mixture of b"),
    ],
)
@pytest.mark.parametrize("build", [True, False])
def test_the_store_of_another_mixture_is_refused(config, tmp_path, prepared, wanted, said, build):
    prepare.prepare(only(config, *prepared), tmp_path / "w", progress=False)
    before = files_of(tmp_path / "w")
    for call in (
        lambda: pretraining.open(only(config, *wanted), tmp_path / "w", build=build),
        lambda: stores.open_split(only(config, *wanted), tmp_path / "w", "train"),
    ):
        with pytest.raises(DataError, match=f"store: {said}") as caught:
            call()
        assert "prepare again with this config, or take another --workdir" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert files_of(tmp_path / "w") == before
    prepare.prepare(only(config, *wanted), tmp_path / "w", progress=False)
    pretraining.open(only(config, *wanted), tmp_path / "w", build=build)


def test_no_store_at_all(config, tmp_path):
    with pytest.raises(DataError, match="books: no token store here; run `bertjax prepare`"):
        pretraining.open(config, tmp_path / "w", build=False)


def test_every_store_is_checked_against_the_tokenizer(config, tmp_path):
    prepare.prepare(config, tmp_path / "w", progress=False)
    path = tmp_path / "w" / "store" / "wiki" / "manifest.json"
    manifest = json.loads(path.read_text()) | {"tokenizer_sha256": "0" * 64}
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="store/wiki: made with another tokenizer"):
        pretraining.open(config, tmp_path / "w", build=True)


@pytest.mark.parametrize(
    ("fields", "kind", "said"),
    [
        ({"files": None}, UsageError, r"^config\.mixture\.wiki\.data\.files is unset"),
        ({"files": "no*.txt"}, DataError, r"^config\.mixture\.wiki\.data\.files='no\*\.txt': no f"),
        ({"text_field": "body"}, DataError, r"wiki\.jsonl:1: .*set config\.mixture\.wiki\.data\.t"),
    ],
)
@pytest.mark.parametrize("trained", [False, True])
def test_errors_name_the_component_and_leave_the_former_stores(
    config, tmp_path, fields, kind, said, trained
):
    prepare.prepare(config, tmp_path / "w", progress=False)
    before = files_of(tmp_path / "w")
    if trained:
        config = dataclasses.replace(config, tokenizer=configs.Tokenizer(vocab_size=90))
    with pytest.raises(kind, match=said) as caught:
        prepare.prepare(with_data(config, "wiki", **fields), tmp_path / "w", progress=False)
    assert "\n" not in str(caught.value)
    assert files_of(tmp_path / "w") == before


def test_a_damaged_record_names_its_component(config, tmp_path):
    with (tmp_path / "wiki.jsonl").open("a") as file:
        file.write('{"text": "The\n')
    with pytest.raises(DataError, match=r"^config\.mixture\.wiki: .*wiki\.jsonl:31: not JSON"):
        prepare.prepare(config, tmp_path / "w", progress=False)


def test_a_component_without_text_is_named(config, tmp_path):
    (tmp_path / "wiki.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(DataError, match=r"^config\.mixture\.wiki\.data\.files=.*no document is"):
        prepare.prepare(config, tmp_path / "w", progress=False)
    assert list((tmp_path / "w").iterdir()) == []


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_the_shared_tokenizer_learns_from_every_component(config, tmp_path, kind):
    settings = configs.Tokenizer(kind=kind, vocab_size=120)
    config = dataclasses.replace(config, tokenizer=settings, model=configs.Model(vocab_size=0))
    manifests = prepare.prepare(config, tmp_path / "w", progress=False)
    model = tokenizer.load(tmp_path / "w" / "tokenizer")
    assert {m["tokenizer_sha256"] for m in manifests.values()} == {model.sha256}
    letters = set("".join(model.tokens(range(5, model.vocab_size))))
    assert {"w", "c"} <= letters  # each letter is in only one corpus


def test_texts_for_the_tokenizer_are_shared_by_weight(config, tmp_path, monkeypatch):
    """For a budget of 4,000 bytes, wiki (weight 3) gives 3,000 and books 1,000."""
    write_corpus(tmp_path / "wiki.jsonl", NOUNS["wiki"], 4000)
    write_corpus(tmp_path / "books.jsonl", NOUNS["books"], 4000)
    monkeypatch.setitem(prepare.TRAINING_BYTES, "wordpiece", 4000)
    read = {}

    def record(settings, texts):
        for text in texts:
            name = "wiki" if any(noun in text for noun in NOUNS["wiki"]) else "books"
            read[name] = read.get(name, 0) + len(f'{{"text": "{text}"}}\n')
        return tokenizer.load(tmp_path / "vocab.txt")

    monkeypatch.setattr(prepare.train_tokenizer, "train", record)
    config = dataclasses.replace(config, tokenizer=configs.Tokenizer())
    prepare.prepare(config, tmp_path / "w", progress=False)
    # A hash selects documents of 45 bytes, so the deviation is sqrt(bytes * 45).
    assert abs(read["wiki"] - 3000) < 4 * (3000 * 45) ** 0.5
    assert abs(read["books"] - 1000) < 4 * (1000 * 45) ** 0.5


def test_proportions_sum_to_one(config):
    assert [(c.name, c.proportion) for c in corpus.of(config)] == [("books", 0.25), ("wiki", 0.75)]
    assert [(c.name, c.proportion) for c in corpus.of(only(config))] == [("", 1.0)]


def test_progress_and_report_say_the_component(config, tmp_path, capsys):
    prepare.prepare(config, tmp_path / "w")
    shown = capsys.readouterr().err
    for name in ("books", "wiki"):
        assert f"{name}: tokenize" in shown
        assert f"\n{name} " in shown
