"""A page in the cell of a notebook."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape


@dataclass(frozen=True)
class PageFrame:
    """A whole page in a frame of its own, which a notebook shows and keeps.

    What the page runs cannot reach the notebook around it.

    Args:
        html: The page.
        height: Of the frame, in pixels.
    """

    html: str = field(repr=False)
    height: int = 800

    def _repr_html_(self) -> str:
        content = escape(self.html, quote=True)
        style = f"width:100%;height:{int(self.height)}px;border:1px solid #8886"
        return f'<iframe srcdoc="{content}" sandbox="allow-scripts allow-popups" style="{style}"></iframe>'
