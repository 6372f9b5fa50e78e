"""The files of a Hugging Face folder: those with weights, and those that bertjax does not read."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from bertjax.convert import tensor_file, torch_file
from bertjax.convert.folder import Folder
from bertjax.convert.names import Tensor
from bertjax.convert.pretrained import Hints
from bertjax.data import tokenizer_files
from bertjax.errors import DataError

CONFIG = "config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
ADAPTER = "adapter_config.json"

# Weights that are not read, and what to do with them.
_ELSEWHERE = {
    "tf_model*.h5": "TensorFlow 2 weights; transformers 4 makes safetensors of them: "
    "AutoModel.from_pretrained(DIR, from_tf=True).save_pretrained(NEW)",
    "flax_model*.msgpack": "Flax weights; transformers 4 makes safetensors of them: "
    "AutoModel.from_pretrained(DIR, from_flax=True).save_pretrained(NEW)",
    "model.*.safetensors": f"a variant; rename it to {WEIGHTS}",
    "*.index": "a TensorFlow 1 checkpoint; tf1:PREFIX reads it",
    "model.pt": "fairseq's weights; fairseq:FILE reads them",
    "*.onnx": "an ONNX graph, which bertjax only writes; take the folder that it was made from",
    "*.gguf": "llama.cpp's weights; take the folder that they were made from",
    "*.xml": "OpenVINO's graph; take the folder that it was made from",
    "rust_model.ot": f"rust-bert's weights; take the {WEIGHTS} that they were made from",
}
# Files that are read here, by the tokenizer's reader or by `sentence_encoder`.
_READ = (
    CONFIG,
    "*.safetensors",
    INDEX,
    "pytorch_model*.bin",
    PICKLE_INDEX,
    *tokenizer_files.NAMES,
    "tokenizer*.json",
    "*.model",
    "modules.json",
    "sentence_*_config.json",
    "config_sentence_transformers.json",
    "[0-9]_*",
)
# Files that need no note: documents, repository files, other forms of the same weights.
_HARMLESS = (
    "README*",
    "LICENSE*",
    "NOTICE*",
    "*.md",
    ".git*",
    ".cache",
    "*.png",
    "*.jpg",
    "*.h5",
    "*.msgpack",
    "*.ot",
    "*.onnx",
    "*.gguf",
    "onnx",
    "openvino",
    "coreml",
    "data_config.json",
)


def refuse_other_folders(folder: Folder) -> None:
    """Raises DataError, with the fix, if a folder is not a complete Hugging Face model."""
    if folder.has(ADAPTER):
        raise DataError(
            f"{folder.root / ADAPTER}: a PEFT adapter changes what the weights compute; merge it "
            "(merge_and_unload) and save the whole model"
        )
    if folder.has(CONFIG):
        return
    for name, what in {
        "bert_config.json": "a TensorFlow 1 checkpoint; tf1:PREFIX reads it",
        "model.pt": "a fairseq checkpoint; fairseq:FILE reads it",
        "checkpoints": "a run of bertjax; name the folder without hf:",
    }.items():
        if folder.has(name):
            raise DataError(f"{folder.root}: no {CONFIG}, but {name}: {what}")


def tensors(folder: Folder, hints: Hints) -> Mapping[str, Tensor]:
    """The tensors of all weight files of the folder, not read yet.

    Raises:
      DataError: the folder has no weights that bertjax reads, or a file is damaged or leads out of
        the folder.
      UsageError: the weights are pickles, and pickles are not allowed.
    """

    def pickled(path: Path) -> dict[str, Tensor]:
        return torch_file.tensors(torch_file.load_torch_file(path, hints))

    for whole, index, load in (
        (WEIGHTS, INDEX, tensor_file.read),
        (PICKLE, PICKLE_INDEX, pickled),
    ):
        if folder.has(index):
            weight_map = folder.json(index).get("weight_map")
            if not isinstance(weight_map, dict):
                raise DataError(f"{folder.root / index}: has no weight_map")
            # Every name is checked before a file is opened.
            shards = [folder.file(name) for name in dict.fromkeys(weight_map.values())]
            found: dict[str, Tensor] = {}
            for shard in shards:
                found |= load(shard)
            return found
        if folder.has(whole):
            return load(folder.file(whole))
    others = [
        f"{name} is {what}"
        for pattern, what in _ELSEWHERE.items()
        for name in folder.names()
        if fnmatchcase(name, pattern)
    ]
    more = f"; {others[0]}" if others else ""
    raise DataError(f"{folder.root}: holds neither {WEIGHTS} nor {INDEX}{more}")


def strangers(folder: Folder) -> list[str]:
    """A note that lists the files that nothing here reads; [] if there are none."""
    return folder.unread((*_READ, *_HARMLESS))
