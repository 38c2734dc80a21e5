"""The page: a stage (`gr.HTML`) that speaks with the server over a websocket, and Gradio's own controls around it.

Keys and frames do not pass Gradio's queue, because late frames must be dropped. Controls that act on the dream call
`window.dreamrun`, which stage.js defines, in the browser. The stage reports back with events of `gr.HTML`.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from dreamrun.games.game import MAX_CAPTION_CHARS
from dreamrun.games.untrusted import markdown
from dreamrun.model.options import RANGES
from dreamrun.play.actions import step_actions
from dreamrun.play.api import add_endpoints
from dreamrun.play.follow import CURVES, curves, newest_strip
from dreamrun.play.server import PlayServer

_STAGE = Path(__file__).parent / "stage"
_MAX_SHOWN_STEPS, _MAX_SHOWN_GUIDANCE = 16, 4.0
_MAX_WAITING_EVENTS = 64  # in Gradio's queue
# Options of events that only the page uses and that are done at once.
_PRIVATE = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
_INTRODUCTION = (
    "No game runs behind the picture called *Dream*. A neural network generates every frame from the frames before it "
    "and the keys you hold. Switch on the real game to compare: it gets the same keys."
)
CSS = (_STAGE / "controls.css").read_text()


def theme() -> gr.themes.Base:
    """Gradio's base theme with the system's fonts, so that nothing is loaded from other hosts."""
    return gr.themes.Base(
        primary_hue="violet",
        neutral_hue="slate",
        radius_size="lg",
        font=["system-ui", "-apple-system", "Segoe UI", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


def build_page(server: PlayServer, public_api: bool) -> gr.Blocks:
    """The page of a server; with `public_api` it describes the endpoints for programs."""
    with gr.Blocks(title="Dreamrun: play the dream", analytics_enabled=False) as demo:
        gr.Markdown(f"# Dreamrun\n{_INTRODUCTION}")
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=340):
                # An instance, not a subclass: Gradio writes a .pyi file beside the source of a subclass.
                stage = gr.HTML(
                    html_template=(_STAGE / "stage.html").read_text(),
                    css_template=(_STAGE / "stage.css").read_text(),
                    js_on_load="\n".join((_STAGE / f"{name}.js").read_text() for name in ("stage", "keys", "pictures")),
                    apply_default_css=False,
                    elem_id="stage",
                )
                steps = _add_controls(stage, server)
                _add_recording(stage, server)
            with gr.Column(scale=1, min_width=296):
                chosen = _add_games(server)
                _add_words(server, chosen)
                _add_prompts(stage, server, chosen)
                _add_sampling_settings(stage, server)
        _show_chosen(chosen, steps)
        if server.engine.follower is not None:
            _add_run(server, server.engine.follower.run_folder)
        add_endpoints(server, public_api)
    return demo.queue(max_size=_MAX_WAITING_EVENTS)


def _add_controls(stage: gr.HTML, server: PlayServer) -> list[gr.Accordion]:
    """Start over, pause, single steps, speed and the real game. Returns the single steps of each game."""
    with gr.Row(elem_classes="bar"):
        restart = gr.Button("Start over (R)", min_width=128, elem_id="restart")
        pause = gr.Button("Pause (P)", min_width=128, elem_id="pause")
        step = gr.Button("One frame (N)", min_width=128, elem_id="step")
        record = gr.Button("● Record", min_width=128, elem_id="record")
        if server.engine.config.can_fill:
            for name, task in (("Rewind further", "rewind"), ("Loop", "loop")):
                button = gr.Button(name, min_width=128, elem_id=task)
                button.click(js=f"() => dreamrun.edit({json.dumps(task)})")
    with gr.Row(elem_classes="bar"):
        real_game = gr.Checkbox(label="Real game", min_width=120, elem_id="real")
        speed = gr.Dropdown(
            [("Full speed", 1), ("Half speed", 2), ("Quarter speed", 4)],
            value=1, label="Speed", show_label=False, min_width=120, filterable=False, elem_id="speed",
        )  # fmt: skip
    steps = []
    for engine in server.engines.values():
        is_shown = engine is server.engine and not engine.space.unconditional
        steps.append(gr.Accordion("Step by step: one frame per click", open=True, visible=is_shown))
        with steps[-1], gr.Row(elem_classes="steps"):
            for name in step_actions(engine.space):
                button = gr.Button(name, size="sm", min_width=72, elem_classes="step-action")
                button.click(js=f"() => dreamrun.step({json.dumps(name)})")
    restart.click(js="() => dreamrun.start()")
    pause.click(js="() => dreamrun.pause()")
    step.click(js="() => dreamrun.step()")
    record.click(js="() => dreamrun.record()")
    speed.input(None, speed, js="(every) => dreamrun.setSpeed(every)")
    real_game.input(None, real_game, js="(on) => dreamrun.setReal(on)")
    stage.paused(None, None, pause, js="() => dreamrun.state.paused ? 'Resume (P)' : 'Pause (P)'")
    stage.recording(None, None, record, js="() => dreamrun.state.recording ? '■ Stop recording' : '● Record'")
    stage.real(None, None, real_game, js="() => dreamrun.state.real")

    stage.started(_allow_real_game, None, real_game, **_PRIVATE)
    return steps


def _add_recording(stage: gr.HTML, server: PlayServer) -> None:
    """The newest recording, to watch and to download."""
    video = gr.Video(label="Recording", visible=False, interactive=False, height=380, buttons=[], elem_id="recording")
    with gr.Row():
        mp4 = gr.DownloadButton("Download mp4", visible=False, elem_id="download-mp4")
        replay = gr.DownloadButton("Download replay (JSON)", visible=False, elem_id="download-json")

    def show_recording(event: gr.EventData) -> tuple:
        files = server.recorded_files(str(event.place))
        paths = {name: str(server.new_file(name, content)) for name, content in files.items()}
        mp4_path, replay_path = paths.get("dream.mp4"), paths.get("dream.json")
        return (
            gr.Video(mp4_path, visible=mp4_path is not None),
            gr.DownloadButton(value=mp4_path, visible=mp4_path is not None),
            gr.DownloadButton(value=replay_path, visible=replay_path is not None),
        )

    stage.recorded(show_recording, None, [video, mp4, replay], **_PRIVATE)


def _add_games(server: PlayServer) -> gr.Dropdown:
    """The choice between the checkpoint's games, hidden if there is one alone."""
    names = list(server.engines)
    chosen = gr.Dropdown(names, value=names[0], label="Game", filterable=False, visible=len(names) > 1, elem_id="game")
    chosen.input(None, chosen, js="(name) => dreamrun.chooseGame(name)")
    return chosen


