"""Write a report: report.json, and the same figures for people as report.html (one file) and report.md."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dreamrun.data.atomic import write_text
from dreamrun.evaluation.section import Block, Heading, Table, Text, split_interval
from dreamrun.evaluation.sections import SECTIONS
from dreamrun.games.untrusted import markdown, printable

REPORT_FILES = ("report.json", "report.html", "report.md")
TEMPLATES = Path(__file__).parent / "templates"
GLOSSARY = (
    "A rollout (a dream) is the world model's continuation of a few real frames, the prompt. PSNR (peak "
    "signal-to-noise ratio, in dB) measures the squared error between real and generated frames; higher is better. "
    "SSIM (structural similarity) compares their local brightness, contrast and structure; 1 means identical. "
    "Controllability (counterfactual action accuracy) is the share of futures in which the rollout follows its own "
    "action. Inverse dynamics accuracy is how often a small network predicts the right action from the frames. Drift "
    "is how rollouts change over a long time; a rollout has collapsed when it no longer looks or moves like real "
    "play."
)


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write the three files of a report, each atomically."""
    blocks = list(report_blocks(report))
    title = f"{report['checkpoint']['name']}: evaluation on {report['data']['environment']}"
    figures = {name: section for name, section in report.items() if name != "pictures"}
    figures = json.dumps(figures, indent=1, allow_nan=False) + "\n"
    for name, text in zip(REPORT_FILES, (figures, to_html(title, blocks), to_markdown(title, blocks)), strict=True):
        write_text(folder / name, text)


def summary(report: dict[str, Any]) -> str:
    """The most important figures as text, a line each."""
    return "\n".join(f"  {name:48s} {figure:>24s}   {reference}" for name, figure, reference in headline_rows(report))


def report_blocks(report: dict[str, Any]) -> Iterator[Block]:
    """The report from top to bottom."""
    yield Text(_introduction(report))
    yield Heading("At a glance")
    yield Text(GLOSSARY)
    yield Table(["", "world model", "compared with"], headline_rows(report))
    for section in SECTIONS:
        if not section.heading:
            continue
        yield Heading(section.heading)
        if "not_measured" in report[section.name]:
            yield Text(f"Not measured: {report[section.name]['not_measured'].rstrip('.')}.")
        else:
            yield from section.blocks(report)


def headline_rows(report: dict[str, Any]) -> list[list[str]]:
    """The most important figures: name, figure of the world model, what to compare it with."""
    measured = [section for section in SECTIONS if "not_measured" not in report.get(section.name, {})]
    return [row for section in measured for row in section.headlines(report)]


def _introduction(report: dict[str, Any]) -> str:
    checkpoint, data, settings = (report[name] for name in ("checkpoint", "data", "settings"))
    options = ", ".join(f"{name} {value}" for name, value in data["environment_options"].items())
    game = f"{data['environment']} ({options})" if options else data["environment"]
    return (
        f"Checkpoint {checkpoint['name']} (weights {checkpoint['weights_sha256'][:12]}), "
        f"{checkpoint['parameters'] / 1e6:.2f} M parameters. Evaluated on {game}, {data['split']} split of "
        f"{data['folder']}, which training did not use. {settings['num_prompt_frames']} prompt frames, "
        f"{settings['num_steps']} denoising steps, guidance {settings['guidance']:g}, context noise "
        f"{settings['context_noise']:g}, seed {settings['seed']}{', quick' if settings['quick'] else ''}. Brackets "
        "hold 95 % bootstrap intervals over clips, game states or rollouts, whose number is n."
    )


def to_markdown(title: str, blocks: list[Block]) -> str:
    """The report as Markdown, without pictures. Names from files of others show as they are."""
    parts = [f"# {markdown(title)}"]
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"## {markdown(block.text)}")
        elif isinstance(block, Text):
            parts.append(markdown(block.text))
        elif isinstance(block, Table):
            parts.append(markdown_table(block))
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """The table in Markdown, a line a row."""
    head, *rows = ([markdown(cell) for cell in row] for row in (table.head, *table.rows))
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def to_html(title: str, blocks: list[Block]) -> str:
    """The report as one HTML file that loads no other file."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(value),
    )
    environment.filters["split_interval"] = split_interval
    return environment.get_template("report.html").render(title=title, blocks=blocks)
