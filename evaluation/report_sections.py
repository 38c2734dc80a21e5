"""The sections of a report: their words, tables and plots."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from dreamrun.data.plots import Line, line_plot
from dreamrun.evaluation.cost import speed_key
from dreamrun.evaluation.report_blocks import Block, Picture, Table, Text, format_estimate, format_percent

SHOWN_FRAMES = (1, 2, 4, 8, 16, 32, 64)
FIDELITY_ROWS = {
    "dream": "rollout",
    "repeat_prompt": "baseline: repeat the last prompt frame",
    "other_actions": "rollout under another clip's actions",
}
GLOSSARY = (
    "A rollout (a dream) is the world model's continuation of a few real frames, the prompt. PSNR (peak "
    "signal-to-noise ratio, in dB) measures the squared error between real and generated frames; higher is better. "
    "SSIM (structural similarity) compares their local brightness, contrast and structure; 1 means identical. "
    "Controllability (counterfactual action accuracy) is the share of futures in which the rollout follows its own "
    "action. Inverse dynamics accuracy is how often a small network predicts the right action from the frames. Drift "
    "is how rollouts change over a long time; a rollout has collapsed when it no longer looks or moves like real "
    "play."
)
FIDELITY = (
    "Rollouts of held-out clips under the clips' own actions, compared with what really happened. Two baselines show "
    "what the model and its actions contribute: repeating the last prompt frame, and rollouts under another clip's "
    "actions. PSNR follows from the squared error pooled over all clips."
)
CONTROLLABILITY = (
    "The state of the real game is saved, and the game continues from it under each of several held actions. The world "
    "model continues the same real frames under the same actions. A rollout is correct at a frame if its squared error "
    "to the true future of its own action is smaller than to every other future; a tie is wrong. Futures that are "
    "identical at that frame count as one. Chance is the mean of 1 / number of distinct futures; a model that ignores "
    "actions reaches exactly this."
)
INVERSE_DYNAMICS = (
    "A small network is trained on real play only. It predicts the held keys from the last four frames, on real "
    "held-out video and on rollouts under the same actions. Some actions have no visible effect (a jump in the air), "
    "so the accuracy on real video is the most that a rollout can be expected to reach. If several buttons can be "
    "held, the network predicts the combination, among the most frequent ones, and ignores the mouse. If there are "
    "only axes, it predicts their directions."
)
OBJECTS = (
    "Small things decide a game and hardly count in PSNR. Of clips that show a {name} in the last prompt frame: kept is"
    " the share of real ones near which (3 pixels of a 64x64 frame) the rollout has one; real, the share of the "
    "rollout's that are near a real one."
)
SINGLE_STEP = (
    "One forward pass of the network, as in the validation of training: every frame of a clip has a random noise level "
    "of its own, and its context is nearly clean. The last figure is the loss under another clip's actions divided by "
    "the loss under the true actions: above 1, the network uses the actions."
)

EDITING = (
    "Some frames of a held-out clip are known (k), and the model generates the others (.) with all known frames in "
    "sight. Two baselines do without a model: the nearest known frame, and a cross-fade between the known frames. The "
    "actions of all frames are the true ones, hidden, or those of another clip. PSNR follows from the squared error "
    "pooled over the generated frames."
)
SEAMS = (
    "Loops of {loop} frames begin with real play, and their last generated frame leads into the first one: the step "
    "out of what was generated is the seam. Joins put {join} generated frames between two clips of different play. "
    "The actions are hidden. A step is the root mean square difference of two consecutive frames, in grey levels; "
    "things that jump make it large."
)
OUTCOMES = (
    "The outcome head reads real held-out frames and the action taken at each. It predicts the reward that follows and "
    "the probability that the episode ends. A reward counts as predicted if it is at least half of the smallest real "
    "one; an end, if its probability is at least one half. The error is the mean absolute error; that of always "
    "predicting 0 stands beside it. Calibration: what came where such a value was predicted."
)


def _fidelity(report: dict) -> Iterator[Block]:
    section, pictures = report["fidelity"], report["pictures"].get("shown", {})
    names = [name for name in FIDELITY_ROWS if name in section]
    yield Text(FIDELITY)
    for metric, title, digits in (("psnr", "PSNR in dB", 1), ("ssim", "SSIM", 3)):
        length = len(section["dream"][metric])
        frames = [frame for frame in SHOWN_FRAMES if frame <= length]
        rows = [
            [FIDELITY_ROWS[name], *(format_estimate(section[name][metric][f - 1], digits) for f in frames)]
            for name in names
        ]
        counts = ["n clips", *(str(section["dream"][metric][f - 1]["n"]) for f in frames)]
        yield Table([f"{title}, generated frame", *map(str, frames)], [*rows, counts])
        lines = [Line(FIDELITY_ROWS[name], list(range(1, length + 1)), section[name][metric]) for name in names]
        yield Picture(f"{title} by frame", line_plot(title, "generated frame", lines))
    for name, example in section["cases"].items():
        if name in pictures:
            psnr = "identical" if example["psnr"] is None else f"{example['psnr']:.1f} dB at frame {example['frame']}"
            yield Picture(f"{name} clip ({psnr}): real game, rollout, difference", pictures[name], wide=True)


def _controllability(report: dict) -> Iterator[Block]:
    section, pictures = report["counterfactuals"], report["pictures"].get("shown", {})
    yield Text(f"{CONTROLLABILITY} The actions: {', '.join(section['actions'])}.")
    measured = [row for row in section["by_frame"] if row["controllability"]]
    labels = {
        "controllability": "controllability",
        "chance": "chance",
        "above_chance": "controllability above chance, per state",
    }
    rows = [[label, *(format_percent(row[name]) for row in measured)] for name, label in labels.items()]
    counts = ["n states", *(str(row["controllability"]["n"]) for row in measured)]
    frames = [row["frame"] for row in measured]
    yield Table(["frame after the state", *map(str, frames)], [*rows, counts])
    lines = [Line(name, frames, [row[name] for row in measured]) for name in ("controllability", "chance")]
    yield Picture("Controllability by frame", line_plot("controllability", "frame after the state", lines, top=1.0))
    if "futures" in pictures:
        yield Picture("Futures of one state: real game above, rollouts below", pictures["futures"], wide=True)


def _inverse_dynamics(report: dict) -> Iterator[Block]:
    section = report["inverse_dynamics"]
    yield Text(INVERSE_DYNAMICS)
    real, rollouts = section["real"], section["dream"]
    accuracies = [format_percent(value) for value in (real["accuracy"], rollouts["accuracy"], section["chance"])]
    head = ["accuracy on real video", "accuracy on rollouts", f"always {section['majority']}", "frames", "n clips"]
    yield Table(head, [[*accuracies, str(real["num_frames"]), str(real["accuracy"]["n"])]])
    for title, counts in (("real video", real["confusion"]), ("rollouts", rollouts["confusion"])):
        shares = [[count / max(1, sum(row)) for count in row] for row in counts]
        rows = [
            [group, *(f"{share:.0%}" for share in row)] for group, row in zip(section["groups"], shares, strict=True)
        ]
        yield Table([f"{title}: true \\ predicted", *section["groups"]], rows, shares)


def _drift(report: dict) -> Iterator[Block]:
    section, pictures = report["drift"], report["pictures"]
    num_frames, n = report["settings"]["drift_frames"], section["collapsed"]["n"]
    yield Text(
        f"{n} rollouts of {num_frames} frames follow random actions: each action is as frequent as in real play and is "
        f"held for six frames on average. {section['definition']} By this rule, {section['real']['collapsed']:.1%} of "
        f"{section['real']['windows']} real windows count as collapsed. The distance is to the nearest of 4 000 real "
        "training frames, measured in the colours and edges of an 8 x 8 grid."
    )
    collapsed = {"collapsed": section["collapsed"], **section["collapsed_how"]}
    yield Table([*collapsed, "n rollouts"], [[*(format_percent(value) for value in collapsed.values()), str(n)]])
    yield _drift_table(section)
    ends = _window_ends(section)
    for name in ("sharpness", "distance"):
        median = ("real play, median", section["real"]["median"][name])
        line = Line("rollouts", ends, section["statistics"][name])
        yield Picture(f"{name} over time", line_plot(name, "generated frame", [line], median))
    line = Line("rollouts", ends, section["collapsed_by_window"])
    plot = line_plot("share of collapsed rollouts", "generated frame", [line], top=1.0)
    yield Picture("Share of collapsed rollouts over time", plot)
    if "shown" in pictures:
        frames = ", ".join(map(str, pictures["drift_moments"]))
        yield Picture(f"Long rollouts, one per row, at frames {frames}", pictures["shown"]["long dreams"], wide=True)


def _objects(report: dict) -> Iterator[Block]:
    section, num_frames = report["objects"], report["settings"]["drift_frames"]
    yield Text(OBJECTS.format(name=section["name"]))
    measured = [row for row in section["by_frame"] if row["kept"]]
    rows = [[name, *(format_percent(row[name]) for row in measured)] for name in ("kept", "real")]
    counts = ["n clips", *(str(row["kept"]["n"]) for row in measured)]
    yield Table([f"{section['name']}, generated frame", *(str(row["frame"]) for row in measured)], [*rows, counts])
    if "alive" in section:
        yield Text(
            f"At the end of {format_percent(section['alive']['dream'])} of the rollouts of {num_frames} frames, a "
            f"{section['name']} is in half of the frames of four seconds; of real play, in "
            f"{format_percent(section['alive']['real'])}."
        )


def _window_ends(section: dict) -> list[int]:
    """The last frame of each window."""
    return [(i + 1) * section["window_frames"] for i in range(len(section["collapsed_by_window"]))]


def _drift_table(section: dict) -> Table:
    ends, real = _window_ends(section), section["real"]
    shown = sorted({0, len(ends) // 4, len(ends) // 2, len(ends) - 1})
    rows = [
        [
            name,
            *(format_estimate(windows[i], 2) for i in shown),
            f"{real['low'][name]:.2f} to {real['high'][name]:.2f}",
        ]
        for name, windows in section["statistics"].items()
    ]
    return Table(["two seconds up to frame", *(str(ends[i]) for i in shown), "98 % of real play"], rows)


def _sweep(report: dict) -> Iterator[Block]:
    rows, frame_ms = report["sweep"], report["timings"]["frame_ms"]
    names = [name for name in rows[0] if name.startswith(("psnr", "ssim", "controllability"))]
    titles = [name.replace("_", " at ").replace("psnr", "PSNR").replace("ssim", "SSIM") for name in names]
    table = [
        [
            *(f"{row[name]:g}" for name in ("num_steps", "guidance", "context_noise")),
            f"{row['gflop_per_frame']:.1f}",
            f"{1000 / frame_ms[speed_key(row)]:.1f}",
            *(_sweep_figure(name, row[name]) for name in names),
        ]
        for row in rows
    ]
    yield Text(
        f"One sampler setting is changed at a time, on {rows[0][names[0]]['n']} clips. The speed is that of one "
        f"rollout with a full window on this machine ({device(report)})."
    )
    yield Table(["steps", "guidance", "context noise", "GFLOP per frame", "frames/s", *titles], table)


def _sweep_figure(name: str, estimate: dict | None) -> str:
    if name.startswith("controllability"):
        return format_percent(estimate)
    return format_estimate(estimate, 3 if name.startswith("ssim") else 1)


def _single_step(report: dict) -> Iterator[Block]:
    section = report["single_step"]
    yield Text(SINGLE_STEP)
    titles = {"loss": "loss", "psnr": "PSNR (dB)", "ssim": "SSIM", "action_ratio": "loss, wrong / true actions"}
    measured = {name: estimate for name, estimate in section.items() if estimate}
    figures = [format_estimate(estimate, 4 if name == "loss" else 3) for name, estimate in measured.items()]
    yield Table([*(titles[name] for name in measured), "n clips"], [[*figures, str(section["loss"]["n"])]])


def _editing(report: dict) -> Iterator[Block]:
    section = report["editing"]
    yield Text(EDITING)
    for metric, title, digits in (("psnr", "PSNR in dB", 1), ("ssim", "SSIM", 3)):
        names = list(section["patterns"][0]["rows"])
        rows = [
            [
                f"{pattern['name']} ({pattern['known']})",
                *(format_estimate(pattern["rows"][name][metric], digits) for name in names),
            ]
            for pattern in section["patterns"]
        ]
        yield Table([f"{title}, known frames", *names], rows)
    ordinary, loops, joins = section["ordinary"], section["loops"], section["joins"]
    yield Text(SEAMS.format(loop=loops["frames"], join=joins["frames"]))
    names = {"into": "into it", "out_of": "out of it", "mean": "mean", "largest": "largest"}
    rows = [
        [label, *(format_estimate(steps[name], 1) for name in names)]
        for label, steps in (("loop", loops), ("join", joins))
    ]
    median, usual = f"{ordinary['median']:.1f} (median)", f"{ordinary['low']:.1f} to {ordinary['high']:.1f} (95 %)"
    yield Table(["steps of what was generated", *names.values()], [*rows, ["real play", usual, usual, median, usual]])
    shares = [format_percent(steps["out_of_is_ordinary"]) for steps in (loops, joins)]
    yield Text(f"The step out of it is within the 95 % of real play in {shares[0]} of loops and {shares[1]} of joins.")


def _outcomes(report: dict) -> Iterator[Block]:
    yield Text(OUTCOMES)
    measured = {name: section for name, section in report["outcomes"].items() if section}
    rows = [
        [
            name,
            *(format_percent(section[figure]) for figure in ("precision", "recall")),
            *(format_estimate(section[figure], 4) for figure in ("error", "trivial_error")),
            str(section["events"]),
        ]
        for name, section in measured.items()
    ]
    yield Table(["", "precision", "recall", "error", "error of always 0", "events"], rows)
    for name, section in measured.items():
        rows = [
            [f"{row['predicted']:.3f}", f"{row['real']:.3f}", str(row["num_frames"])] for row in section["calibration"]
        ]
        yield Table([f"{name}, predicted (mean)", "real (mean)", "frames"], rows)


# (heading, key in report.json, blocks)
SECTIONS: list[tuple[str, str, Callable[[dict], Iterator[Block]]]] = [
    ("Fidelity by horizon: PSNR and SSIM", "fidelity", _fidelity),
    ("Controllability (counterfactual action accuracy)", "counterfactuals", _controllability),
    ("Inverse dynamics", "inverse_dynamics", _inverse_dynamics),
    ("Drift", "drift", _drift),
    ("Key objects", "objects", _objects),
    ("Rewards and ends", "outcomes", _outcomes),
    ("Quality and cost", "sweep", _sweep),
    ("A single forward pass", "single_step", _single_step),
    ("Editing: filling in frames", "editing", _editing),
    ("Perceptual distances", "perceptual", lambda report: iter(())),
]


def headline_rows(report: dict[str, Any]) -> list[list[str]]:
    """The most important figures: name, figure of the world model, what to compare it with."""
    return [
        *_fidelity_headlines(report),
        *_action_headlines(report),
        *_drift_headlines(report),
        *_speed_headlines(report),
    ]


def _fidelity_headlines(report: dict) -> Iterator[list[str]]:
    section = report["fidelity"]
    for frame in (1, 8, 16):
        if "dream" in section and frame <= len(section["dream"]["psnr"]):
            psnr, repeated = (
                format_estimate(section[name]["psnr"][frame - 1], 1, " dB") for name in ("dream", "repeat_prompt")
            )
            yield [f"PSNR at frame {frame}", psnr, f"repeating the last prompt frame: {repeated}"]


def _action_headlines(report: dict) -> Iterator[list[str]]:
    for row in report["counterfactuals"].get("by_frame", []):
        accuracy = row["controllability"]
        if row["frame"] in (1, 8, 32) and accuracy:
            reference = f"chance: {format_percent(row['chance'])}; {accuracy['n']} states"
            yield [f"Controllability at frame {row['frame']}", format_percent(accuracy), reference]
    ratio = report["single_step"].get("action_ratio")
    if ratio:
        yield ["Loss under wrong actions", format_estimate(ratio, 2, " times"), "a model that ignores actions: 1"]
    section = report["inverse_dynamics"]
    if "real" in section:
        real, rollouts, chance = (
            format_percent(value)
            for value in (section["real"]["accuracy"], section["dream"]["accuracy"], section["chance"])
        )
        yield ["Inverse dynamics accuracy", rollouts, f"real video: {real}; always the same: {chance}"]


def _drift_headlines(report: dict) -> Iterator[list[str]]:
    if "collapsed" in report["drift"]:
        share = report["drift"]["collapsed"]
        name = f"Collapsed after {report['settings']['drift_frames']} frames"
        yield [name, format_percent(share), f"{share['n']} rollouts"]


def _speed_headlines(report: dict) -> Iterator[list[str]]:
    if "not_measured" in report["cost"]:
        return
    milliseconds = report["timings"]["frame_ms"][speed_key(report["settings"])]
    cost = f"{report['cost']['gflop_per_frame']:.1f} GFLOP per frame; {device(report)}"
    yield ["Speed of one rollout", f"{1000 / milliseconds:.1f} frames/s", cost]


def device(report: dict) -> str:
    """The device of the evaluation, without the remark in parentheses."""
    return report["timings"]["device"].split(" (")[0]
