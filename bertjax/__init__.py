"""BERT, RoBERTa and DistilBERT in JAX.

    model = bertjax.load("hub:google-bert/bert-base-uncased")
    bertjax.fill_mask(model, "Paris is the [MASK] of France.")
    vectors = list(bertjax.embed(model, ["one sentence", "another one"]))
    batch = bertjax.tokenize(model, ["one sentence"])
    outputs = jax.jit(model.apply)(model.params, batch)

Importing this package imports neither JAX nor anything else that is slow: a name is imported where
it is first used. Nothing here prints; what runs say is logged by loggers named `bertjax...`.
"""

import importlib
import logging
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertjax.convert.pretrained import Pretrained as Pretrained
    from bertjax.inference.likelihood import Score as Score
    from bertjax.library.training import default_config as default_config
    from bertjax.library.training import finetune as finetune
    from bertjax.library.training import pretrain as pretrain
    from bertjax.library.use import embed as embed
    from bertjax.library.use import fill_mask as fill_mask
    from bertjax.library.use import predict as predict
    from bertjax.library.use import score as score
    from bertjax.library.weights import convert as convert
    from bertjax.library.weights import load as load
    from bertjax.library.weights import tokenize as tokenize

logging.getLogger(__name__).addHandler(logging.NullHandler())  # else Python prints warnings

_HOMES = {
    "Pretrained": "bertjax.convert.pretrained",
    "Score": "bertjax.inference.likelihood",
    "convert": "bertjax.library.weights",
    "default_config": "bertjax.library.training",
    "embed": "bertjax.library.use",
    "fill_mask": "bertjax.library.use",
    "finetune": "bertjax.library.training",
    "load": "bertjax.library.weights",
    "predict": "bertjax.library.use",
    "pretrain": "bertjax.library.training",
    "score": "bertjax.library.use",
    "tokenize": "bertjax.library.weights",
}
__all__ = list(_HOMES)
_PACKAGES = ("convert", "finetune")  # folders that have the name of a function


class FunctionPackage(types.ModuleType):
    """A folder that is also the public function of its name: `bertjax.convert(...)`.

    `from bertjax.convert import tf1` sets the attribute `convert` of this package to the folder,
    whatever it was before; so the folder itself can be called.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function of that name in `bertjax.library`."""
        name = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module(_HOMES[name]), name)(*args, **kwargs)


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"bertjax.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'bertjax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
