"""report.json, and the same figures for people: report.html, one file, and report.md."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.atomic import atomic_file
from evaluation.cost import pace
from training.plots import Line, line_plot

SHOWN_FRAMES = (1, 2, 4, 8, 16, 32, 64)
ROWS = {
    "dream": "dream",
    "repeat_prompt": "repeat the prompt's last frame",
    "other_actions": "dream, another clip's actions",
}
FUTURES = (
    "From one real moment the game is played on under each of several held actions, its state being saved and "
    "restored; and the dream goes on from the same real frames under each. A dream obeys if, at that frame, it is "
    "nearer (squared error) to the true future of its own action than to every other; a tie is no success. Futures "
    "that are the same there count as one. Chance is the mean of 1 / number of distinct futures: what any dreamer "
    "reaches that is blind to actions."
)
READER = (
    "A small network, trained on real play alone, names the keys held from the last four frames. Real video of other "
    "levels and the dream under the same actions are read frame for frame. Where keys do nothing (a jump in the air) "
    "no reader can tell: what it reaches on real video is the most that a dream can be expected to. Of buttons "
    "that may be held together it names which are held, among the combinations held most often, whatever a mouse does; "
    "where there are axes alone, which way they are pushed."
)


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Table:
    head: list[str]
    rows: list[list[str]]
    shades: list[list[float]] | None = None  # 0 to 1, of each cell but the first of a row


@dataclass(frozen=True)
class Picture:
    """For the page only."""

    title: str
    source: str  # a data URI, or an <svg>
    wide: bool = False


Block = Heading | Text | Table | Picture


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Three files, each under its name only once it is whole."""
    blocks = list(report_blocks(report))
    title = f"{report['checkpoint']['name']}: a dream of {report['data']['environment']}, measured"
    figures = {name: section for name, section in report.items() if name != "pictures"}
    for name, text in (
        ("report.json", json.dumps(figures, indent=1, allow_nan=False) + "\n"),
        ("report.html", to_html(title, blocks)),
        ("report.md", to_markdown(title, blocks)),
    ):
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text)


def summary(report: dict[str, Any]) -> str:
    """The headline figures, a line each."""
    return "\n".join(f"  {row[0]:48s} {row[1]:>24s}   {row[2]}" for row in _headlines(report))


def report_blocks(report: dict[str, Any]) -> Iterator[Block]:
    """The report from top to bottom."""
    checkpoint, data, settings = (report[name] for name in ("checkpoint", "data", "settings"))
    options = ", ".join(f"{name} {value}" for name, value in data["environment_options"].items())
    yield Text(
        f"Checkpoint {checkpoint['name']} (weights {checkpoint['weights_sha256'][:12]}), "
        f"{checkpoint['parameters'] / 1e6:.2f} M parameters. Judged by {data['environment']}"
        f"{f' ({options})' if options else ''}, {data['split']} split of {data['folder']}, held out of training. "
        f"{settings['num_prompt_frames']} prompt frames, {settings['num_steps']} denoising steps, guidance "
        f"{settings['guidance']:g}, context noise {settings['context_noise']:g}, seed {settings['seed']}"
        f"{', quick' if settings['quick'] else ''}. In brackets: 95 % intervals, by bootstrap over "
        "clips, moments or dreams, whose number n is stated."
    )
    yield Heading("At a glance")
    yield Table(["", "the dream", "beside it"], _headlines(report))
    for title, name, blocks in _SECTIONS:
        yield Heading(title)
        if "not_measured" in report[name]:
            yield Text(f"Not measured: {report[name]['not_measured'].rstrip('.')}.")
        else:
            yield from blocks(report)


