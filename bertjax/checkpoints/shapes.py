"""Names, types and shapes of a saved state, and the config field that explains a difference."""

import re
from pathlib import Path
from typing import Any

import jax

from bertjax import sharding
from bertjax.checkpoints import integrity
from bertjax.config import heads
from bertjax.errors import DataError

# (parameter name, axis, the field that decides the size there); any other size is hidden_size.
_FIELDS = (
    (r"word/embedding|masked_lm/bias", 0, "model.vocab_size"),
    (r"position/embedding", 0, "model.max_position_embeddings"),
    (r"token_type/embedding", 0, "model.type_vocab_size"),
    (r"blocks/intermediate/(kernel|bias)", -1, "model.intermediate_size"),
    (r"blocks/output/kernel", 1, "model.intermediate_size"),
    (r"blocks/", 0, "model.num_hidden_layers"),
)
# (parameter name, the field that decides whether the parameter exists).
_PRESENCE = (
    (r"^opt_state", "optimizer.name"),
    (r"token_type", "model.type_vocab_size"),
    ("|".join(f"/{part.name}/" for part in heads.all_parts()), "model.head"),
)


def of(tree: Any) -> dict:
    """`{parameter path: {"dtype", "shape"}}` of a pytree of arrays or of shape structs."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        sharding.leaf_name(path): {
            "dtype": str(leaf.dtype),
            "shape": list(leaf.shape),
        }
        for path, leaf in leaves
    }


def saved(step_dir: Path) -> dict:
    """The same as `of`, for the state in a step directory, from its manifest."""
    return integrity.load(step_dir)["arrays"]


def check(step_dir: Path, wanted: dict) -> None:
    """Raises DataError, naming the parameter and the likely field, unless the state fits `wanted`.

    Only the top-level groups in `wanted` are compared.
    """
    groups = {name.split("/")[0] for name in wanted}
    found = {n: array for n, array in saved(step_dir).items() if n.split("/")[0] in groups}
    if groups - {name.split("/")[0] for name in found} and "opt_state" in groups:
        raise DataError(
            f"{step_dir}: holds weights without an optimizer's state; start another run from them "
            f"with --config.init_from={step_dir.parents[1]} and another --workdir"
        )
    # Parameters come first: the optimizer's state differs whenever they do, but explains less.
    for name in sorted(found.keys() | wanted.keys(), key=lambda n: (n.startswith("opt_state"), n)):
        old, new = found.get(name), wanted.get(name)
        if old != new:
            raise DataError(
                f"{step_dir}: {name} is {_text(old)} in the checkpoint but {_text(new)} under this "
                f"config; set config.{_likely_field(name, old, new)} as it was, or take another "
                "--workdir"
            )


def _text(array: dict | None) -> str:
    return "absent" if array is None else f"{array['dtype']}{array['shape']}"


def _likely_field(name: str, old: dict | None, new: dict | None) -> str:
    if old is None or new is None:
        return next((f for pattern, f in _PRESENCE if re.search(pattern, name)), "model")
    rank = len(old["shape"])
    pairs = zip(old["shape"], new["shape"], strict=False)
    changed = [axis for axis, (a, b) in enumerate(pairs) if a != b]
    if not changed:
        return "model"
    for pattern, axis, field in _FIELDS:
        if re.search(pattern, name) and axis % rank in changed:
            return field
    return "model.hidden_size"
