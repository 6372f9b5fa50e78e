"""Every class of `transformers` that bertjax reads, in every way in which versions 4 and 5 write it."""

import functools
import json
from itertools import pairwise

import pytest
import safetensors.torch
import torch
import transformers
import transformers_reference as reference
from random_models import equal
from test_hf import differences, outputs, relative

from bertjax import convert
from bertjax.convert import hf_names
from bertjax.convert.pretrained import Hints
from bertjax.errors import DataError

# Class -> the head that bertjax reads, and what it leaves out, by the first part of names.
CLASSES = {
    "BertModel": ("pooler", set()),
    "BertForPreTraining": ("pretraining", set()),
    "BertForMaskedLM": ("masked_lm", set()),
    "BertLMHeadModel": ("masked_lm", set()),
    "BertForNextSentencePrediction": ("pooler", {"cls"}),
    "BertForSequenceClassification": ("classification", set()),
    "BertForMultipleChoice": ("multiple_choice", set()),
    "BertForTokenClassification": ("token", set()),
    "BertForQuestionAnswering": ("span", set()),
    "RobertaModel": ("pooler", set()),
    "RobertaForMaskedLM": ("masked_lm", set()),
    "RobertaForCausalLM": ("masked_lm", set()),
    "RobertaForSequenceClassification": ("classification", set()),
    "RobertaForMultipleChoice": ("multiple_choice", set()),
    "RobertaForTokenClassification": ("token", set()),
    "RobertaForQuestionAnswering": ("span", set()),
    "DistilBertModel": ("none", set()),
    "DistilBertForMaskedLM": ("masked_lm", set()),
    "DistilBertForSequenceClassification": ("classification", set()),
    "DistilBertForMultipleChoice": ("multiple_choice", set()),
    "DistilBertForTokenClassification": ("token", set()),
    "DistilBertForQuestionAnswering": ("span", set()),
}
TIED = hf_names.TIED


def tiny(name, **fields):
    architecture = name.partition("For")[0].removesuffix("Model").removesuffix("LMHead").lower()
    labels = 2 if "QuestionAnswering" in name else 3
    config = reference.config(architecture, reference.TINY, num_labels=labels, **fields)
    return reference.model(name, config, scale=0.3)


def state(model):
    """All tensors, the copies of tied ones too, each in memory of its own."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def without(tensors, ends):
    return {name: t for name, t in tensors.items() if not name.endswith(ends)}


def base(name):
    """A name as `hf_names.TIED` has it."""
    return name.split(".", 1)[1] if name.startswith(("bert.", "roberta.", "distilbert.")) else name


# Each way takes all tensors and gives those that a file of it holds.
def copies_kept(model, tensors):  # version 4 and before, pytorch_model.bin
    return tensors


def copies_dropped(model, tensors):  # save_pretrained of both
    return {name: t for name, t in tensors.items() if name not in TIED}


def only_the_decoder(model, tensors):
    """What save_model may leave of each tied pair."""
    gone = {TIED[name] for name in tensors if name in TIED}
    return {name: t for name, t in tensors.items() if base(name) not in gone}


def only_the_decoder_matrix(model, tensors):
    words = "embeddings.word_embeddings.weight"
    if not any(TIED.get(name) == words for name in tensors):
        return tensors
    return {n: t for n, t in tensors.items() if base(n) != words and not n.endswith("decoder.bias")}


def names_of_2018(model, tensors):
    swap = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = functools.partial(functools.reduce, lambda name, k: name.replace(k, swap[k]), swap)
    return {renamed(name): t for name, t in tensors.items()}


def buffers_kept(model, tensors):  # versions before 4.31
    prefix = f"{model.base_model_prefix}." if hasattr(model, model.base_model_prefix) else ""
    ids = torch.arange(40)[None]
    buffers = {
        f"{prefix}embeddings.{name}": ids.clone() for name in ("position_ids", "token_type_ids")
    }
    return tensors | buffers


def no_prefix(model, tensors):
    return {name.removeprefix(f"{model.base_model_prefix}."): t for name, t in tensors.items()}


WAYS = [
    copies_kept,
    copies_dropped,
    only_the_decoder,
    only_the_decoder_matrix,
    names_of_2018,
    buffers_kept,
    no_prefix,
]


def write(directory, model, tensors=None, **fields):
    """A folder with these tensors; without any, as this version's save_pretrained makes it."""
    model.save_pretrained(directory)
    if tensors is not None:
        safetensors.torch.save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    if fields:
        path = directory / "config.json"
        tree = json.loads(path.read_text()) | fields
        path.write_text(json.dumps({k: v for k, v in tree.items() if v is not None}))
    return f"hf:{directory}"