def _headlines(report: dict[str, Any]) -> list[list[str]]:
    rows = []
    fidelity, futures = report["fidelity"], report["counterfactuals"]
    if "dream" in fidelity:
        for frame in (1, 8, 16):
            if frame <= len(fidelity["dream"]["psnr"]):
                own, repeated = (fidelity[name]["psnr"][frame - 1] for name in ("dream", "repeat_prompt"))
                rows.append([f"PSNR at frame {frame}", _show(own, 1, " dB"), f"repeating: {_show(repeated, 1, ' dB')}"])
    if "by_frame" in futures:
        for row in futures["by_frame"]:
            if row["frame"] in (1, 8, 32) and row["controllability"]:
                text = f"chance: {_percent(row['chance'])}; {row['controllability']['n']} moments"
                rows.append([f"Controllability at frame {row['frame']}", _percent(row["controllability"]), text])
    if report["single_step"].get("action_ratio"):
        rows.append(["Loss under wrong actions", _show(report["single_step"]["action_ratio"], 2, " times"), "blind: 1"])
    reader = report["inverse_dynamics"]
    if "real" in reader:
        text = f"real video: {_percent(reader['real']['accuracy'])}; always the same: {_percent(reader['chance'])}"
        rows.append(["Keys read off the dream", _percent(reader["dream"]["accuracy"]), text])
    if "collapsed" in report["drift"]:
        frames, share = report["settings"]["drift_frames"], report["drift"]["collapsed"]
        rows.append([f"Collapsed after {frames} frames", _percent(share), f"{share['n']} dreams"])
    milliseconds = report["timings"]["frame_ms"][pace(report["settings"])]
    cost = f"{report['cost']['gflop_per_frame']:.1f} GFLOP a frame; {_device(report)}"
    rows.append(["Speed, one dream", f"{1000 / milliseconds:.1f} frames/s", cost])
    return rows


def _fidelity(report: dict) -> Iterator[Block]:
    section, shown = report["fidelity"], report["pictures"].get("shown", {})
    names = [name for name in ROWS if name in section]
    for metric, title, digits in (("psnr", "PSNR in dB", 1), ("ssim", "SSIM", 3)):
        length = len(section["dream"][metric])
        frames = [frame for frame in SHOWN_FRAMES if frame <= length]
        rows = [[ROWS[name], *(_show(section[name][metric][f - 1], digits) for f in frames)] for name in names]
        counts = ["n", *(str(section["dream"][metric][f - 1]["n"]) for f in frames)]
        yield Table([f"{title}, dreamt frame", *map(str, frames)], [*rows, counts])
        lines = [Line(ROWS[name], list(range(1, length + 1)), section[name][metric]) for name in names]
        yield Picture(f"{title} by frame", line_plot(title, "dreamt frame", lines))
    for name, case in section["cases"].items():
        if name in shown:
            psnr = "identical" if case["psnr"] is None else f"{case['psnr']:.1f} dB at frame {case['frame']}"
            yield Picture(f"{name} clip ({psnr}): truth, dream, difference", shown[name], wide=True)


def _single_step(report: dict) -> Iterator[Block]:
    section = report["single_step"]
    yield Text(
        "As training logs them: every frame of a clip is noised to a random level of its own and looks back at nearly "
        "clean ones; one run of the network."
    )
    names = {"loss": "loss", "psnr": "PSNR (dB)", "ssim": "SSIM", "action_ratio": "loss, wrong / true actions"}
    measured = {name: value for name, value in section.items() if value}
    yield Table(
        [*(names[name] for name in measured), "n"],
        [[*(_show(value, 4 if name == "loss" else 3) for name, value in measured.items()), str(section["loss"]["n"])]],
    )


def _counterfactuals(report: dict) -> Iterator[Block]:
    section = report["counterfactuals"]
    yield Text(f"{FUTURES} Actions: {', '.join(section['actions'])}.")
    rows = [row for row in section["by_frame"] if row["controllability"]]
    table = [
        ["controllability", *(_percent(row["controllability"]) for row in rows)],
        ["chance", *(_percent(row["chance"]) for row in rows)],
        ["above chance, moment by moment", *(_percent(row["above_chance"]) for row in rows)],
        ["n moments", *(str(row["controllability"]["n"]) for row in rows)],
    ]
    yield Table(["frame", *(str(row["frame"]) for row in rows)], table)
    frames = [row["frame"] for row in rows]
    lines = [Line(name, frames, [row[name] for row in rows]) for name in ("controllability", "chance")]
    yield Picture("Controllability by frame", line_plot("controllability", "frame after the moment", lines, top=1.0))
    if "futures" in report["pictures"].get("shown", {}):
        yield Picture("One moment: true futures above, dreams below", report["pictures"]["shown"]["futures"], wide=True)


