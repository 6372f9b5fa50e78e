"""Hugging Face folders: outputs, gradients and names against `transformers` itself."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
import transformers_reference as reference
from random_models import equal, random_model

from bertjax import convert, models, objectives, train
from bertjax.config import heads
from bertjax.convert import hf, hf_names, names
from bertjax.errors import DataError
from bertjax.pretraining import Pretraining

CASES = sorted(
    (kind, head)
    for kind in heads.ARCHITECTURES
    for head in heads.HEADS
    if hf_names.class_of(kind, head)
)
AUTO = {
    "pretraining": transformers.AutoModelForPreTraining,
    "masked_lm": transformers.AutoModelForMaskedLM,
    "classification": transformers.AutoModelForSequenceClassification,
    "multiple_choice": transformers.AutoModelForMultipleChoice,
    "span": transformers.AutoModelForQuestionAnswering,
    "token": transformers.AutoModelForTokenClassification,
    "pooler": transformers.AutoModel,
    "none": transformers.AutoModel,
}
BIG = [("bert", "pretraining"), ("roberta", "masked_lm"), ("distilbert", "masked_lm")]


def save(model, directory):
    model.save_pretrained(directory)
    return directory


def tiny(architecture, head, **fields):
    """A tiny model of the class for this head; `none` is a base model without a pooler."""
    labels = 3 if head in ("classification", "token") else 2
    config = reference.config(architecture, reference.TINY, num_labels=labels, **fields)
    name = hf_names.class_of(architecture, head)
    if head == "none" and architecture != "distilbert":
        model = getattr(transformers, name)(config, add_pooling_layer=False)
        loaded = reference.model(name, config, scale=0.3).state_dict()
        model.load_state_dict(loaded, strict=False)
        return model.eval()
    return reference.model(name, config, scale=0.3)


def relative(ours, theirs):
    theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else theirs
    assert ours.shape == theirs.shape
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


def outputs(pretrained, batch):
    """Ours on the batch, masked-LM logits at every position."""
    length = batch["input_ids"].shape[1]
    if pretrained.config.model.has_masked_lm:
        positions = np.broadcast_to(np.arange(length), batch["input_ids"].shape)
        batch = batch | {"masked_lm_positions": positions}
    run = jax.jit(functools.partial(models.apply, pretrained.config.model))
    return run(pretrained.params, batch)


def differences(model, pretrained, batch):
    """Largest relative difference of every output that both sides have."""
    inputs = reference.inputs(model.config, batch)
    if pretrained.config.model.head == "multiple_choice":  # [1, choices, L] on their side
        inputs = {name: value[None] for name, value in inputs.items()}
    with torch.no_grad():
        theirs = model(**inputs)
    ours, mask = outputs(pretrained, batch), batch["attention_mask"].astype(bool)
    size = pretrained.config.model.vocab_size
    pairs = {
        "last_hidden_state": lambda: ours["hidden"][mask],
        "pooler_output": lambda: ours["pooled"],
        "prediction_logits": lambda: ours["masked_lm_logits"][mask][:, :size],
        "seq_relationship_logits": lambda: ours["next_sentence_logits"],
        "start_logits": lambda: ours["span_logits"][mask][:, 0],
        "end_logits": lambda: ours["span_logits"][mask][:, 1],
        "logits": lambda: (
            ours["masked_lm_logits"][mask][:, :size]
            if "masked_lm_logits" in ours
            else ours["token_logits"][mask]
            if "token_logits" in ours
            else ours["classification_logits"].reshape(theirs.logits.shape)
        ),
    }
    found = {}
    for name, value in theirs.items():
        if name in pairs and value is not None:
            by_token = value.shape[:2] == mask.shape
            found[name] = relative(pairs[name](), value[torch.tensor(mask)] if by_token else value)
    assert found
    return found


@pytest.mark.parametrize(("architecture", "head"), CASES)
def test_outputs_equal_and_the_way_back_is_exact(architecture, head, tmp_path):
    """In: every output within 1e-5. Out: no key missing, none unexpected, equal to the bit."""
    model = tiny(architecture, head)
    pretrained = convert.read(f"hf:{save(model, tmp_path / 'theirs')}")
    assert pretrained.config.model.head == head
    batch = reference.batch(model.config, 3, 20)
    assert max(differences(model, pretrained, batch).values()) < 1e-5
    hf.write(pretrained, tmp_path / "ours")
    extra = {"add_pooling_layer": False} if head == "none" and architecture != "distilbert" else {}
    again, info = AUTO[head].from_pretrained(tmp_path / "ours", output_loading_info=True, **extra)
    assert type(again) is type(model)
    assert not any(info.values()), info
    state = again.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    auto = transformers.AutoConfig.from_pretrained(tmp_path / "ours")
    assert auto.model_type == architecture
    assert auto.architectures == [type(model).__name__]
    assert auto.num_labels == (3 if head in ("classification", "token") else 2)


def rewrite(directory, change):
    """Passes the tensors of a folder through `change`."""
    path = directory / "model.safetensors"
    safetensors.torch.save_file(change(safetensors.torch.load_file(path)), path, {"format": "pt"})


def test_shards_old_names_buffers_and_copies_of_tied_weights(tmp_path):
    """What older files have: the same weights come out of each."""
    model = tiny("bert", "pretraining")
    whole = convert.read(f"hf:{save(model, tmp_path / 'whole')}")
    model.save_pretrained(tmp_path / "shards", max_shard_size="30KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 3
    equal(convert.read(f"hf:{tmp_path}/shards").params, whole.params)

    def old(tensors):
        swap = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        tensors = {
            functools.reduce(lambda n, k: n.replace(k, swap[k]), swap, name): tensor
            for name, tensor in tensors.items()
        }
        words = tensors["bert.embeddings.word_embeddings.weight"]
        return tensors | {
            "bert.embeddings.position_ids": torch.arange(40)[None],
            "cls.predictions.decoder.weight": words.clone(),
            "cls.predictions.decoder.bias": tensors["cls.predictions.bias"].clone(),
        }

    rewrite(save(model, tmp_path / "old"), old)
    again = convert.read(f"hf:{tmp_path}/old")
    equal(again.params, whole.params)
    assert not any("left out" in note for note in again.notes)


def test_an_untied_decoder_is_refused_and_strangers_are_named(tmp_path):
    model = tiny("bert", "masked_lm")
    words = "bert.embeddings.word_embeddings.weight"
    rewrite(
        save(model, tmp_path / "untied"),
        lambda tensors: tensors | {"cls.predictions.decoder.weight": tensors[words] + 1},
    )
    with pytest.raises(DataError, match=r"decoder.weight differs from embeddings.word_embeddings"):
        convert.read(f"hf:{tmp_path}/untied")
    rewrite(save(model, tmp_path / "more"), lambda t: t | {"extra.weight": torch.ones(2)})
    assert "left out: extra.weight" in convert.read(f"hf:{tmp_path}/more").notes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype, tmp_path):
    model = tiny("bert", "none")
    rewrite(save(model, tmp_path / "m"), lambda ts: {k: t.to(dtype) for k, t in ts.items()})
    params = convert.read(f"hf:{tmp_path}/m").params
    table = params["embeddings"]["word"]["embedding"][:99]
    expected = model.embeddings.word_embeddings.weight.detach().to(dtype).float().numpy()
    assert table.dtype == np.float32
    np.testing.assert_array_equal(table, expected)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("model_type", "t5", "model_type='t5'"),
        ("hidden_act", "relu", "hidden_act='relu'"),
        ("is_decoder", True, "is_decoder=True"),
        ("position_embedding_type", "relative_key", "position_embedding_type"),
        ("tie_word_embeddings", False, "tie_word_embeddings"),
        ("vocab_size", 10**9, "embeddings.word_embeddings.weight has shape"),
        ("num_attention_heads", 5, "must divide model.hidden_size"),
    ],
)
def test_what_bertjax_does_not_compute_is_refused(field, value, said, tmp_path):
    path = save(tiny("bert", "masked_lm"), tmp_path / "m") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(DataError, match=said):
        convert.read(f"hf:{tmp_path}/m")


def test_the_card_tells_the_config_and_the_figures(tmp_path):
    pretrained = dataclasses.replace(
        random_model(head="masked_lm"), figures={"mlm_loss": 2.5}, step=300
    )
    hf.write(pretrained, tmp_path / "m")
    card = (tmp_path / "m/README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: fill-mask\n")
    assert "| mlm_loss | 2.5000 |" in card
    assert "300 updates" in card
    assert '"num_attention_heads": 4' in card


@pytest.mark.parametrize("act", ["gelu", "gelu_new", "gelu_pytorch_tanh"])
def test_the_form_of_gelu_is_carried(act, tmp_path):
    model = tiny("bert", "masked_lm", hidden_act=act)
    pretrained = convert.read(f"hf:{save(model, tmp_path / 'm')}")
    assert pretrained.config.model.hidden_act == ("gelu" if act == "gelu" else "gelu_new")
    batch = reference.batch(model.config, 2, 16)
    assert max(differences(model, pretrained, batch).values()) < 1e-5
    hf.write(pretrained, tmp_path / "again")
    assert json.loads((tmp_path / "again/config.json").read_text())["hidden_act"] == (
        "gelu" if act == "gelu" else "gelu_new"
    )


def masked(batch, config, seed=0):
    """The batch with three masked-LM labels a row and next-sentence labels, for both sides."""
    rng = np.random.default_rng(seed)
    positions = np.stack([rng.choice(10, 3, replace=False) + 1 for _ in batch["input_ids"]])
    labels = rng.integers(5, config.vocab_size, positions.shape)
    dense = np.full(batch["input_ids"].shape, -100)
    np.put_along_axis(dense, positions, labels, 1)
    rows = len(positions)
    ours = batch | {
        "masked_lm_positions": positions.astype(np.int32),
        "masked_lm_ids": labels.astype(np.int32),
        "masked_lm_weights": np.ones(positions.shape, np.float32),
        "next_sentence_labels": rng.integers(0, 2, rows).astype(np.int32),
        "example_ids": np.arange(rows, dtype=np.int32),
    }
    return ours, dense


def loss_and_gradients(model, pretrained, batch):
    """`(their loss, ours, {parameter path: (their gradient, ours)})`, theirs in our layout."""
    config = pretrained.config
    ours, labels = masked(batch, model.config)
    arguments = {"labels": torch.tensor(labels)}
    if config.model.head == "pretraining":
        arguments["next_sentence_label"] = torch.tensor(ours["next_sentence_labels"]).long()
    theirs = model(**reference.inputs(model.config, batch), **arguments).loss
    model.zero_grad()
    theirs.backward()

    def loss_of(params):
        values = objectives.means(
            train.measure(Pretraining(config), models.apply(config.model, params, ours), ours)
        )
        return objectives.total(config.objective, values)

    loss, grads = jax.jit(jax.value_and_grad(loss_of))(pretrained.params)
    architecture = hf_names.architecture(config.model)
    tensors = {
        name.removeprefix(f"{architecture}."): names.Tensor(
            tuple(parameter.shape), lambda p=parameter: p.grad.numpy()
        )
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    rows = hf_names.table(architecture, config.model.head)
    tree = names.gather(rows, config.model, tensors, "gradients")
    pairs = {
        path: (names.lookup(tree, path), np.asarray(names.lookup(grads, path)))
        for path in names.shapes(config.model)
    }
    return theirs.item(), float(loss), pairs


def check_gradients(pairs, limit):
    """Every gradient within `limit` of its norm.

    A key's bias shifts all scores of a query alike, which softmax does not see: its gradient is
    zero but for rounding, so it is held against the query bias's.
    """
    for path, (theirs, ours) in pairs.items():
        scale = pairs["blocks/query/bias"][0] if path == "blocks/key/bias" else theirs
        error = np.linalg.norm(ours - theirs) / np.linalg.norm(scale)
        assert error < limit, (path, error)


@pytest.mark.parametrize(("architecture", "head"), BIG)
def test_loss_and_every_gradient(architecture, head, tmp_path):
    model = tiny(architecture, head)
    pretrained = convert.read(f"hf:{save(model, tmp_path)}")
    batch = reference.batch(model.config, 4, 24)
    theirs, ours, pairs = loss_and_gradients(model, pretrained, batch)
    assert abs(ours - theirs) < 1e-5 * theirs
    check_gradients(pairs, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "head"), BIG)
def test_base_shape(architecture, head, tmp_path, capsys):
    """Full Base shape, initialized as published: loss and every parameter's gradient."""
    config = reference.config(architecture, reference.BASE)
    model = reference.model(hf_names.class_of(architecture, head), config)
    pretrained = convert.read(f"hf:{save(model, tmp_path / 'm')}")
    batch = reference.batch(model.config, 4, 64)
    found = differences(model, pretrained, batch)
    theirs, ours, pairs = loss_and_gradients(model, pretrained, batch)
    worst = max(
        (np.linalg.norm(b - a) / np.linalg.norm(a), path)
        for path, (a, b) in pairs.items()
        if path != "blocks/key/bias"
    )
    with capsys.disabled():
        print(f"\n{architecture}: {found}, loss {abs(ours / theirs - 1):.1e}, gradient {worst}")
    assert max(found.values()) < 1e-5
    assert abs(ours - theirs) < 1e-5 * theirs
    check_gradients(pairs, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "head"), [case for case in CASES if case not in BIG and case[1] != "none"]
)
def test_base_shape_of_the_other_heads(architecture, head, tmp_path, capsys):
    config = reference.config(architecture, reference.BASE)
    model = reference.model(hf_names.class_of(architecture, head), config)
    pretrained = convert.read(f"hf:{save(model, tmp_path / 'm')}")
    batch = reference.batch(model.config, 2, 48)
    found = differences(model, pretrained, batch)
    with capsys.disabled():
        print(f"\n{architecture} {head}: {found}")
    assert max(found.values()) < 1e-5
