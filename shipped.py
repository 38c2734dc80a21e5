"""The folder of a checkpoint or a data set: a path, a link, or the name of one that comes with the package."""

import re
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
    return shipped if not path.exists() and ".." not in path.parts and shipped.is_dir() else follow_link(path)


def follow_link(path: Path) -> Path:
    """The checkpoint that a run's `latest` or `best` leads to: links, or text files where links cannot be made.

    Returns:
        `path` itself if it is neither such a file nor a link that leads nowhere.
    """
    if path.is_symlink() and not path.exists():
        target = path.readlink()
    elif path.is_file() and path.stat().st_size < 100 and re.fullmatch(rb"step_\d+\s*", path.read_bytes()):
        target = Path(path.read_text().strip())
    else:
        return path
    if not (path.parent / target).is_dir():
        raise ValueError(f"{path} leads to {target}, which is not there: name another checkpoint in {path.parent}")
    return path.parent / target
