"""fairseq's RoBERTa read back: logits of `transformers`, ids of the model's rows."""

import argparse
import json

import byte_bpe_reference as tiny_bpe
import jax
import numpy as np
import pytest
import torch
import transformers_reference as reference

from bertjax import models
from bertjax.convert import fairseq, hf
from bertjax.convert.pretrained import Hints
from bertjax.data import byte_bpe, tokenizer
from bertjax.errors import DataError, UsageError

ALLOWED = Hints(allow_pickle=True)
SIZE = reference.TINY | {"vocab_size": len(tiny_bpe.PIECES)}
ARGUMENTS = {
    "arch": "roberta_base",
    "encoder_layers": 3,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 4,
    "max_positions": 38,
    "activation_fn": "gelu",
    "dropout": 0.1,
    "attention_dropout": 0.2,
    "data": "x",
    "seed": [1],
    "clip_norm": None,
}
# transformers' names of RobertaForMaskedLM -> fairseq's since 0.10, in order of replacement
RENAMED = [
    ("roberta.embeddings.word_embeddings.", "encoder.sentence_encoder.embed_tokens."),
    ("roberta.embeddings.position_embeddings.", "encoder.sentence_encoder.embed_positions."),
    ("roberta.embeddings.LayerNorm.", "encoder.sentence_encoder.layernorm_embedding."),
    ("roberta.encoder.layer.", "encoder.sentence_encoder.layers."),
    (".attention.self.query.", ".self_attn.q_proj."),
    (".attention.self.key.", ".self_attn.k_proj."),
    (".attention.self.value.", ".self_attn.v_proj."),
    (".attention.output.dense.", ".self_attn.out_proj."),
    (".attention.output.LayerNorm.", ".self_attn_layer_norm."),
    (".intermediate.dense.", ".fc1."),
    (".output.dense.", ".fc2."),
    (".output.LayerNorm.", ".final_layer_norm."),
    ("lm_head.decoder.weight", "lm_head.weight"),
    ("lm_head.", "encoder.lm_head."),
]


def theirs(size=SIZE, **fields):
    config = reference.config("roberta", size, **fields)
    model = reference.model("RobertaForMaskedLM", config, scale=0.2)
    with torch.no_grad():  # fairseq has no token types
        model.roberta.embeddings.token_type_embeddings.weight.zero_()
    return model


def todays(model):
    """The weights under fairseq's names since 0.10."""
    weights = {}
    for name, value in model.state_dict().items():
        for old, new in RENAMED:
            name = name.replace(old, new)
        weights[name] = value
    for name in list(weights):
        if "token_type" in name or "position_ids" in name or "decoder.bias" in name:
            del weights[name]
    weights["encoder.sentence_encoder.version"] = torch.tensor([1.0])
    return weights


def released(model):
    """The form of the files published in 2019: other prefixes, projections fused."""
    weights = todays(model)
    for layer in range(3):
        prefix = f"encoder.sentence_encoder.layers.{layer}.self_attn."
        for kind in ("weight", "bias"):
            parts = [weights.pop(f"{prefix}{part}_proj.{kind}") for part in "qkv"]
            weights[f"{prefix}in_proj_{kind}"] = torch.cat(parts)
    names = (name.replace("layernorm_embedding", "emb_layer_norm") for name in weights)
    return {
        name.replace("encoder.", "decoder.", 1): value
        for name, value in zip(names, weights.values(), strict=True)
    }


def save(directory, weights, arguments=ARGUMENTS, zipped=True, **entries):
    path = directory / "model.pt"
    state = {"args": argparse.Namespace(**arguments), "model": weights} | entries
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    return path


def write_gpt2(directory, with_dictionary=True):
    """GPT-2's files, in whose order the pieces are reversed."""
    gpt2 = tiny_bpe.PIECES[4:-1][::-1]
    (directory / "encoder.json").write_text(json.dumps({p: i for i, p in enumerate(gpt2)}))
    merges = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in tiny_bpe.MERGES)
    (directory / "vocab.bpe").write_text(merges, encoding="utf-8")
    if with_dictionary:
        rows = reversed(range(len(gpt2)))
        (directory / "dict.txt").write_text("".join(f"{row} 1\n" for row in rows))


