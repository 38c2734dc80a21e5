"""The action format of OpenAI's Minecraft recordings by contractors (VPT, arXiv 2206.11795)."""

from __future__ import annotations

from typing import Any


class VPTActions:
    """Translates the lines of one recording to fields that `Description.action` reads.

    Keys are recorded as `key.keyboard.w`, mouse buttons as `mouse.0`. Two faults of the recorder are corrected, as in
    OpenAI's own loader: mouse button 0 is ignored if it is down from the first line until it is pressed again, and a
    hotbar slot that the mouse wheel selected counts as its number key.
    """

    def __init__(self):
        self._button_0_stuck: bool | None = None
        self._slot: int | None = None

    def __call__(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields of the next line. Lines of other formats are returned unchanged.

        Raises:
            ValueError: mouse or keyboard is not an object.
        """
        if "keyboard" not in fields and "mouse" not in fields:
            return fields
        mouse, keyboard = fields.get("mouse") or {}, fields.get("keyboard") or {}
        if not (isinstance(mouse, dict) and isinstance(keyboard, dict)):
            raise ValueError("its mouse or keyboard is not an object")
        pressed = mouse.get("newButtons", [])
        if self._button_0_stuck is None:
            self._button_0_stuck = pressed == [0]
        else:
            self._button_0_stuck = self._button_0_stuck and 0 not in pressed
        buttons = [button for button in mouse.get("buttons", ()) if button or not self._button_0_stuck]
        keys = [*keyboard.get("keys", ()), *(f"mouse.{button}" for button in buttons)]
        previous_slot, self._slot = self._slot, fields.get("hotbar")
        if None not in (previous_slot, self._slot) and previous_slot != self._slot:
            keys.append(f"key.keyboard.{self._slot + 1}")
        return {"keys": keys, "mouse.dx": mouse.get("dx", 0.0), "mouse.dy": mouse.get("dy", 0.0)}
