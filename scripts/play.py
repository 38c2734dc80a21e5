"""Play a model in the browser, with the real game beside it if you want.

python -m scripts.play
python -m scripts.play --checkpoint runs/first/checkpoints/latest --data datasets/coinrun
python -m scripts.play --checkpoint runs/first --data datasets/coinrun --follow
"""

from dreamrun import cli
from dreamrun.play.launch import launch as main

if __name__ == "__main__":
    cli.run(main, __doc__)
