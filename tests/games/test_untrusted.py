"""Text of strangers in a terminal, and as Markdown."""

from html import escape

import pytest
from hostile_names import HOSTILE_NAMES
from markdown_it import MarkdownIt

from dreamrun.games.untrusted import check_name, markdown, printable

RENDERER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_markdown_shows_the_text_as_it_is(name):
    """In a sentence, in a heading and in a cell of a table."""
    shown = escape(check_name("a name", name)).replace("&#x27;", "'")
    assert RENDERER.render(f"The game is {markdown(name)}.") == f"<p>The game is {shown}.</p>\n"
    assert RENDERER.render(f"## of {markdown(name)}") == f"<h2>of {shown}</h2>\n"
    table = RENDERER.render(f"| a | b |\n| --- | --- |\n| {markdown(name)} | 1 |")
    assert table.count("<td>") == 2 and f"<td>{shown}</td>" in table
    for address in ("http://", "www."):  # GitHub makes links of bare addresses
        assert address not in markdown(name)


def test_control_characters_are_refused_as_names_and_shown_elsewhere():
    for character in "\x1b\n\r\t\0\x7f\x9b\u2028\u202e\ud800":
        with pytest.raises(ValueError, match="no control characters"):
            check_name("a name", f"a{character}b")
        assert character not in printable(f"a{character}b") and character not in markdown(f"a{character}b")
    assert printable("a\x1b[31mb\u202e\n\x9b") == r"a\x1b[31mb\u202e\n\x9b" and printable("äß漢 é") == "äß漢 é"
    assert RENDERER.render(markdown("a\n# b")) == "<p>a\\n# b</p>\n"