@pytest.mark.parametrize("names", [todays, released])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_logits_equal_transformers(tmp_path, names, dtype):
    model = theirs().to(dtype).float()  # what half precision holds exactly
    weights = {name: value.to(dtype) for name, value in names(model).items()}
    path = save(tmp_path, weights, zipped=names is todays)  # PyTorch has zipped since 2020
    ours = fairseq.read(path, ALLOWED)
    batch = reference.batch(model.config, rows=3, length=24)
    positions = np.tile(np.arange(24), (3, 1))
    outputs = models.apply(
        ours.config.model, ours.params, batch | {"masked_lm_positions": positions}
    )
    with torch.no_grad():
        expected = model(**reference.inputs(model.config, batch)).logits.numpy()
    logits = np.asarray(outputs["masked_lm_logits"])[:, :, : len(tiny_bpe.PIECES)]
    seen = batch["attention_mask"] == 1
    error = np.abs(logits - expected)[seen].max() / np.abs(expected).max()
    assert error < 1e-5
    assert ours.config.model.head == "masked_lm"


def test_the_config_is_the_command_line_that_trained_it(tmp_path):
    arguments = ARGUMENTS | {"activation_fn": "gelu_accurate"}
    for path in (
        save(tmp_path, todays(theirs()), arguments),
        save(tmp_path, todays(theirs()), args=None, cfg={"model": arguments, "task": {"x": 1}}),
    ):
        model = fairseq.read(path, ALLOWED).config.model
        assert (model.hidden_act, model.layer_norm_eps) == ("gelu_new", 1e-5)
        assert (model.position_offset, model.max_position_embeddings) == (2, 40)
        assert (model.type_vocab_size, model.num_attention_heads) == (1, 4)
        assert (model.hidden_dropout_prob, model.attention_probs_dropout_prob) == (0.1, 0.2)


def test_the_shapes_are_those_of_a_fresh_model(tmp_path):
    ours = fairseq.read(save(tmp_path, released(theirs())), ALLOWED)
    expected = jax.tree.map(lambda x: x.shape, models.abstract_params(ours.config.model))
    assert jax.tree.map(lambda x: x.shape, ours.params) == expected
    padding = ours.params["embeddings"]["word"]["embedding"][len(tiny_bpe.PIECES) :]
    assert not padding.any()


def test_tokenizer_has_the_ids_of_the_rows(tmp_path):
    path = save(tmp_path, todays(theirs()))
    ours = fairseq.read(path, ALLOWED)
    assert ours.tokenizer is None
    assert "encoder.json, vocab.bpe, dict.txt" in ours.notes[-1]
    write_gpt2(tmp_path)
    ours = fairseq.read(path, ALLOWED)
    assert ours.tokenizer.tokens(range(len(tiny_bpe.PIECES))) == tiny_bpe.PIECES
    assert ours.config.tokenizer.kind == "byte_bpe"
    assert ours.notes == ()


def test_tokenizer_files_may_lie_elsewhere(tmp_path):
    (tmp_path / "gpt2").mkdir()
    write_gpt2(tmp_path / "gpt2")
    (tmp_path / "gpt2" / "dict.txt").rename(tmp_path / "dict.txt")
    path = save(tmp_path, todays(theirs()))
    hints = Hints(allow_pickle=True, tokenizer=str(tmp_path / "gpt2"))
    saved = fairseq.read(path, hints).tokenizer.save(tmp_path / "saved")
    hints = Hints(allow_pickle=True, tokenizer=str(saved))
    assert fairseq.read(path, hints).tokenizer.tokens([0, 1]) == ["<s>", "<pad>"]
    with open(tmp_path / "dict.txt", "a") as file:
        file.write("madeupword0000 0\n")
    hints = Hints(allow_pickle=True, tokenizer=str(tmp_path / "gpt2"))
    with pytest.raises(DataError, match=r"a tokenizer of 275 pieces, but model\.pt has 274 rows"):
        fairseq.read(path, hints)


def test_the_dictionary_beside_the_weights_counts(tmp_path):
    """Another one of the same length would shuffle the pieces without a word."""
    (tmp_path / "gpt2").mkdir()
    write_gpt2(tmp_path / "gpt2")
    lines = (tmp_path / "gpt2" / "dict.txt").read_text().splitlines()
    (tmp_path / "dict.txt").write_text("\n".join(reversed(lines)) + "\n")
    hints = Hints(allow_pickle=True, tokenizer=str(tmp_path / "gpt2"))
    found = fairseq.read(save(tmp_path, todays(theirs())), hints).tokenizer
    assert found.tokens(range(4, 7)) == tiny_bpe.PIECES[-2:-5:-1]


