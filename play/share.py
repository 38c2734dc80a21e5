"""A public address for a server on this machine, through Gradio's tunnel."""

from __future__ import annotations

import secrets


def share(port: int) -> str:
    """Open the tunnel; it closes with this process. Gradio downloads a program for it, the first time.

    Returns:
        The address, https.

    Raises:
        ValueError: it could not be opened.
    """
    from gradio.networking import setup_tunnel  # takes seconds to import, and few need it

    try:
        return setup_tunnel("127.0.0.1", port, secrets.token_urlsafe(32), None, None)
    except Exception as error:  # it raises whatever the network makes of it
        raise ValueError(f"--share: no tunnel could be opened ({type(error).__name__}: {error})") from None
