"""Captions: words that say which game is played, and other phrasings of them.

A caption names the game first, then says more after commas: "pong, two paddles and a ball, wide picture". In training a
clip gets one of many phrasings of its caption, so that a network learns what the words mean and not how a sentence goes
(re-captioning, as in arXiv 2310.00426 and OpenAI's DALL-E 3). Some phrasings are held out to test that.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dreamrun.games.splitmix import splitmix64_hash

TEXT_HIDDEN = 0.1  # share of clips whose text is hidden in training
_TEXT_STREAM = np.uint64(0x70D5)  # of random numbers, apart from those of the noise
# What is seen in a game, for those that `scripts.collect` knows.
GAME_WORDS = {
    "pong": "two paddles and a ball",
    "bigfish": "a fish that eats smaller fish",
    "bossfight": "a spaceship that fights a boss",
    "caveflyer": "a spaceship that flies through caves",
    "chaser": "a collector of orbs who is chased",
    "climber": "a climber who jumps from ledge to ledge",
    "coinrun": "a runner who jumps to a coin",
    "dodgeball": "a thrower of balls in a room of enemies",
    "fruitbot": "a robot that picks fruit",
    "heist": "a thief who looks for keys in a maze",
    "jumper": "a bunny that jumps to a carrot",
    "leaper": "a frog that crosses a road and a river",
    "maze": "a mouse that looks for cheese in a maze",
    "miner": "a miner who digs for diamonds",
    "ninja": "a ninja who jumps between ledges",
    "plunder": "a ship that fires at pirates",
    "starpilot": "a spaceship that shoots from the side",
}
# {name} is the caption up to its first comma, {first} what follows up to the next one, {rest} all that follows.
# Captions without a comma get the phrasings that need a name alone.
PHRASINGS = (
    "{name}, {rest}",
    "{name}",
    "{rest}",
    "{first}",
    "{name}: {first}",
    "the game {name}",
    "play {name}",
    "{name} with {first}",
    "{rest} in {name}",
    "a video of {name}",
    "show me {first}",
    "a game of {name}, {rest}",
    "{first}, this is {name}",
    "someone plays {name}",
)
HELD_OUT_PHRASINGS = (
    "I want to see {name} now",
    "let us have some {name}, please",
    "a dream about {first}",
    "frames from {name} where there is {rest}",
    "what does {first} look like?",
)


def game_caption(environment: str, options: Mapping[str, Any]) -> str:
    """The caption of a game that was collected with these options of `make_environment`."""
    details = [GAME_WORDS.get(environment, "")]
    if "distribution_mode" in options:
        details.append(f"{options['distribution_mode']} levels")
    if options.get("simple"):
        details.append("simple graphics")
    if options.get("size"):
        width, height = map(int, str(options["size"]).lower().split("x"))
        details.append("wide picture" if width > height else "tall picture" if width < height else "")
    name = environment.removeprefix("gym:").removeprefix("ale:")
    return ", ".join(filter(None, (name, *details)))


def phrasings(caption: str, held_out: bool = False) -> list[str]:
    """All phrasings of a caption: those for training, or those that are held out. A caption of no words has none."""
    if not caption:
        return []
    name, *details = [part.strip() for part in caption.split(",")]
    templates = HELD_OUT_PHRASINGS if held_out else PHRASINGS
    if not details:
        templates = tuple(template for template in templates if not ("{first}" in template or "{rest}" in template))
    first, rest = (details[0], ", ".join(details)) if details else ("", "")
    return [template.format(name=name, first=first, rest=rest) for template in templates]


def draw_phrasings(captions: Sequence[str], seeds: np.ndarray) -> list[str]:
    """What a network in training is told of clips: a phrasing of each caption, or nothing for a share of the clips.

    Args:
        captions: (B,).
        seeds: uint64 (B,), of the clips: each decides on its own text.
    """
    texts = []
    for caption, number in zip(captions, splitmix64_hash(seeds ^ _TEXT_STREAM).tolist(), strict=True):
        choices = phrasings(caption)
        is_hidden = not choices or (number >> 32) / 2**32 < TEXT_HIDDEN
        texts.append("" if is_hidden else choices[(number & 0xFFFFFFFF) % len(choices)])
    return texts