def own_dictionary(directory):
    """GPT-2's files, and a dictionary of a text in which only some of its pieces occur."""
    write_gpt2(directory, with_dictionary=False)
    gpt2 = json.loads((directory / "encoder.json").read_text())
    text = [p for p in ("t", "h", "e", "Ġt", "Ġthe", "hel", "w") if p in gpt2]
    (directory / "dict.txt").write_text(
        "".join(f"{gpt2[p]} 7\n" for p in text) + "madeupword0000 0\n"
    )
    return ["<s>", "<pad>", "</s>", "<unk>", *text, "madeupword0000", "<mask>"]


def fairseqs(text, rows):
    """As fairseq has it: GPT-2's pieces of a text, each looked up in the dictionary."""
    whole = byte_bpe.ByteBPE(tiny_bpe.PIECES, tiny_bpe.MERGES)
    row_of = {piece: i for i, piece in enumerate(rows)}
    return [row_of.get(piece, 3) for piece in whole.tokens(whole.encode([text])[0])]


def test_a_dictionary_of_somebodys_own_text(tmp_path):
    """Pieces of encoder.json that it lacks are <unk>; words are cut as if it had them all."""
    rows = own_dictionary(tmp_path)
    model = theirs(SIZE | {"vocab_size": len(rows)})
    ours = fairseq.read(save(tmp_path, todays(model)), ALLOWED)
    (note,) = ours.notes
    assert f"tokenizer: {len(tiny_bpe.PIECES) - 5 - 7} pieces of" in note
    assert "they are <unk>, as in fairseq" in note
    found = ours.tokenizer
    assert found.tokens(range(len(rows))) == rows
    assert found.vocab_size == ours.config.model.vocab_size == len(rows)
    texts = ["the hello the", "hel", *tiny_bpe.NASTY]
    expected = [fairseqs(text, rows) for text in texts]
    assert found.encode(texts) == expected
    assert {3} < set(expected[0]) < set(range(len(rows)))
    ids, _ = found.encode_flat(texts)
    assert ids.dtype == np.uint16
    assert found.word_starts().shape == (len(rows),)
    assert found.encode_with_masks("the<mask>")[-1] == len(rows) - 1


def test_such_a_tokenizer_is_kept_and_not_handed_to_who_cannot_say_it(tmp_path):
    rows = own_dictionary(tmp_path)
    ours = fairseq.read(save(tmp_path, todays(theirs(SIZE | {"vocab_size": len(rows)}))), ALLOWED)
    again = tokenizer.load(ours.tokenizer.save(tmp_path / "saved").parent)
    assert again.sha256 == ours.tokenizer.sha256
    assert again.encode(tiny_bpe.NASTY) == ours.tokenizer.encode(tiny_bpe.NASTY)
    notes = hf.write(ours, tmp_path / "hf")
    assert any("pieces are <unk> here" in note for note in notes)
    assert not (tmp_path / "hf/vocab.json").exists()
    path = tmp_path / "saved/tokenizer.json"
    for rows in (0, 10**6, "7", 7):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"rows": rows}))
        with pytest.raises(DataError, match=r"tokenizer\.json: .*(expected a number|has no row)"):
            tokenizer.load(path)


def test_a_published_dictionary_without_some_lines(tmp_path):
    """The same on GPT-2's own vocabulary and real text."""
    published = tiny_bpe.data_directory() / "vocab" / "gpt2_bpe"
    for name in ("encoder.json", "vocab.bpe"):
        (tmp_path / name).symlink_to(published / name)
    lines = (published / "dict.txt").read_text().splitlines()
    (tmp_path / "dict.txt").write_text("\n".join(lines[:20_000]) + "\n")
    whole, part = tokenizer.load(published), tokenizer.load(tmp_path)
    texts = tiny_bpe.real_texts(20)
    expected = [[i if i < 20_004 else 3 for i in ids] for ids in whole.encode(texts)]
    assert part.encode(texts) == expected
    assert sum(ids.count(3) for ids in expected) > 100


