"""Captions: words that say which game is played, and other phrasings of them.

A caption names the game first, then says more after commas: "pong, two paddles and a ball, wide picture". In training a
clip gets one of many phrasings of its caption, so that a network learns what the words mean and not how a sentence goes
(re-captioning, as in arXiv 2310.00426 and OpenAI's DALL-E 3). Some phrasings are held out to test that.
"""

from collections.abc import Sequence

import numpy as np

from dreamrun.games.splitmix import splitmix64_hash

TEXT_HIDDEN = 0.1  # share of clips whose text is hidden in training
_TEXT_STREAM = np.uint64(0x70D5)  # of random numbers, apart from those of the noise
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