@pytest.mark.parametrize("name", CLASSES)
def test_every_way_of_writing_a_class_gives_its_weights(name, tmp_path):
    model = tiny(name)
    first = convert.read(write(tmp_path / "saved", model))
    head, left_out = CLASSES[name]
    assert first.config.model.head == head
    said = [note for note in first.notes if note.startswith("left out: ")]
    names = {n.split(".")[0] for note in said for n in note.removeprefix("left out: ").split(", ")}
    assert names == left_out
    for way in WAYS:
        again = convert.read(write(tmp_path / way.__name__, model, way(model, state(model))))
        assert again.config.model == first.config.model, way.__name__
        assert again.notes == first.notes, way.__name__
        equal(again.params, first.params)
    safetensors.torch.save_model(model, tmp_path / "saved/model.safetensors")
    equal(convert.read(f"hf:{tmp_path}/saved").params, first.params)
    model.save_pretrained(tmp_path / "shards", max_shard_size="30KB")
    equal(convert.read(f"hf:{tmp_path}/shards").params, first.params)


@pytest.mark.parametrize(
    "name", [name for name, (_, left_out) in CLASSES.items() if left_out or "LM" in name]
)
def test_what_is_left_of_a_class_computes_the_same(name, tmp_path):
    """Classes without a head of ours: the encoder's; others that test_hf has not: the logits too."""
    model = tiny(name)
    if "CausalLM" in name or "LMHead" in name:
        model.config.is_decoder = False
    ours = convert.read(write(tmp_path / "m", model))
    batch = reference.batch(model.config, 3, 20)
    if not CLASSES[name][1]:
        assert max(differences(model, ours, batch).values()) < 1e-5
        return
    with torch.no_grad():
        hidden = model.base_model(**reference.inputs(model.config, batch)).last_hidden_state
    mask = batch["attention_mask"].astype(bool)
    assert relative(outputs(ours, batch)["hidden"][mask], hidden[torch.tensor(mask)]) < 1e-5


def test_shards_of_a_pickle(tmp_path):
    """pytorch_model.bin.index.json, as version 4 wrote large models."""
    model = tiny("BertForMaskedLM")
    source = write(tmp_path / "m", model)
    expected = convert.read(source).params
    (tmp_path / "m/model.safetensors").unlink()
    tensors = state(model)
    names = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    parts = [dict(list(tensors.items())[i::2]) for i in (0, 1)]
    for name, part in zip(names, parts, strict=True):
        torch.save(part, tmp_path / "m" / name)
    weight_map = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    index = tmp_path / "m/pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    equal(convert.read(source, Hints(allow_pickle=True)).params, expected)


def test_a_class_that_the_config_does_not_name(tmp_path):
    """Older files name none: whether a classifier is one of texts is seen by what is pooled."""
    for name in (
        "BertForTokenClassification",
        "DistilBertForTokenClassification",
        "RobertaForTokenClassification",
        "BertForSequenceClassification",
    ):
        found = convert.read(write(tmp_path / name, tiny(name), architectures=None))
        assert found.config.model.head == CLASSES[name][0]
        assert (
            f"head: {CLASSES[name][0]}, from the tensors; config.json names no class" in found.notes
        )


