"""Write a static web site that plays a checkpoint in the browser, without a server, and upload it.

python -m scripts.export_web --checkpoint checkpoints/pong-pico --data samples/pong --out site
python -m scripts.export_web --checkpoint checkpoints/pong-pico --data samples/pong --out site --push user/name

The token for the upload comes from `hf auth login` or HF_TOKEN. It is no option, because shells save command lines.
"""

from dataclasses import dataclass
from pathlib import Path

from dreamrun import cli
from dreamrun.data.atomic import atomic_folder, check_output
from dreamrun.export.hub import check_logged_in, upload_folder
from dreamrun.export.onnx_graph import Weights
from dreamrun.export.runtime import find_runtime
from dreamrun.export.site import SiteEntry, is_site, keep_other_files, write_site
from dreamrun.shipped import find_shipped


@dataclass(frozen=True)
class ExportWebConfig:
    """What to play, and where to write or upload it."""

    # Checkpoint folders, or names of shipped ones. Several get a page that lists them.
    checkpoint: tuple[Path, ...] = (Path("checkpoints/pong-pico"),)
    data: tuple[Path, ...] = (Path("samples/pong"),)  # data set of each checkpoint, with the prompts
    out: Path = Path("site")  # new or empty folder, or an earlier site, whose files are replaced
    title: str = "Dreamrun"
    weights: Weights = "int8"  # of the networks; docs/benchmarks.md compares size, speed and quality
    runtime: Path | None = None  # a folder with the npm package onnxruntime-web; None: npm downloads it once
    push: str | None = None  # user/name of the static Space to upload to; created if it does not exist
    private: bool = False  # create a new Space as private

    def __post_init__(self):
        if len(self.checkpoint) != len(self.data) or not self.data:
            raise ValueError(f"{len(self.checkpoint)} checkpoints for {len(self.data)} data sets: name one for each")


def main(config: ExportWebConfig) -> None:
    """Write the site, and upload it if asked to."""
    if config.push:
        check_logged_in()
    check_output(config.out, is_folder=True)
    if config.out.exists() and any(config.out.iterdir()) and not is_site(config.out):
        raise ValueError(f"{config.out} is not empty and not a site: give a new folder with --out")
    # `latest` is a link; the page names the step.
    checkpoints = [find_shipped(checkpoint, "checkpoints").resolve() for checkpoint in config.checkpoint]
    games = [SiteEntry(checkpoint, data) for checkpoint, data in zip(checkpoints, config.data, strict=True)]
    if len({game.name for game in games}) < len(games):
        raise ValueError("two checkpoints have the same folder name: the site needs a name for each")
    runtime = find_runtime(config.runtime)
    with atomic_folder(config.out, replace=True) as folder:
        write_site(folder, games, config.title, config.weights, runtime)
        if config.out.exists():
            keep_other_files(config.out, folder)
    size = sum(path.stat().st_size for path in config.out.rglob("*") if path.is_file())
    print(f"{config.out}: {size / 1e6:.1f} MB. To try it: python3 -m http.server --directory {config.out}")
    if config.push:
        print(f"uploaded to {upload_folder(config.out, config.push, 'Play', config.private, space_sdk='static')}")


if __name__ == "__main__":
    cli.run(main, __doc__)
