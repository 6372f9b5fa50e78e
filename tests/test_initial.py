"""`config.init_from`: what does not fit is refused before the corpus is prepared, and by name."""

import contextlib
import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from random_models import SIZE, random_model

from bertjax import __main__ as command_line
from bertjax import config as configs
from bertjax import convert, initial
from bertjax.convert import hf, orbax
from bertjax.data import byte_bpe, tokenizer
from bertjax.errors import DataError, UsageError

LOWER = [*tokenizer.WORDPIECE_SPECIALS, "paris", "is", "old", "."]
LONGER = [*LOWER, "rome"]


def weights(encoder, kind="bert"):
    """Random weights with a tokenizer."""
    source = random_model(kind, vocab_size=encoder.vocab_size)
    settings = configs.Tokenizer(
        kind=encoder.kind,
        vocab_size=encoder.vocab_size,
        lowercase=getattr(encoder, "lowercase", False),
    )
    config = dataclasses.replace(source.config, tokenizer=settings)
    return dataclasses.replace(source, tokenizer=encoder, config=config)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """One model, uncased, in every form that `init_from` reads."""
    root = tmp_path_factory.mktemp("sources")
    source = weights(tokenizer.WordPiece(LOWER, lowercase=True))
    hf.write(source, root / "hf")
    orbax.write(source, root / "run")
    convert.convert(f"hf:{root}/hf", f"tf1:{root}/tf/model.ckpt")
    released = json.loads((root / "tf/bert_config.json").read_text())
    del released["bertjax"]  # as google-research/bert writes it
    (root / "tf/bert_config.json").write_text(json.dumps(released))
    return root


def uris(root):
    return {
        "hf": (f"hf:{root}/hf", f"{root}/hf"),
        "tf1": (f"tf1:{root}/tf/model.ckpt", f"{root}/tf"),
        "orbax": (f"{root}/run", f"{root}/run/tokenizer"),
        "hub": ("hub:somebody/model", "DIR, after bertjax convert hub:somebody/model hf:DIR"),
    }


@pytest.fixture(autouse=True)
def hub(sources, monkeypatch):
    """The Hub's library hands out the folder without a network."""
    library = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(library, "snapshot_download", lambda *_, **__: str(sources / "hf"))


def configured(tmp_path, uri, vocab=LOWER, lowercase=True, path=None, **model):
    """A config that fits the sources but for what is given; its corpus cannot be read."""
    if path is None and vocab is not None:
        path = tmp_path / "vocab.txt"
        path.write_text("\n".join(vocab) + "\n")
    fields = SIZE | {"vocab_size": 0, "head": "pretraining"} | model
    return configs.from_config_dict(
        {
            "model": fields,
            "tokenizer": {
                "path": path and str(path),
                "lowercase": lowercase,
                "rules": "google" if uri.startswith("tf1:") else None,
            },
            "data": {"files": str(tmp_path / "missing.jsonl")},
            "init_from": uri,
            "phases": {
                "phase1": {
                    "steps": 1,
                    "sequence_length": 16,
                    "batch_size": 8,
                    "max_predictions_per_seq": 2,
                }
            },
        }
    )


@pytest.mark.parametrize("form", ["hf", "hub", "tf1", "orbax"])
def test_what_fits_passes(sources, tmp_path, form):
    uri, _ = uris(sources)[form]
    config = configured(tmp_path, uri)
    initial.check(config, tmp_path / "w")
    encoder, _ = tokenizer.read(config.tokenizer)
    config = config.with_model(vocab_size=len(LOWER))
    source = initial.read(config)
    fresh = jax.tree.map(jnp.zeros_like, source.params)
    params, missing = initial.fit(config, source, fresh, encoder)
    jax.tree.map(np.testing.assert_array_equal, params, source.params)
    assert missing == []


@pytest.mark.parametrize("form", ["hf", "hub", "tf1", "orbax"])
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"lowercase": False},
            "tokenizer has lowercase=True, this corpus's tokenizer lowercase=False; "
            "set config.tokenizer.lowercase=True and config.tokenizer.path={place}",
        ),
        (
            {"vocab": LONGER},
            "its vocabulary has 9 pieces, this corpus's vocabulary 10; set "
            "config.tokenizer.path={place}",
        ),
        ({"vocab": [*LOWER[:-1], "!"]}, "piece 8 of its vocabulary is '.', here '!'; set "),
        (
            {"vocab": None},
            "these weights do not fit a new vocabulary trained on the corpus; "
            "set config.tokenizer.path={place}",
        ),
        ({"hidden_size": 64}, "this model's [128, 64]; give config.model the sizes of {uri}"),
        ({"num_attention_heads": 2}, "config.model.num_attention_heads=2: {uri} has 4; set this"),
        ({"num_hidden_layers": 3}, "give config.model the sizes of {uri}"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_prepared(
    sources, tmp_path, form, changed, said
):
    uri, place = uris(sources)[form]
    config = configured(tmp_path, uri, **changed)
    with pytest.raises(UsageError) as caught:
        initial.check(config, tmp_path / "w")
    assert said.format(uri=uri, place=place) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("rule", "value"), [("strip_accents", False), ("handle_chinese_chars", False)]
)
def test_every_rule_of_the_tokenizer_counts(sources, tmp_path, rule, value):
    other = tokenizer.WordPiece(LOWER, True, **{rule: value})
    config = configured(tmp_path, f"hf:{sources}/hf", path=other.save(tmp_path / "other"))
    with pytest.raises(UsageError, match=f"tokenizer has {rule}=True, .* {rule}=False; set config"):
        initial.check(config, tmp_path / "w")


