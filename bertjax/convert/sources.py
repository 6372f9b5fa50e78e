"""Finds the source that a user means: the path may be a file in it, or the folder around it."""

import re
from pathlib import Path, PurePosixPath

from bertjax import storage
from bertjax.convert.folder import Folder
from bertjax.errors import DataError, UsageError

_TF1_FILE = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")


def place(form: str, path: Path) -> Path:
    """The source that `path` means: `path` itself, or the source inside or around it.

    Raises:
      DataError: a folder holds no checkpoint, or several and does not say which.
      UsageError: a path without a form is not a run's directory.
    """
    return {"tf1": _tf1, "hf": _hf, "fairseq": _fairseq, "orbax": _run}[form](path)


def _tf1(path: Path) -> Path:
    if not path.is_dir():
        return path.with_name(_TF1_FILE.sub("", path.name))
    prefixes = sorted(p.name.removesuffix(".index") for p in path.glob("*.index"))
    if len(prefixes) == 1:
        return path / prefixes[0]
    if (path / "checkpoint").exists():
        with Folder(path).file("checkpoint").open("rb") as file:
            text = file.read(4096).decode("utf-8", "replace")
        found = re.search(r'^model_checkpoint_path: "(.*)"', text, re.M)
        newest = (
            PurePosixPath(found[1]).name if found else None
        )  # the recorded folder may be another machine's
        if newest in prefixes:
            return path / newest
    raise DataError(_which(path, "tf1", prefixes, "a checkpoint (PREFIX.index)"))


def _hf(path: Path) -> Path:
    return path.parent if path.is_file() else path


def _fairseq(path: Path) -> Path:
    if not path.is_dir():
        return path
    files = sorted(p.name for p in path.glob("*.pt"))
    if "model.pt" in files or len(files) == 1:
        return path / ("model.pt" if "model.pt" in files else files[0])
    raise DataError(_which(path, "fairseq", files, "a model.pt"))


def _which(path: Path, form: str, names: list[str], what: str) -> str:
    if not names:
        return f"{path}: a folder without {what}"
    some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{path}: holds several checkpoints ({some}); name one: {form}:{path / names[-1]}"


def _run(path: Path) -> Path:
    for run in (path.parent, path.parent.parent):
        if "checkpoints" in (path.name, path.parent.name) and storage.is_file(run / "config.json"):
            if path.parent.name == "checkpoints":
                raise UsageError(f"{path}: is one step of a run; write {run} for the newest one")
            return run
    if storage.is_directory(path / "runs") and storage.is_file(path / "config.json"):
        from bertjax import workdir

        return workdir.best_run(path)  # a grid of fine-tunings
    if path.name == "config.json" and storage.is_directory(path.parent / "checkpoints"):
        return path.parent
    if storage.is_remote(path):
        return path
    other = _other_form(path)
    if other:
        raise UsageError(f"{path}: not a run's directory, but {other}")
    return path


def _other_form(path: Path) -> str | None:
    """What a path without a form is, and the URI to write; None if it may be a run."""
    folder = path if path.is_dir() else path.parent
    if path.is_dir() and (path / "checkpoints").is_dir():
        return None
    if path.with_name(f"{path.name}.index").is_file() or _TF1_FILE.search(path.name):
        return f"a TensorFlow checkpoint: write tf1:{_tf1(path)}"
    if path.is_file() and path.suffix == ".pt":
        return f"a PyTorch file: write fairseq:{path}, if fairseq made it"
    if path.is_dir() and (path / "bert_config.json").is_file():
        return f"a folder of google-research/bert: write tf1:{path}"
    weights = ("*.safetensors", "pytorch_model*.bin", "*.safetensors.index.json")
    is_here = path.is_dir() or path.is_file()
    if (
        is_here
        and (folder / "config.json").is_file()
        and any(file for pattern in weights for file in folder.glob(pattern))
    ):
        return f"a Hugging Face folder: write hf:{folder}"
    if not is_here and re.fullmatch(r"[\w.\-]+(/[\w.\-]+)?", str(path)):
        return "a path that does not exist; for the Hugging Face Hub, write hub:OWNER/NAME"
    return None