def _show_chosen(chosen: gr.Dropdown, parts: Sequence[gr.Accordion | gr.Gallery]) -> None:
    """Show of some parts of the page, one for each game, that of the chosen game alone."""

    def show(name: str) -> list[dict]:
        return [gr.update(visible=name == part_name) for _, part_name in chosen.choices]

    chosen.input(show, chosen, list(parts), **_PRIVATE)


def _add_words(server: PlayServer, chosen: gr.Dropdown) -> None:
    """What the model is told, and a dream that begins with nothing else."""
    if not server.engine.config.words:
        return
    words = gr.Textbox(
        server.engine.settings.text or server.engine.pool.caption,
        label="Words: what to dream of",
        max_length=MAX_CAPTION_CHARS,
        elem_id="words",
    )
    dream = gr.Button("Dream from words alone", elem_id="dream-words")
    words.change(None, words, js="(words) => dreamrun.set({words})")
    words.submit(js="() => dreamrun.start()")
    dream.click(js="() => dreamrun.start({record: null, moment: null, dream: true})")
    chosen.input(lambda name: server.engines[name].pool.caption, chosen, words, **_PRIVATE)


def _add_prompts(stage: gr.HTML, server: PlayServer, chosen: gr.Dropdown) -> None:
    """What a dream starts from: a thumbnail, any frame of any record, or the player's own picture."""
    gallery = server.engine.gallery
    gr.Markdown("### Start from")
    galleries = [
        gr.Gallery(
            [(frame, None) for frame in engine.gallery.thumbnails], visible=engine is server.engine,
            label="Recorded moments", show_label=False, format="png", columns=4, allow_preview=False, selected_index=0,
            buttons=[], container=False, interactive=False, object_fit="contain", min_width=100,
            elem_id="gallery" if engine is server.engine else None, elem_classes="moments",
        )
        for engine in server.engines.values()
    ]  # fmt: skip
    _show_chosen(chosen, galleries)
    record = _record_number(len(gallery))
    moment = gr.Slider(
        0, max(1, gallery.num_frames(0) - 1), value=gallery.default_moment(0), step=1, label="Moment", buttons=[],
        elem_id="moment",
    )  # fmt: skip
    image = gr.Image(
        label="Your own picture", sources=["upload", "clipboard"], type="filepath", height=150, buttons=[],
        placeholder="Drop a picture, or click", elem_id="image",
    )  # fmt: skip

    def chosen_record(event: gr.SelectData) -> int:
        return event.index

    def show_moment(event: gr.EventData) -> dict:
        if event.moment is None:
            return gr.Slider(interactive=False)
        return gr.Slider(value=event.moment, maximum=max(1, event.last_moment), interactive=True)

    start_record = "(record) => dreamrun.start({record, moment: null})"
    for thumbnails in galleries:
        thumbnails.select(chosen_record, None, record, **_PRIVATE).then(None, record, js=start_record)
    chosen.input(lambda name: _record_number(len(server.engines[name].gallery)), chosen, record, **_PRIVATE)
    record.input(None, record, js="(record) => dreamrun.startSoon({record, moment: null})")
    moment.input(None, [record, moment], js="(record, moment) => dreamrun.startSoon({record, moment})")
    image.upload(None, image, js="(file) => dreamrun.startFromImage(file)")
    image.clear(None, record, js=start_record)
    stage.started(show_moment, None, moment, **_PRIVATE)


