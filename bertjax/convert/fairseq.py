"""Reads fairseq's RoBERTa checkpoints: `model.pt`, with its vocabulary `dict.txt` beside it."""

import argparse
import re
from pathlib import Path

import numpy as np

from bertjax import config as config_lib
from bertjax.convert import names, torch_file
from bertjax.convert.folder import Folder, listed
from bertjax.convert.names import Row, Tensor, layer_norm, linear
from bertjax.convert.pretrained import Hints, Pretrained, config_of
from bertjax.data import byte_bpe, tokenizer, tokenizer_files
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.errors import DataError, UsageError

POSITION_OFFSET = 2  # fairseq counts positions from the padding id + 1
_ACTIVATIONS = {"gelu": "gelu", "gelu_accurate": "gelu_new", "gelu_fast": "gelu_new"}
_ENCODER = "encoder.sentence_encoder"
_LAYER = f"{_ENCODER}.layers.{{}}"
_WORDS = f"{_ENCODER}.embed_tokens.weight"
_POSITIONS = f"{_ENCODER}.embed_positions.weight"
_NO_TYPES = "token types, which fairseq has none of"

# Names of `RobertaModel` in fairseq 0.10 and later; `_todays_names` renames those of older files.
TABLE = [
    Row("embeddings/word/embedding", _WORDS),
    Row("embeddings/position/embedding", _POSITIONS),
    Row("embeddings/token_type/embedding", _NO_TYPES),
    *layer_norm("embeddings/layer_norm", f"{_ENCODER}.layernorm_embedding"),
    *linear("blocks/query", f"{_LAYER}.self_attn.q_proj"),
    *linear("blocks/key", f"{_LAYER}.self_attn.k_proj"),
    *linear("blocks/value", f"{_LAYER}.self_attn.v_proj"),
    *linear("blocks/attention_output", f"{_LAYER}.self_attn.out_proj"),
    *layer_norm("blocks/attention_layer_norm", f"{_LAYER}.self_attn_layer_norm"),
    *linear("blocks/intermediate", f"{_LAYER}.fc1"),
    *linear("blocks/output", f"{_LAYER}.fc2"),
    *layer_norm("blocks/output_layer_norm", f"{_LAYER}.final_layer_norm"),
    *linear("masked_lm/transform", "encoder.lm_head.dense"),
    *layer_norm("masked_lm/layer_norm", "encoder.lm_head.layer_norm"),
    Row("masked_lm/bias", "encoder.lm_head.bias"),
]


def read(path: Path, hints: Hints) -> Pretrained:
    """The masked-LM model of a `model.pt`, and its tokenizer if the tokenizer's files are present.

    The vocabulary rows keep their order: GPT-2's pieces get fairseq's ids.

    Raises:
      DataError: the file would run code or is damaged, or its model is not a RoBERTa.
      UsageError: pickles are not allowed, or PyTorch is missing or too old.
    """
    path = Path(path)
    state = torch_file.load_torch_file(path, hints)
    weights = state.get("model")
    if not isinstance(weights, dict):
        raise DataError(f"{path}: has no 'model' entry; expected a checkpoint of fairseq")
    tensors = _todays_names(torch_file.tensors(weights), path)
    rest = sorted(str(name) for name, value in state.items() if value is not None)
    rest = [name for name in rest if name not in ("model", "args", "cfg")]
    notes = [f"left out: {listed(rest)} of the checkpoint"] if rest else []
    arguments = _arguments(state, path)
    model = _model(arguments, tensors, hints, path)
    types = (1, model.hidden_size)
    tensors[_NO_TYPES] = Tensor(types, lambda: np.zeros(types, np.float32))
    params = names.gather(TABLE, model, tensors, str(path))
    notes += _check_the_rest(model, params, tensors, path)
    opened = _tokenizer(path, model, hints, notes)
    group = config_lib.Tokenizer("byte_bpe", None, model.vocab_size, False)
    group = tokenizer.resolved(group, opened) if opened else group
    return Pretrained(config_of(model, group, str(path)), opened, params, notes=tuple(notes))