def _inverse_dynamics(report: dict) -> Iterator[Block]:
    section = report["inverse_dynamics"]
    yield Text(READER)
    row = [_percent(section[name]["accuracy"]) for name in ("real", "dream")]
    counts = [str(section["real"]["num_frames"]), str(section["real"]["accuracy"]["n"])]
    head = ["right on real video", "right on the dream", f"always {section['majority']}", "frames", "n clips"]
    yield Table(head, [[*row, _percent(section["chance"]), *counts]])
    for name, title in (("real", "real video: held"), ("dream", "dream: held")):
        shares = [[count / max(1, sum(line)) for count in line] for line in section[name]["confusion"]]
        rows = [
            [group, *(f"{share:.0%}" for share in line)] for group, line in zip(section["groups"], shares, strict=True)
        ]
        yield Table([f"{title} \\ named", *section["groups"]], rows, shares)


def _drift(report: dict) -> Iterator[Block]:
    section, pictures = report["drift"], report["pictures"]
    frames, n = report["settings"]["drift_frames"], section["collapsed"]["n"]
    yield Text(
        f"{n} dreams of {frames} frames, under actions drawn as often as real play takes them and held for six frames "
        f"on average. {section['definition']} By that rule {section['real']['collapsed']:.1%} of "
        f"{section['real']['windows']} real windows count as collapsed. The distance is to the nearest of 4 000 real "
        "training frames, in colours and edges of an 8 x 8 grid."
    )
    how = {"collapsed": section["collapsed"], **section["collapsed_how"]}
    yield Table([*how, "n dreams"], [[*(_percent(value) for value in how.values()), str(n)]])
    ends = [(i + 1) * section["window_frames"] for i in range(len(section["collapsed_by_window"]))]
    few = sorted({0, len(ends) // 4, len(ends) // 2, len(ends) - 1})
    rows = [
        [name, *(_show(series[i], 2) for i in few), f"{real['low']:.2f} to {real['high']:.2f}"]
        for name, series in section["statistics"].items()
        for real in [{part: section["real"][part][name] for part in ("low", "high")}]
    ]
    yield Table(["two seconds up to frame", *(str(ends[i]) for i in few), "98 % of real play"], rows)
    for name in ("sharpness", "distance"):
        level = ("real play, median", section["real"]["median"][name])
        line = Line("dream", ends, section["statistics"][name])
        yield Picture(f"{name} over time", line_plot(name, "dreamt frame", [line], level))
    yield Picture(
        "Collapsed over time",
        line_plot("share collapsed", "dreamt frame", [Line("dream", ends, section["collapsed_by_window"])], top=1.0),
    )
    if "shown" in pictures:
        moments = ", ".join(map(str, pictures["drift_moments"]))
        yield Picture(f"Long dreams, a row each, at frames {moments}", pictures["shown"]["long dreams"], wide=True)


def _sweep(report: dict) -> Iterator[Block]:
    rows, frame_ms = report["sweep"], report["timings"]["frame_ms"]
    names = [name for name in rows[0] if name.startswith(("psnr", "ssim", "controllability"))]
    head = [name.replace("_", " at ").replace("psnr", "PSNR").replace("ssim", "SSIM") for name in names]
    table = []
    for row in rows:
        shown = [
            _percent(row[name]) if "obed" in name else _show(row[name], 3 if "ssim" in name else 1) for name in names
        ]
        settings = [f"{row[name]:g}" for name in ("num_steps", "guidance", "context_noise")]
        table.append([*settings, f"{row['gflop_per_frame']:.1f}", f"{1000 / frame_ms[pace(row)]:.1f}", *shown])
    yield Text(
        f"On {rows[0][names[0]]['n']} clips. Speed is that of one dream at a full window on this machine "
        f"({_device(report)})."
    )
    yield Table(["steps", "guidance", "context noise", "GFLOP a frame", "frames/s", *head], table)


_SECTIONS: list[tuple[str, str, Callable[[dict], Iterator[Block]]]] = [
    ("Fidelity by horizon", "fidelity", _fidelity),
    ("Counterfactuals: does it obey?", "counterfactuals", _counterfactuals),
    ("Keys read off the picture", "inverse_dynamics", _inverse_dynamics),
    ("Drift", "drift", _drift),
    ("Quality and cost", "sweep", _sweep),
    ("A single step", "single_step", _single_step),
    ("Perceptual distances", "perceptual", lambda report: iter(())),
]


def _device(report: dict) -> str:
    return report["timings"]["device"].split(" (")[0]  # without what is said of it


def _show(estimate: dict | None, digits: int, unit: str = "", factor: float = 1.0) -> str:
    if estimate is None:
        return "-"
    value, low, high = (
        "∞" if estimate[part] is None else f"{factor * estimate[part]:.{digits}f}" for part in ("value", "low", "high")
    )
    return f"{value}{unit} [{low}, {high}]"


def _percent(estimate: dict | None) -> str:
    return _show(estimate, 0, " %", 100.0)


def to_markdown(title: str, blocks: list[Block]) -> str:
    """Everything but the pictures."""
    parts = [f"# {title}"]
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"## {block.text}")
        elif isinstance(block, Text):
            parts.append(block.text)
        elif isinstance(block, Table):
            rows = [block.head, ["---"] * len(block.head), *block.rows]
            parts.append("\n".join("| " + " | ".join(row) + " |" for row in rows))
    return "\n\n".join(parts) + "\n"


def to_html(title: str, blocks: list[Block]) -> str:
    """One file that needs no other."""
    body = "\n".join(_html(block) for block in blocks)
    return _PAGE.replace("TITLE", html.escape(title)).replace("BODY", body)


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h2>{html.escape(block.text)}</h2>"
    if isinstance(block, Text):
        return f"<p>{html.escape(block.text)}</p>"
    if isinstance(block, Table):
        return _html_table(block)
    picture = block.source
    if not picture.startswith("<svg"):
        picture = f'<img src="{picture}" alt="{html.escape(block.title)}">'
    kind = "wide" if block.wide else "plot"
    return f'<figure class="{kind}">{picture}<figcaption>{html.escape(block.title)}</figcaption></figure>'


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.head)
    rows = []
    for number, row in enumerate(table.rows):
        cells = []
        for column, cell in enumerate(row):
            # The interval is small print, on a line of its own.
            text, is_estimate = re.subn(r"^([^\[]+) (\[[^\]]+\])$", r"\1<small>\2</small>", html.escape(cell))
            kind = ' class="estimate"' if is_estimate else ""
            if table.shades and column:
                kind = f' style="background:rgb(59 130 246 / {0.8 * table.shades[number][column - 1]:.2f})"'
            cells.append(f"<td{kind}>{text}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>TITLE</title>
<style>
:root { color-scheme: light dark; --ink: #1f2328; --paper: #fff; --line: #d9dde2; --quiet: #67707b; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ea; --paper: #14171a; --line: #33393f; --quiet: #98a1ab; }
}
body { margin: 0 auto; padding: 1rem; max-width: 60rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.7rem; border-bottom: 1px solid var(--line); text-align: right; }
th { font-weight: 600; } th:first-child, td:first-child { text-align: left; }
.estimate { white-space: nowrap; } small { display: block; color: var(--quiet); }
figure { display: inline-block; margin: 0.5rem 0; vertical-align: top; width: 100%; }
figure.plot { max-width: 29rem; } figure.wide img { image-rendering: pixelated; width: 100%; max-width: 48rem; }
figcaption { font-size: 0.85rem; color: var(--quiet); } svg { max-width: 100%; height: auto; }
</style>
</head>
<body>
<h1>TITLE</h1>
BODY
</body>
</html>
"""
