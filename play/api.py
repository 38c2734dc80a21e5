"""Endpoints for programs: `gradio_client.Client(address).predict(..., api_name="/dream")`."""

import asyncio

import gradio as gr
import numpy as np

from dreamrun.data.video import comparison, mp4_bytes
from dreamrun.play.actions import parse_action
from dreamrun.play.messages import MAX_ACTION_CHARS, parse_int, parse_settings, parse_text
from dreamrun.play.server import PlayServer

MAX_API_FRAMES = 300  # in one call


def add_endpoints(server: PlayServer, public: bool) -> None:
    """Add the endpoints to the `gr.Blocks` that is being built; if `public`, the page describes them.

    Gradio shows the description to those who have not logged in, too.
    """
    engine, gallery = server.engine, server.engine.gallery

    def about() -> dict:
        """The game, its actions and the limits of `dream`."""
        return {
            "game": engine.game.environment or "",
            "checkpoint": engine.checkpoint_name,
            "fps": engine.fps,
            "actions": list(engine.space.names),
            "records": [gallery.num_frames(record_id) for record_id in range(len(gallery))][:1000],
            "num_records": len(gallery),
            "num_steps": engine.settings.num_steps,
            "max_frames": MAX_API_FRAMES,
        }

    async def dream(
        record: int = 0,
        moment: int = -1,
        actions: list[str] = ["noop"],  # noqa: B006 (Gradio reads the default as a value)
        steps: int = 0,
        guidance: float = -1.0,
        seed: int = 0,
    ) -> gr.FileData:
        """Continue a record under given actions; returns an mp4.

        Args:
            record: index of the record.
            moment: index of the frame to continue from; -1: the record's default.
            actions: the names of the actions, one per frame.
            steps: denoising steps per frame; 0: the default.
            guidance: classifier-free guidance scale; -1: the default.
            seed: of the noise.
        """
        try:
            record = parse_int({"record": record}, "record", 0, len(gallery) - 1)
            moment = parse_int({"moment": moment}, "moment", -1, gallery.num_frames(record) - 1)
            given = {"num_steps": steps or None, "guidance": None if guidance == -1 else guidance, "seed": seed}
            settings = parse_settings(given, engine.settings)
            if not isinstance(actions, list) or not 1 <= len(actions) <= MAX_API_FRAMES:
                raise ValueError(f"actions must be a list of 1 to {MAX_API_FRAMES} names")
            names = [parse_text({"actions": name}, "actions", MAX_ACTION_CHARS) for name in actions]
            parsed_actions = [parse_action(name, engine.space) for name in names]
            prompt = await asyncio.to_thread(
                gallery.prompt, record, gallery.default_moment(record) if moment < 0 else moment
            )
            generated = await engine.run_between_frames(engine.pool.dream(prompt, settings, parsed_actions))
        except (ValueError, TypeError) as error:
            raise gr.Error(str(error), print_exception=False) from None
        frames, played = np.stack([step.frame for step in generated]), np.array(parsed_actions)

        def encode() -> bytes:
            return mp4_bytes(comparison(None, frames[None], played[None], engine.space), engine.fps, decorated=True)

        return gr.FileData(path=str(server.new_file("dream.mp4", await asyncio.to_thread(encode))))

    visibility = "public" if public else "undocumented"
    gr.api(about, api_name="about", api_visibility=visibility)
    gr.api(dream, api_name="dream", api_visibility=visibility, concurrency_limit=1)
