"""Metadata and extras; tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="bertjax",
    version="0.1.0",
    description="Pretrain BERT, RoBERTa and DistilBERT in JAX, TPU first",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["bertjax", "bertjax.*"]),
    entry_points={"console_scripts": ["bertjax=bertjax.__main__:main"]},
    install_requires=[
        "absl-py>=2.1",
        "flax>=0.12.8",
        "grain>=0.2.18",
        "jax>=0.10",
        "matplotlib>=3.9",
        "ml-collections>=1.0",
        "numba>=0.62",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "pyarrow>=17",
        "rich>=13",
        "sentencepiece>=0.2",
        "sentencex>=1.0",
        "tensorboardX>=2.6",
        "tensorflow-datasets>=4.9.10",  # works, and here is tested, without TensorFlow
        "tokenizers>=0.21",
    ],
    extras_require={
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda12]"],
        "test": ["hypothesis>=6", "psutil>=6", "pytest>=8", "ruff>=0.9"],
        # The other side of benchmarks/step_time.py.
        "benchmark": ["torch>=2.10", "transformers>=5"],
    },
)