def test_an_untied_decoder(tmp_path):
    """tie_word_embeddings=False: the head is left out where it is another one; or it is the same."""
    model = tiny("BertForMaskedLM", tie_word_embeddings=False)
    found = convert.read(write(tmp_path / "m", model, state(model)))
    assert found.config.model.head == "none"
    assert any("the masked-LM head is left out" in note for note in found.notes)
    same = tiny("BertForMaskedLM")
    source = write(tmp_path / "same", same, state(same), tie_word_embeddings=False)
    assert convert.read(source).config.model.head == "masked_lm"
    source = write(tmp_path / "encoder", tiny("BertModel"), tie_word_embeddings=False)
    assert convert.read(source).config.model.head == "pooler"


def test_robertas_head_has_the_erf_form_whatever_the_encoder_has(tmp_path):
    model = tiny("RobertaForMaskedLM", hidden_act="gelu_new")
    found = convert.read(write(tmp_path / "m", model))
    assert found.config.model.head == "none"
    assert any("RoBERTa's always has the erf form" in note for note in found.notes)


@pytest.mark.parametrize("act", ["gelu_python", "gelu_fast", "gelu_accurate"])
def test_other_names_of_the_two_forms_of_gelu(act, tmp_path):
    known = transformers.activations.ACT2FN
    if act not in known:
        pytest.skip(f"this version of transformers has no {act}")
    model = tiny("BertModel", hidden_act=act)
    found = convert.read(write(tmp_path / "m", model))
    batch = reference.batch(model.config, 2, 16)
    assert max(differences(model, found, batch).values()) < 1e-5


def test_fields_that_change_nothing_are_not_refused(tmp_path):
    fields = {"chunk_size_feed_forward": 4, "pruned_heads": {}, "add_cross_attention": False}
    (note,) = convert.read(write(tmp_path / "m", tiny("BertModel"), **fields)).notes
    assert note.startswith("tokenizer: ")


def test_distilberts_fields_under_berts_names(tmp_path):
    """`transformers` takes either name (`attribute_map`)."""
    model = tiny("DistilBertModel")
    first = convert.read(write(tmp_path / "m", model))
    renamed = {
        "hidden_size": 32,
        "dim": None,
        "num_hidden_layers": 3,
        "n_layers": None,
        "num_attention_heads": 4,
        "n_heads": None,
    }
    assert convert.read(write(tmp_path / "m", model, **renamed)).config == first.config


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config="),
        ({"pruned_heads": {"1": [0]}}, "pruned_heads="),
        ({"is_encoder_decoder": True}, "is_encoder_decoder=True"),
    ],
)
def test_fields_that_change_what_is_computed_are_refused(fields, said, tmp_path):
    with pytest.raises(DataError, match=said):
        convert.read(write(tmp_path / "m", tiny("BertModel"), **fields))


def test_a_tensor_under_two_names_is_refused(tmp_path):
    model = tiny("BertForMaskedLM")
    twice = {"embeddings.LayerNorm.gamma": torch.ones(32)}
    with pytest.raises(DataError, match=r"hold embeddings\.LayerNorm\.weight twice"):
        convert.read(write(tmp_path / "m", model, state(model) | twice))


def test_what_nothing_reads_is_named(tmp_path):
    fields = {
        "finetuning_task": "mrpc",
        "task_specific_params": {"x": 1},
        "odd": "a\nb",
        "task_of_nobody": None,
        "classifier_dropout": 0.3,
    }
    source = write(tmp_path / "m", tiny("BertForSequenceClassification"), **fields)
    for name in ("training_args.bin", "generation_config.json", "modeling_own.py", "README.md"):
        (tmp_path / "m" / name).write_text("")
    used, dropout, *_, files = convert.read(source).notes
    assert used.endswith(
        "not used: finetuning_task='mrpc', odd='a\\nb', task_specific_params={'x': 1}"
    )
    assert dropout == "classifier_dropout=0.3: not used; bertjax trains this head with dropout 0.1"
    assert files == "not read: generation_config.json, modeling_own.py, training_args.bin"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tf_model.h5", "from_tf=True"),
        ("flax_model.msgpack", "from_flax=True"),
        ("model.onnx", "an ONNX graph"),
        ("model.fp16.safetensors", "rename it to model.safetensors"),
        ("bert_model.ckpt.index", "tf1:PREFIX reads it"),
        ("adapter_config.json", "merge it"),
    ],
)
def test_weights_that_are_not_read_say_what_to_do(name, said, tmp_path):
    source = write(tmp_path / "m", tiny("BertModel"))
    (tmp_path / "m/model.safetensors").unlink()
    (tmp_path / "m" / name).write_text("{}")
    with pytest.raises(DataError, match=said) as caught:
        convert.read(source)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"), [("bert_config.json", "tf1:PREFIX"), ("model.pt", "fairseq:FILE")]
)
def test_folders_of_other_forms_say_so(name, said, tmp_path):
    (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match=said):
        convert.read(f"hf:{tmp_path}")


