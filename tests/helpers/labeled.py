"""Fine-tuning configs for tests of the readers, and the places of real labeled data."""

import dataclasses
import os
from pathlib import Path

import pytest

from bertjax.config import Config
from bertjax.finetune.readers import sources


def config(files=None, name=None, *, label_names=(), heldout=0.0, tfds=None, tfds_dir=None, **task):
    """A config that reads `files`, or the dataset `tfds`; `task` are fields of `config.task`."""
    whole = Config()
    data = dataclasses.replace(
        whole.data,
        source="tfds" if tfds else "files",
        files=None if files is None else str(files),
        tfds_name=tfds,
        tfds_data_dir=None if tfds_dir is None else str(tfds_dir),
        heldout_fraction=heldout,
    )
    columns = dataclasses.replace(whole.task, name=name, **task)
    whole = dataclasses.replace(whole, data=data, task=columns)
    return whole.with_model(label_names=label_names)


def read(*args, **fields):
    return sources.read(config(*args, **fields))


def real_data(*names):
    """A folder of published data; skips the test without one."""
    if "BERTJAX_TEST_DATA" not in os.environ:
        pytest.skip("BERTJAX_TEST_DATA is unset: no published labeled data here")
    return Path(os.environ["BERTJAX_TEST_DATA"]).joinpath(*names)


def write(folder, **contents):
    """Writes text files to a folder: `train_tsv=` writes train.tsv."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        stem, _, suffix = name.rpartition("_")
        (folder / f"{stem}.{suffix}").write_bytes(text.encode())
    return folder


def write_parquet(path, columns, classes=None):
    """Writes a parquet file; `classes` names label numbers the way Hugging Face `datasets` does."""
    import json

    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(columns)
    if classes:
        features = {name: {"dtype": "string", "_type": "Value"} for name in columns}
        features["label"] = {"names": list(classes), "_type": "ClassLabel"}
        found = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": found})
    parquet.write_table(table, path)
    return path
