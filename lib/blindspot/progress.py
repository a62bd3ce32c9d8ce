"""Progress that a reader can follow and a saved notebook does not drown in: one line, rewritten in place."""

from __future__ import annotations

import time
from typing import Any

REDRAW_SECONDS = 0.5


class Progress:
    """Call it with (step, steps, figures to show). In a notebook the line replaces itself; elsewhere it is silent.

    >>> show = Progress("training")
    >>> train_adapters(..., on_step=show)  # doctest: +SKIP
    """

    def __init__(self, what: str) -> None:
        self.what, self.started, self.drawn = what, time.monotonic(), 0.0
        self.handle: Any = None

    def __call__(self, step: int, steps: int, figures: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self.drawn < REDRAW_SECONDS and step < steps:
            return
        self.drawn = now
        self.draw(describe_progress(self.what, step, steps, figures, seconds=now - self.started))

    def draw(self, line: str) -> None:
        """Show the line in place of the last one."""
        from IPython import get_ipython
        from IPython.display import display

        if get_ipython() is None:
            return
        content = {"text/plain": line}
        if self.handle is None:
            self.handle = display(content, raw=True, display_id=True)
        else:
            self.handle.update(content, raw=True)


def describe_progress(what: str, step: int, steps: int, figures: dict[str, Any], *, seconds: float) -> str:
    """Such as `training: 120 of 225 · loss 0.531 · pairs 1,920 · 12 s, some 10 s left`."""
    parts = [
        f"{name} {value:,.3f}" if isinstance(value, float) else f"{name} {value:,}" for name, value in figures.items()
    ]
    left = f", some {seconds / step * (steps - step):.0f} s left" if 0 < step < steps else ""
    return " · ".join([f"{what}: {step:,} of {steps:,}", *parts, f"{seconds:.0f} s{left}"])
