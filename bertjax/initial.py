"""The start of a run from somebody's weights: `config.init_from`."""

import jax
import numpy as np

from bertjax import config as config_lib
from bertjax import convert
from bertjax.convert import names
from bertjax.convert.pretrained import Hints
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UsageError

# Fields of the model that change what weights mean without changing their shapes.
_MEANING = ("num_attention_heads", "position_offset", "hidden_act", "layer_norm_eps", "pooler_act")


def load(config: config_lib.Config, tokenizer: Tokenizer, params: dict) -> tuple[dict, list[str]]:
    """`(params, missing)`: `params` with all that `config.init_from` has, placed as they are.

    `missing` are the paths of the parameters that stay as they were. Raises as `read`.
    """
    found, missing = read(config, tokenizer)

    def take(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name not in found:
            return leaf
        value = found[name]
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda i: value[i])

    return jax.tree_util.tree_map_with_path(take, params), missing


def read(config: config_lib.Config, tokenizer: Tokenizer) -> tuple[dict, list[str]]:
    """The weights at `config.init_from`, for a run of this config with this tokenizer.

    Returns:
      `{parameter path: array}` of every parameter of the model that the source has, and the paths
      that it lacks (heads: they start at random); what the source has beyond the model is left.

    Raises:
      UsageError: the source's encoder is another model, or its vocabulary another one.
      DataError: as `convert.read`.
    """
    uri, model = config.init_from, config.model
    source = convert.read(uri, Hints(model.hidden_act, config.tokenizer.lowercase))
    for field in _MEANING:
        ours, theirs = getattr(model, field), getattr(source.config.model, field)
        if ours != theirs and not (field == "pooler_act" and not source.config.model.has_pooler):
            raise UsageError(
                f"config.model.{field}={ours!r}: {uri} has {theirs!r}; set it so, or train anew"
            )
    if source.tokenizer is not None:
        _check_vocabulary(uri, source.tokenizer, tokenizer)
    found, theirs = {}, names.shapes(source.config.model)
    missing = []
    for path, shape in names.shapes(model).items():
        if theirs.get(path, shape) != shape:
            raise UsageError(
                f"config.init_from={uri}: its {path} has shape {list(theirs[path])}, this model's "
                f"{list(shape)}; give config.model the sizes of {uri}"
            )
        if path in theirs:
            found[path] = np.asarray(names.lookup(source.params, path))
        else:
            missing.append(path)
    if any(path.startswith(("embeddings", "blocks")) for path in missing):
        raise UsageError(f"config.init_from={uri}: lacks {missing[0]}, which this model has")
    return found, missing


def _check_vocabulary(uri: str, theirs: Tokenizer, ours: Tokenizer):
    size = theirs.vocab_size
    if size != ours.vocab_size or theirs.tokens(range(size)) != ours.tokens(range(size)):
        raise UsageError(
            f"config.init_from={uri}: its vocabulary of {size:,} pieces is not that of this "
            f"corpus ({ours.vocab_size:,}); set config.tokenizer.path to it and prepare again"
        )
