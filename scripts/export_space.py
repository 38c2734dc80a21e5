"""Write a Hugging Face Space that plays a checkpoint: a folder that runs with `python app.py`, and upload it.

python -m scripts.export_space --checkpoint checkpoints/pong-pico --data samples/pong --out space
python -m scripts.export_space --checkpoint checkpoints/pong-pico --data samples/pong --out space --push user/name

The token for the upload comes from `hf auth login` or HF_TOKEN. It is no option, because shells save command lines.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dreamrun import cli
from dreamrun.data.index import held_out_split
from dreamrun.data.metadata import find_dataset, read_metadata
from dreamrun.export.hub import check_logged_in, upload_folder, write_space
from dreamrun.games.ranges import Range, check_ranges
from dreamrun.model import WorldModel
from dreamrun.model.game_views import check_model_fits_data, choose_game
from dreamrun.shipped import find_shipped


@dataclass(frozen=True)
class ExportSpaceConfig:
    """What to play, and where to write or upload it."""

    checkpoint: Path = Path("checkpoints/pong-pico")  # a checkpoint folder
    data: Path = Path("samples/pong")  # data set with the prompts; its held-out split is copied
    out: Path = Path("space")  # new or empty folder
    title: str = "Dreamrun"
    torch_index: str = ""  # URL of a package index with a CPU build of torch; none: the default build
    max_players: Annotated[int, Range(1, 64)] = 2  # who play at the same time; a free Space has two cores
    push: str | None = None  # user/name of the Space to upload to; created if it does not exist
    private: bool = False  # create a new Space as private

    def __post_init__(self):
        check_ranges(self)


def main(config: ExportSpaceConfig) -> None:
    """Check the checkpoint and the data set, write the folder, and upload it if asked to."""
    if config.push:
        check_logged_in()
    checkpoint = find_shipped(config.checkpoint, "checkpoints").resolve()  # `latest` is a link
    data = find_dataset(config.data)
    metadata = read_metadata(data)
    check_model_fits_data(choose_game(WorldModel.from_pretrained(checkpoint), "", metadata), metadata, data)
    if config.out.exists() and any(config.out.iterdir()):
        raise ValueError(f"{config.out} is not empty: give a new folder with --out")
    split = data / held_out_split(data)
    write_space(config.out, checkpoint, split, config.title, config.max_players, config.torch_index)
    print(f"wrote {config.out}: run it with `python app.py` in that folder")
    if config.push:
        message = f"Play {checkpoint.name}"
        print(f"uploaded to {upload_folder(config.out, config.push, message, config.private, space_sdk='gradio')}")


if __name__ == "__main__":
    cli.run(main, __doc__)
