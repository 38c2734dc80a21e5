"""The checkpoints and samples that come with the package, found by name from any folder."""

from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent  # of the package: a clone of the repository, or a folder in site-packages


def find_shipped(name: str | Path, kind: Literal["checkpoints", "samples"]) -> Path:
    """The path of a checkpoint or a data set: a local one if there is one, else that which comes with the package.

    Args:
        name: a path, such as `runs/first/checkpoints/latest`, or the name of a shipped one, with or without its folder:
            `coinrun-nano` or `checkpoints/coinrun-nano`, `pong` or `samples/pong`.

    Returns:
        `name` itself if there is nothing of that name in either place.
    """
    path = Path(name)
    shipped = ROOT / (path if path.parts[:1] == (kind,) else kind / path)
    return shipped if not path.exists() and ".." not in path.parts and shipped.is_dir() else path