def test_rules_of_byte_level_pieces(tmp_path):
    letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    pieces = [*byte_bpe.SPECIALS, *sorted(letters), "he"]
    kept, changed = (
        [byte_bpe.ByteBPE(pieces, merges, space) for merges, space in rules]
        for rules in ([([("h", "e")], False)], [([], False), ([("h", "e")], True)])
    )
    source = weights(kept[0])
    config = configured(tmp_path, "hf:x", vocab=None)
    initial.require_same_tokenizer(config, source, kept[0])
    for other, rule in zip(changed, ("merges", "add_prefix_space"), strict=True):
        with pytest.raises(UsageError, match=f"its tokenizer has {rule}="):
            initial.require_same_tokenizer(config, source, other)


def test_both_commands_refuse_before_they_read_the_corpus(sources, tmp_path, monkeypatch):
    """The corpus is not there: whoever opened it first would say so."""
    monkeypatch.setattr("bertjax.processes.distributed.processes", contextlib.nullcontext)
    config = configured(tmp_path, f"hf:{sources}/hf", lowercase=False)
    monkeypatch.setattr(command_line, "_config", lambda _: config)
    for command in (command_line.prepare, command_line.pretrain):
        with pytest.raises(UsageError, match="tokenizer has lowercase=True"):
            command(_Values(tmp_path / "w"), [])
    assert not (tmp_path / "w" / "store").exists()


def test_preparing_again_is_checked_as_the_first_time_is(sources, tmp_path):
    """A store is there, and is about to be replaced."""
    (tmp_path / "w" / "store").mkdir(parents=True)
    with pytest.raises(UsageError, match="tokenizer has lowercase=True"):
        initial.check(configured(tmp_path, f"hf:{sources}/hf", lowercase=False), tmp_path / "w")


class _Values:
    runner = None

    def __init__(self, workdir):
        self.workdir = str(workdir)


def test_checkpoints_in_the_workdir_come_first(sources, tmp_path):
    shutil.copytree(sources / "run", tmp_path / "w")
    initial.check(configured(tmp_path, f"hf:{sources}/hf", vocab=None), tmp_path / "w")


def test_a_source_without_a_tokenizer_is_checked_for_its_sizes(sources, tmp_path):
    shutil.copytree(sources / "tf", tmp_path / "tf")
    (tmp_path / "tf/vocab.txt").unlink()
    uri = f"tf1:{tmp_path}/tf/model.ckpt"
    initial.check(configured(tmp_path, uri, vocab=None), tmp_path / "w")
    with pytest.raises(UsageError, match="model the sizes"):
        initial.check(configured(tmp_path, uri, vocab=None, intermediate_size=8), tmp_path / "w")


def test_an_option_of_convert_leads_to_convert(sources, tmp_path):
    folder = tmp_path / "both"
    shutil.copytree(sources / "hf", folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"do_lower_case": False}))
    config = configured(tmp_path, f"hf:{folder}")
    said = f"do_lower_case=.*; bertjax convert hf:{folder} DIR takes such options, then set config"
    with pytest.raises(DataError, match=said):
        initial.check(config, tmp_path / "w")


def test_a_student_takes_the_blocks_it_names(sources, tmp_path):
    config = configured(tmp_path, f"hf:{sources}/hf", num_hidden_layers=2)
    config = config.with_model(vocab_size=len(LOWER))
    source = initial.read(config)
    blocks = source.params["blocks"]
    fresh = jax.tree.map(jnp.zeros_like, source.params)
    params, missing = initial.fit(config, source, fresh, layers=[1, 0])
    assert missing == []
    jax.tree.map(
        lambda got, all_of: np.testing.assert_array_equal(got, np.asarray(all_of)[[1, 0]]),
        params["blocks"],
        blocks,
    )
    with pytest.raises(UsageError, match=r"layers \[0, 2\]: hf:.* has 2 blocks, counted from 0"):
        initial.fit(config, source, fresh, layers=[0, 2])
    with pytest.raises(UsageError, match="model the sizes of"):
        initial.fit(config, source, fresh, layers=[1])
