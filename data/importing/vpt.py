"""TODO."""

from __future__ import annotations

from typing import Any


class VPTActions:
    """Lines of OpenAI's Minecraft play (VPT): keys as `key.keyboard.w`, mouse buttons as `mouse.0`, and its motion.

    Two faults of the recorder are mended, as OpenAI's own loader does: a button 0 that is down from the first line on
    is stuck until it is really pressed, and a slot of the hotbar that the wheel chose counts as its number key.
    """

    def __init__(self):
        self._stuck: bool | None = None
        self._slot: int | None = None

    def __call__(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The next line's fields, as `Description.action` takes them; those of other files as they are."""
        if "keyboard" not in fields and "mouse" not in fields:
            return fields
        mouse, keyboard = fields.get("mouse") or {}, fields.get("keyboard") or {}
        if not (isinstance(mouse, dict) and isinstance(keyboard, dict)):
            raise ValueError("its mouse or keyboard is not an object")
        pressed = mouse.get("newButtons", [])
        self._stuck = pressed == [0] if self._stuck is None else self._stuck and 0 not in pressed
        buttons = [button for button in mouse.get("buttons", ()) if button or not self._stuck]
        keys = [*keyboard.get("keys", ()), *(f"mouse.{button}" for button in buttons)]
        before, self._slot = self._slot, fields.get("hotbar")
        if None not in (before, self._slot) and before != self._slot:
            keys.append(f"key.keyboard.{self._slot + 1}")
        return {"keys": keys, "mouse.dx": mouse.get("dx", 0.0), "mouse.dy": mouse.get("dy", 0.0)}
