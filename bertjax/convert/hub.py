"""Folders of the Hugging Face Hub, pulled and pushed by `huggingface_hub` (the extra `hub`)."""

import tempfile
from pathlib import Path

from bertjax.convert import hf
from bertjax.convert.pretrained import Hints, Pretrained
from bertjax.errors import DataError, StorageError, UsageError

# What a model needs; no pickles, no code.
_PATTERNS = ["*.json", "*.txt", "*.safetensors", "*.model"]


def _library():
    try:
        import huggingface_hub
    except ImportError:
        raise UsageError("hub: needs huggingface_hub; pip install 'bertjax[hub]'") from None
    return huggingface_hub


def read(name: str, hints: Hints) -> Pretrained:
    """`OWNER/NAME[@REVISION]`, downloaded into the library's cache.

    Raises:
      DataError: no such model, or no access to it (the library's own log-in is used).
    """
    library = _library()
    repository, _, revision = name.partition("@")
    try:
        folder = library.snapshot_download(
            repository, revision=revision or None, allow_patterns=_PATTERNS
        )
    except (library.errors.HfHubHTTPError, library.errors.HFValidationError, OSError) as error:
        raise DataError(f"hub:{name}: {_first_line(error)}") from None
    return hf.read(Path(folder), hints)


def write(pretrained: Pretrained, name: str) -> list[str]:
    """Pushes the folder that `hf.write` makes, as one commit; the repository is made if missing.

    Raises:
      StorageError: the Hub refuses.
    """
    library = _library()
    repository, _, revision = name.partition("@")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        notes = hf.write(pretrained, folder)
        try:
            api = library.HfApi()
            api.create_repo(repository, exist_ok=True)
            api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                revision=revision or None,
                commit_message=f"Weights after {pretrained.step:,} updates, exported by bertjax",
            )
        except (library.errors.HfHubHTTPError, library.errors.HFValidationError) as error:
            raise StorageError(f"hub:{name}: {_first_line(error)}") from None
    return notes


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