def _record_number(num_records: int) -> gr.Number:
    last = num_records - 1
    return gr.Number(0, label=f"Record, 0 to {last}", precision=0, minimum=0, maximum=last, elem_id="record-number")


def _add_sampling_settings(stage: gr.HTML, server: PlayServer) -> None:
    """How frames are generated, and what the present dream uses."""
    settings, max_seed = server.engine.settings, RANGES["seed"].high_in_play
    with gr.Accordion("Sampling settings", open=False, elem_id="sampling"):
        gr.Markdown("They take effect when you start over.")
        num_steps = gr.Slider(
            1, max(_MAX_SHOWN_STEPS, settings.num_steps), value=settings.num_steps, step=1, label="Denoising steps"
        )
        guidance = gr.Slider(
            min(1.0, settings.guidance), max(_MAX_SHOWN_GUIDANCE, settings.guidance), value=settings.guidance,
            step=0.25,
            label="Guidance: follow the keys more closely",
        )  # fmt: skip
        seed = gr.Textbox(label=f"Seed, 0 to {max_seed}", placeholder="random", max_length=10, elem_id="seed")
    details = gr.Markdown(elem_id="details")
    num_steps.change(None, num_steps, js="(num_steps) => dreamrun.set({num_steps})")
    guidance.change(None, guidance, js="(guidance) => dreamrun.set({guidance})")
    seed.change(None, seed, js="(seed) => dreamrun.set({seed: seed.trim() ? Number(seed) : null})")

    stage.started(_describe, None, details, **_PRIVATE)


def _allow_real_game(event: gr.EventData) -> gr.Checkbox:
    reason = event.why_no_real_game  # it may hold names from the data set, and Gradio shows it as Markdown
    return gr.Checkbox(interactive=reason is None, info=None if reason is None else markdown(reason))


def _describe(event: gr.EventData) -> str:
    start = "" if event.moment is None else f", record {event.record}, moment {event.moment}"
    sampling = f"seed {event.seed}, {event.num_steps} steps, guidance {event.guidance}"
    return markdown(f"This dream: {sampling}, from {event.prompt_frames} frames{start}. {event.key_hint}")


def _add_run(server: PlayServer, run_folder: Path) -> None:
    """The training run that is followed: its curves, and what each action does at present."""
    strips: dict[Path, str] = {}  # the newest strip, and the file that Gradio serves in its place

    def newest() -> tuple:
        strip = newest_strip(run_folder)
        if strip is not None and not Path(strips.get(strip, "")).is_file():
            strips.clear()
            strips[strip] = str(server.new_file(strip.name, strip.read_bytes()))
        video = gr.Video(strips[strip], label=f"Held actions, {strip.stem}", visible=True) if strip else gr.skip()
        return (*curves(run_folder), video)

    with gr.Accordion("The training run", open=True, elem_id="run"):
        gr.Markdown("New weights are loaded as soon as the run saves them. Curves and video are renewed as well.")
        with gr.Row():
            plots = [
                gr.LinePlot(table, x="step", y="value", color="metric", title=title, y_title="", height=240, buttons=[])
                for title, table in zip(CURVES, curves(run_folder), strict=True)
            ]
        video = gr.Video(visible=False, interactive=False, autoplay=True, loop=True, buttons=[], elem_id="strip")
        timer = gr.Timer(server.limits.renew_secs)
    timer.tick(newest, None, [*plots, video], **_PRIVATE)