def test_what_a_checkpoint_holds_beside_the_model_is_named(tmp_path):
    entries = {"last_optimizer_state": {"x": torch.ones(1)}, "extra_state": {"epoch": 3}}
    notes = fairseq.read(save(tmp_path, todays(theirs()), **entries), ALLOWED).notes
    assert notes[0] == "left out: extra_state, last_optimizer_state of the checkpoint"


def test_heads_that_are_left_out_are_named(tmp_path):
    weights = todays(theirs()) | {"classification_heads.mnli.dense.weight": torch.ones(2, 2)}
    (left_out, _) = fairseq.read(save(tmp_path, weights), ALLOWED).notes
    assert left_out == "left out: classification_heads.mnli.dense.weight"
    encoder = {name: value for name, value in todays(theirs()).items() if "lm_head" not in name}
    assert fairseq.read(save(tmp_path, encoder), ALLOWED).config.model.head == "none"


def test_a_pickle_needs_permission(tmp_path):
    with pytest.raises(UsageError, match="--allow_pickle"):
        fairseq.read(save(tmp_path, todays(theirs())), Hints())


def test_a_hint_against_the_file_is_refused(tmp_path):
    path = save(tmp_path, todays(theirs()))
    fairseq.read(path, Hints(allow_pickle=True, hidden_act="gelu"))
    with pytest.raises(UsageError, match="--hidden_act=gelu_new"):
        fairseq.read(path, Hints(allow_pickle=True, hidden_act="gelu_new"))


LAYER = "encoder.sentence_encoder.layers.1"


@pytest.mark.parametrize(
    ("weights", "arguments", "message"),
    [
        ({}, {"activation_fn": "relu"}, "args.activation_fn='relu'"),
        ({}, {"encoder_layers": 4}, "args.encoder_layers=4, but its tensors say 3"),
        ({}, {"encoder_embed_dim": "32"}, "args.encoder_embed_dim='32'"),
        ({}, {"max_positions": 512}, "args.max_positions=512, but its tensors say 38"),
        ({}, {"encoder_attention_heads": 5}, "num_attention_heads=5: must divide"),
        ({}, {"encoder_attention_heads": "4"}, "num_attention_heads='4': expected int"),
        ({}, {"no_scale_embedding": False}, "args.no_scale_embedding=False"),
        ({"encoder.lm_head.weight": torch.ones(274, 32)}, {}, "lm_head.weight differs"),
        ({f"{LAYER}.fc1.weight": torch.ones(8, 8)}, {}, "fc1.weight has shape [8, 8]"),
        ({f"{LAYER}.fc1.bias": None}, {}, f"lacks the tensor {LAYER}.fc1.bias"),
        ({f"{LAYER}.self_attn.bias_k": torch.ones(1)}, {}, "encoder has no such tensor"),
        ({f"{LAYER}.self_attn.in_proj_weight": torch.ones(4, 2)}, {}, "not split into 3"),
        ({f"{LAYER}.self_attn.in_proj_bias": torch.tensor(1.0)}, {}, "not split into 3"),
        ({"encoder.sentence_encoder.embed_tokens.weight": None}, {}, "lacks the matrix"),
        ({"encoder.sentence_encoder.layer_norm.weight": torch.ones(32)}, {}, "has no such tensor"),
    ],
)
def test_what_is_not_roberta_is_one_clear_line(tmp_path, weights, arguments, message):
    changed = todays(theirs()) | weights
    changed = {name: value for name, value in changed.items() if value is not None}
    path = save(tmp_path, changed, ARGUMENTS | arguments)
    with pytest.raises(DataError) as caught:
        fairseq.read(path, ALLOWED)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "state", [{"model": 1}, {"args": None, "model": {}}, {"args": torch.ones(2), "model": {}}]
)
def test_other_files_of_pytorch(tmp_path, state):
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(DataError, match=r"model\.pt: (has no 'model'|its 'args' lack)"):
        fairseq.read(tmp_path / "model.pt", ALLOWED)


def test_published_tokenizer_has_the_rows_of_the_published_model():
    """dict.txt and 5 special tokens make up RoBERTa's 50,265 rows."""
    directory = tiny_bpe.data_directory() / "vocab" / "gpt2_bpe"
    model = argparse.Namespace(vocab_size=50265)
    found = fairseq._tokenizer(directory / "model.pt", model, Hints(), [])
    ids = [found.cls_id, *found.encode(["Hello world!"])[0], found.sep_id]
    assert ids == [0, 31414, 232, 328, 2]
