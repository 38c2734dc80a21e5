"""A public address for a server on this machine, through Gradio's tunnel."""

from __future__ import annotations

import secrets


def open_tunnel(port: int) -> str:
    """Open a tunnel to a local port. It closes when this process ends. The first call downloads the tunnel program.

    Returns:
        The public https address.

    Raises:
        ValueError: the tunnel cannot be opened.
    """
    from gradio.networking import setup_tunnel  # imported here: Gradio takes seconds to import

    try:
        return setup_tunnel("127.0.0.1", port, secrets.token_urlsafe(32), None, None)
    except Exception as error:  # Gradio raises many types
        raise ValueError(f"--share: cannot open a tunnel ({type(error).__name__}: {error})") from None
