"""How all pictures look, and how they are written."""

import io
from pathlib import Path
from typing import Any

from bertjax import storage
from bertjax.errors import StorageError

STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.edgecolor": "#9ca3af",
    "figure.titlesize": 13,
    "figure.titleweight": "bold",
    "grid.color": "#e5e7eb",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
}


def save(figure: Any, path: Path) -> None:
    """Writes a figure of matplotlib and closes it; the suffix decides the form, PNG without one.

    Raises:
      StorageError: the picture cannot be written.
    """
    from matplotlib import pyplot

    picture = io.BytesIO()
    try:
        figure.savefig(picture, dpi=120, format=path.suffix[1:] or "png")
        storage.write(path, picture.getvalue())
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        pyplot.close(figure)
