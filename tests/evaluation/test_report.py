"""Blocks of a report as Markdown and as HTML, and bootstrap intervals."""

from html import unescape

import numpy as np
import pytest
from hostile_names import HOSTILE_NAMES
from markdown_it import MarkdownIt

from dreamrun.data.metrics import psnr_from_mse
from dreamrun.evaluation.report import to_html, to_markdown
from dreamrun.evaluation.section import Heading, Picture, Table, Text, format_estimate, format_percent, split_interval
from dreamrun.evaluation.statistics import estimate

ESTIMATE = {"value": 0.642, "low": 0.52, "high": None, "n": 3}
BLOCKS = [
    Heading("A <b> heading"),
    Text("5 < 6 & so on"),
    Table(["", "<i>"], [["PSNR", "24.6 dB [22.5, 27.5]"], ["real & rollout", "chance: 31 % [27, 36]; 3 states"]]),
    Table(["true", "left"], [["left", "27%"]], shades=[[0.5]]),
    Picture('a "quoted" caption', "data:image/webp;base64,AAAA", wide=True),
    Picture("a plot", "<svg><path/></svg>"),
]


def test_estimates_as_text():
    assert format_estimate(ESTIMATE, 2, " dB") == "0.64 dB [0.52, ∞]"
    assert format_percent(ESTIMATE) == "64 % [52, ∞]"
    assert format_estimate(None, 1) == "-"


def test_only_cells_that_are_an_estimate_are_split():
    assert split_interval("24.6 dB [22.5, 27.5]") == ("24.6 dB", "[22.5, 27.5]")
    for cell in ("31 % [27, 36]; 3 states", "real: 53 % [45, 60]; chance: 32 % [23, 42]", "left+jump", "-"):
        assert split_interval(cell) == (cell, "")


def test_html_escapes_text_and_keeps_plots():
    page = to_html("<title>", BLOCKS)
    assert page.count("<title>") == 1 and "<h1>&lt;title&gt;</h1>" in page
    assert "<h2>A &lt;b&gt; heading</h2>" in page and "<p>5 &lt; 6 &amp; so on</p>" in page
    assert "<th>&lt;i&gt;</th>" in page and "<td>real &amp; rollout</td>" in page
    assert '<td class="estimate">24.6 dB<small>[22.5, 27.5]</small></td>' in page
    assert '<td>left</td><td style="background:rgb(59 130 246 / 0.40)">27%</td>' in "".join(page.split("\n"))
    assert '<figure class="wide"><img src="data:image/webp;base64,AAAA" alt="a &#34;quoted&#34; caption">' in page
    assert '<figure class="plot"><svg><path/></svg><figcaption>a plot</figcaption></figure>' in page


def test_markdown_has_all_text_and_no_pictures():
    text = to_markdown("title", BLOCKS)
    assert text.startswith("# title\n\n## A \\<b> heading\n\n5 \\< 6 & so on\n\n|  | \\<i> |\n| --- | --- |\n")
    assert "| PSNR | 24.6 dB [22.5, 27.5] |" in text and "svg" not in text and "webp" not in text


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_from_files_are_text_in_both_reports(name):
    """Names of games, actions and options stand in titles, sentences, heads and cells."""
    blocks = [Heading(name), Text(f"Evaluated on {name}."), Table(["", name], [[name, "1"]]), Picture(name, "data:,")]
    page = to_html(name, blocks)
    rendered = MarkdownIt("commonmark").enable("table").render(to_markdown(name, blocks[:3]))
    for text, num_shown in ((page, 8), (rendered, 5)):
        assert unescape(text).count(name) == num_shown, text
        for tag in ("<script", "<img src=http", "<a ", "<b>", "<code", "<em", "<strong"):
            assert tag not in text
    assert page.count("<img") == rendered.count("<img") + 1 == 1 and 'alt="' in page


def test_control_characters_are_shown_in_both_reports():
    """Of a game whose name was not checked, or of an error message."""
    for text in (to_html("a", [Text("\x1b[31m\u202e")]), to_markdown("a", [Text("\x1b[31m\u202e")])):
        assert "\x1b" not in text and "\u202e" not in text and "x1b[31m" in text


def test_the_interval_covers_the_true_mean_as_often_as_it_should():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        figure = estimate(rng.normal(3.0, 2.0, 40))
        hits += figure["low"] <= 3.0 <= figure["high"]
        assert figure["low"] < figure["value"] < figure["high"] and figure["n"] == 40
    assert 0.88 < hits / 200 < 0.99


def test_estimates_without_units_without_error_and_of_ratios():
    assert estimate(np.array([np.nan, np.nan])) is None
    assert estimate(np.zeros(5), transform=psnr_from_mse) == {"value": None, "low": None, "high": None, "n": 5}
    assert estimate(np.array([1.0, np.nan, 5.0]))["value"] == 3.0
    ratio = estimate(np.array([1.0, 6.0, 0.0]), counts=np.array([2.0, 8.0, 0.0]))
    assert ratio["value"] == 0.7 and ratio["n"] == 2
