"""Texts of the page that hold names from files: Gradio shows them as Markdown."""

from html import escape
from types import SimpleNamespace

import pytest
from hostile_names import HOSTILE_NAMES
from markdown_it import MarkdownIt

from dreamrun.play.ui import _allow_real_game, _describe


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_from_files_are_text_on_the_page(name):
    started = SimpleNamespace(
        seed=1, num_steps=2, guidance=1, prompt_frames=3, record=4, moment=5, key_hint=f"Hold {name}.",
        why_no_real_game=f"unknown environment {name}: choose pong",
    )  # fmt: skip
    shown = escape(name).replace("&#x27;", "'")
    for text in (_describe(started), _allow_real_game(started).info):
        rendered = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)
        assert shown in rendered and rendered.count("<") == 2  # of the paragraph
        assert "http://" not in text and "www." not in text


def test_the_real_game_can_be_switched_on_where_there_is_one():
    assert _allow_real_game(SimpleNamespace(why_no_real_game=None)).interactive
