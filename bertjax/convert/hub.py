"""Models on the Hugging Face Hub, through `huggingface_hub` with its endpoint, login and cache."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from bertjax.convert import hf, hf_files, sentence_encoder
from bertjax.convert.folder import Folder
from bertjax.convert.pretrained import Hints, Pretrained
from bertjax.data import tokenizer_files
from bertjax.errors import BertjaxError, DataError, StorageError, UsageError, one_line
from bertjax.processes import terminal

# Files to download: no pickles, no code.
_WANTED = ["*.json", "*.txt", "*.bpe", "*.safetensors", "*.model"]
# Files in directories are not downloaded, so that none leads out of the cache. The directories that
# modules.json names are downloaded separately.
_UNWANTED = ["*/*", "*\\*"]
# Files to delete on a push: an earlier model's would be read instead of the pushed ones.
_REPLACED = {hf_files.INDEX, hf_files.ADAPTER, sentence_encoder.MODULES, sentence_encoder.PROMPTS}
_REPLACED |= {sentence_encoder.SETTINGS, f"{sentence_encoder.POOLING}/config.json"}
_REPLACED |= tokenizer_files.NAMES


def _open(name: str) -> tuple[ModuleType, str, str | None]:
    """The library, and the repository and revision (None: the default branch) of a name."""
    try:
        import huggingface_hub as library
        from huggingface_hub.utils import validate_repo_id
    except ImportError:
        raise UsageError(f"hub:{name}: needs pip install 'bertjax[hub]'") from None
    repository, at, revision = name.partition("@")
    with _failing_as(UsageError, name):
        validate_repo_id(repository)
    if at and (not revision or revision.startswith("/") or ".." in revision):  # git's rules
        raise UsageError(f"hub:{name}: {revision!r} is not a branch, tag or commit")
    return library, repository, revision or None


@contextlib.contextmanager
def _failing_as(kind: type[BertjaxError], name: str) -> Iterator[None]:
    """Raises the library's errors as `kind`, in one line; closes its progress bars first.

    Bars are drawn for a command only: a library call prints nothing.
    """
    from huggingface_hub import errors, utils

    before = set(utils.tqdm._instances)
    is_quiet = not terminal.is_shown() and not utils.are_progress_bars_disabled()
    if is_quiet:
        utils.disable_progress_bars()
    try:
        yield
    # HTTPError is the HTTP client's base class, not an OSError. ValueError: an invalid name or
    # answer. RuntimeError: an interrupted upload, with the reason as its cause.
    except (errors.HTTPError, OSError, ValueError, RuntimeError) as error:
        cause = error.__cause__ if type(error) is RuntimeError else None
        reason = one_line(error) + (f" {one_line(cause)}" if cause else "")
        raise kind(f"hub:{name}: {reason}") from None
    finally:
        if is_quiet:
            utils.enable_progress_bars()
        for bar in set(utils.tqdm._instances) - before:  # the library leaves some open
            bar.close()


def read(name: str, hints: Hints) -> Pretrained:
    """`OWNER/NAME[@REVISION]`, downloaded into the library's cache.

    Raises:
      UsageError: the name is invalid, or the library is not installed.
      DataError: no such model or revision, no access to it, no network; or as `hf.read`.
    """
    library, repository, revision = _open(name)

    def download(at: str | None, wanted: list[str], unwanted: list[str]) -> str:
        with _failing_as(DataError, name):
            return library.snapshot_download(
                repository, revision=at, allow_patterns=wanted, ignore_patterns=unwanted
            )

    folder = Path(download(revision, _WANTED, _UNWANTED))
    directories = sentence_encoder.directories(Folder(folder))
    if directories:
        wanted = [f"{inner}/{pattern}" for inner in directories for pattern in _WANTED]
        # No "*\\*": newer versions of the library read it as "*/*".
        deeper = [f"{inner}/*/*" for inner in directories]
        download(folder.name, wanted, [*deeper, "*..*"])  # of the same commit
    return hf.read(folder, hints)


def write(pretrained: Pretrained, name: str) -> list[str]:
    """Pushes the folder that `hf.write` makes as one commit; creates the repository if missing.

    Raises:
      UsageError: as `read`, or as `hf.write`.
      StorageError: the Hub refuses, or the network fails; the branch is unchanged.
    """
    library, repository, revision = _open(name)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        notes = hf.write(pretrained, folder)
        with _failing_as(StorageError, name):
            # `upload_folder` may make several commits, and between two the model is incomplete.
            api = library.HfApi()
            repository = api.create_repo(repository, exist_ok=True).repo_id  # now with its owner
            stale = _REPLACED & set(api.list_repo_files(repository, revision=revision))
            files = [path for path in folder.rglob("*") if path.is_file()]
            new = {path.relative_to(folder).as_posix(): path for path in files}
            changes = [library.CommitOperationDelete(name) for name in stale - new.keys()]
            changes += [library.CommitOperationAdd(name, path) for name, path in new.items()]
            message = f"Weights after {pretrained.step:,} updates, exported by bertjax"
            api.create_commit(repository, changes, commit_message=message, revision=revision)
    return notes