def _todays_names(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors under fairseq's current names; a fused attention projection is split in three."""
    result = {}
    for name, tensor in tensors.items():
        name = re.sub(r"^decoder\.", "encoder.", name)
        name = name.replace(".emb_layer_norm.", ".layernorm_embedding.")
        fused = re.fullmatch(r"(.*\.self_attn\.)in_proj_(weight|bias)", name)
        if fused is None:
            result[name] = tensor
            continue
        prefix, kind = fused.groups()
        rows, odd = divmod(tensor.shape[0] if tensor.shape else 1, 3)
        if odd:
            raise DataError(
                f"{path}: {name} of shape {list(tensor.shape)} does not split into 3 projections"
            )
        for index, part in enumerate(("q_proj", "k_proj", "v_proj")):
            result[f"{prefix}{part}.{kind}"] = _rows_of(tensor, index * rows, rows)
    return result


def _rows_of(tensor: Tensor, start: int, count: int) -> Tensor:
    return Tensor((count, *tensor.shape[1:]), lambda: tensor.read()[start : start + count])


def _arguments(state: dict, path: Path) -> dict:
    """The training command's arguments that are numbers or strings."""
    arguments = state.get("args")
    if arguments is None and isinstance(state.get("cfg"), dict):  # since 0.11
        arguments = state["cfg"].get("model")
    if isinstance(arguments, argparse.Namespace):
        arguments = vars(arguments)
    if not isinstance(arguments, dict) or "encoder_attention_heads" not in arguments:
        raise DataError(
            f"{path}: its 'args' lack encoder_attention_heads, which tensor shapes do not show"
        )
    plain = (bool, int, float, str)
    return {name: value for name, value in arguments.items() if isinstance(value, plain)}


def _model(arguments: dict, tensors: dict, hints: Hints, path: Path) -> config_lib.Model:
    """The model config that the tensors' shapes and the arguments agree on."""
    for name in (_WORDS, _POSITIONS, f"{_LAYER.format(0)}.fc1.weight"):
        if len(tensors.get(name, Tensor((), None)).shape) != 2:
            raise DataError(f"{path}: lacks the matrix {name} of a RoBERTa encoder")
    vocab_size, hidden_size = tensors[_WORDS].shape
    positions = tensors[_POSITIONS].shape[0]
    layers = {m[1] for name in tensors if (m := re.match(rf"{_ENCODER}\.layers\.(\d+)\.", name))}
    seen = {
        "encoder_embed_dim": hidden_size,
        "encoder_ffn_embed_dim": tensors[f"{_LAYER.format(0)}.fc1.weight"].shape[0],
        "encoder_layers": len(layers),
        "max_positions": positions - POSITION_OFFSET,
    }
    for name, value in seen.items():
        if arguments.get(name, value) != value:
            said = repr(arguments[name])[:50]
            raise DataError(f"{path}: args.{name}={said}, but its tensors say {value}")
    if arguments.get("no_scale_embedding", True) is not True:
        raise DataError(
            f"{path}: args.no_scale_embedding=False: RoBERTa's embeddings are not scaled"
        )
    activation = arguments.get("activation_fn", "gelu")  # fairseq's own default
    if activation not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise DataError(f"{path}: args.activation_fn={str(activation)[:50]!r}; bertjax has {known}")
    if hints.hidden_act not in (None, _ACTIVATIONS[activation]):
        raise UsageError(f"--hidden_act={hints.hidden_act}: {path} says {activation}")
    try:
        return config_lib.model_of(
            {
                "vocab_size": vocab_size,
                "hidden_size": hidden_size,
                "num_hidden_layers": len(layers),
                "num_attention_heads": arguments["encoder_attention_heads"],
                "intermediate_size": seen["encoder_ffn_embed_dim"],
                "max_position_embeddings": positions,
                "position_offset": POSITION_OFFSET,
                "type_vocab_size": 1,
                "hidden_act": _ACTIVATIONS[activation],
                "hidden_dropout_prob": arguments.get("dropout", 0.1),
                "attention_probs_dropout_prob": arguments.get("attention_dropout", 0.1),
                "layer_norm_eps": 1e-5,
                "head": "masked_lm" if "encoder.lm_head.dense.weight" in tensors else "none",
            }
        )
    except UsageError as error:
        raise DataError(f"{path}: {error}") from None


def _check_the_rest(model: config_lib.Model, params: dict, tensors: dict, path: Path) -> list[str]:
    """Notes on tensors left out; raises DataError for one that would change the encoder."""
    used = {name for name, _ in names.named_shapes(TABLE, model)}
    tied = "encoder.lm_head.weight"
    words = names.lookup(params, "embeddings/word/embedding")[: model.vocab_size]
    if tied in tensors and not np.array_equal(tensors[tied].read(), words):
        raise DataError(f"{path}: lm_head.weight differs from embed_tokens; bertjax ties the two")
    rest = [name for name in tensors.keys() - used - {tied} if "_float_tensor" not in name]
    rest = sorted(name for name in rest if not name.endswith(".version"))
    for name in rest:
        if name.startswith(f"{_ENCODER}."):
            raise DataError(f"{path}: {name}: RoBERTa's encoder has no such tensor")
    return [f"left out: {listed(rest)}"] if rest else []


def _tokenizer(
    path: Path, model: config_lib.Model, hints: Hints, notes: list[str]
) -> Tokenizer | None:
    """GPT-2's byte-level BPE with the ids of the model's rows."""
    named = Path(hints.tokenizer) if hints.tokenizer else path.parent
    if hints.tokenizer and not (named / "encoder.json").is_file():
        found, said = tokenizer_files.read(named, hints.tokenizer_wish)
        notes += said
    else:
        # dict.txt differs from model to model, so the one beside the weights comes first; GPT-2's
        # two files are the same for every model.
        there, beside = Folder(named), Folder(path.parent)
        places = {"encoder.json": there, "vocab.bpe": there, "dict.txt": beside}
        wanted = {}
        for name, first in places.items():
            folder = next((f for f in (first, beside, there) if f.has(name)), None)
            wanted[name] = folder and folder.file(name)
        missing = [name for name, file in wanted.items() if file is None]
        if missing:
            notes.append(
                f"tokenizer: none; put {', '.join(missing)} into {path.parent}, or name a "
                "directory with encoder.json and vocab.bpe by --tokenizer"
            )
            return None
        found = byte_bpe.from_gpt2(*wanted.values())
        absent = getattr(found, "absent", ())
        if absent:
            notes.append(
                f"tokenizer: {len(absent):,} pieces of {wanted['encoder.json']} are not in "
                f"{wanted['dict.txt']}: they are <unk>, as in fairseq"
            )
    if found.vocab_size != model.vocab_size:
        raise DataError(
            f"{named}: a tokenizer of {found.vocab_size} pieces, but {path.name} has "
            f"{model.vocab_size} rows"
        )
    return found
