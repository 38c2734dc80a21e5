"""Edit clips: known frames stay as they are, and the model generates the others, with all of them in sight.

python -m scripts.edit extend samples/pong:0:40-48 --backward 8
python -m scripts.edit extend mine.mp4 --forward 32 --actions up,up,noop
python -m scripts.edit between samples/pong:0:40-73 --factor 2
python -m scripts.edit join samples/pong:0:30-46 samples/pong:1:50-66 --frames 8
python -m scripts.edit loop samples/pong:0:40-56 --frames 64 --output loop.gif
python -m scripts.edit restyle samples/pong:0:40-56 --strength 0.8 --actions down
python -m scripts.edit image --num-images 8

A clip is PATH:RECORD:START-END of a data set, or PATH:START-END of a video or picture; the numbers may be left out.
The video (mp4 or gif) frames known frames in yellow.
"""

from dreamrun import cli
from dreamrun.editing.command import EditConfig, edit


def main(config: EditConfig) -> None:
    """Make the video, and print what can be measured of it."""
    edit(config)


if __name__ == "__main__":
    cli.run(main, __doc__)