NAMES = ("no", "yes, or so", "Ünklar")
BY_ID = {"2": "Ünklar", "0": "no", "1": "yes, or so"}  # JSON has no order


def classifier(tmp_path, **fields):
    return write(tmp_path / "m", tiny("BertForSequenceClassification"), **fields)


def test_names_of_labels_go_through_every_form(tmp_path):
    source = classifier(
        tmp_path,
        id2label=BY_ID,
        label2id={n: i for i, n in enumerate(NAMES)},
        problem_type="multi_label_classification",
    )
    first = convert.read(source).config.model
    assert (first.label_names, first.problem_type) == (NAMES, "multi_label_classification")
    places = [source, str(tmp_path / "W"), f"tf1:{tmp_path}/tf/m.ckpt", f"hf:{tmp_path}/b"]
    for here, there in pairwise(places):
        convert.convert(here, there)
        assert convert.read(there).config.model == first
    again = transformers.AutoConfig.from_pretrained(tmp_path / "b")
    assert again.id2label == dict(enumerate(NAMES))
    assert again.label2id == {name: i for i, name in enumerate(NAMES)}
    assert again.problem_type == "multi_label_classification"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"label2id": {"no": 1, "yes, or so": 0}}, "label2id contradicts it: 'no' is 1, not 0"),
        ({"id2label": {"0": "a", "1": "b", "7": "c"}}, "does not name each of 0, 1, 2"),
        ({"id2label": {"0": "a", "1": "b", "x": "c"}}, "does not name each of 0, 1, 2"),
        ({"id2label": {"0": "a", "1": "b", "2": 3}}, "does not name each of 0, 1, 2"),
        ({"id2label": {"0": "a", "1": "b"}}, "id2label has 2, the classifier 3"),
        ({"problem_type": "riddle"}, "problem_type='riddle'"),
    ],
)
def test_labels_that_make_no_sense_are_named(fields, said, tmp_path):
    found = convert.read(classifier(tmp_path, **{"id2label": BY_ID, "label2id": None} | fields))
    assert any(said in note for note in found.notes), found.notes
    assert found.config.model.label_names == (() if "id2label" in fields else NAMES)
    assert found.config.model.num_labels == 3


def test_labels_of_a_head_that_is_left_out_are_named(tmp_path):
    model = tiny("BertForNextSentencePrediction")
    found = convert.read(write(tmp_path / "m", model, id2label=BY_ID))
    assert "labels: no, yes, or so, Ünklar: not kept; their head is not read" in found.notes
    assert found.config.model.label_names == ()


def test_distilberts_dropout_before_a_head_is_written_as_bertjax_has_it(tmp_path):
    source = write(tmp_path / "m", tiny("DistilBertForSequenceClassification"))
    dropout = "seq_classif_dropout=0.2: not used; bertjax trains this head with dropout 0.1"
    assert dropout in convert.read(source).notes
    convert.convert(source, f"hf:{tmp_path}/again")
    again = convert.read(f"hf:{tmp_path}/again")
    assert not any("dropout" in note for note in again.notes)


@pytest.mark.parametrize("field", ["model_type", "tokenizer_class", "architectures", "num_labels"])
def test_a_field_of_another_type_is_no_traceback(field, tmp_path):
    """A list where a name is expected cannot be looked up in a table."""
    source = classifier(tmp_path, **{field: [["x"]], "id2label": None})
    if field == "model_type":
        with pytest.raises(DataError, match=field):
            convert.read(source)
    else:
        assert convert.read(source).config.model.num_labels == 3
