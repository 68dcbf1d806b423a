"""A study in a notebook: a card of a few lines."""

from __future__ import annotations

from html import escape

from autotune.promotion.next_step import next_step
from autotune.store.study_record import StudyRecord
from reports.formats import plain
from reports.page import summary_lines

_STYLE = (
    ".autotune-card{border:1px solid #8886;border-radius:8px;padding:12px 16px;max-width:52em;line-height:1.45}"
    ".autotune-card p{margin:0 0 6px}"
    ".autotune-card .autotune-name{opacity:.75}"
    ".autotune-card .autotune-verdict{font-size:1.1em;font-weight:600}"
    ".autotune-card code{overflow-wrap:anywhere}"
)
"""Every rule holds within the card alone; colours are the notebook's own, dark or light."""
_NEXT = "next: "


def study_card(record: StudyRecord, state: str) -> str:
    """Return a study's last lines on the console as HTML, without scripts, for the cell of a notebook.

    Args:
        record: The study.
        state: How it stands, in a word or two.
    """
    verdict, *lines = summary_lines(record)
    title = plain(record.spec.title or record.name)
    heading = title if title == record.name else f"{title} ({plain(record.name)})"

    parts = [
        f'<p class="autotune-name">{escape(heading)}: {escape(state)}</p>',
        f'<p class="autotune-verdict">{escape(verdict)}</p>',
    ]
    parts += [f"<p>{escape(line)}</p>" for line in lines if not line.startswith(_NEXT)]
    parts.append(f"<p>{_NEXT}<code>{escape(plain(next_step(record).command))}</code></p>")
    if (record.run.report / "index.html").exists():
        page = escape(plain(record.run.report / "index.html"))
        parts.append(f"<p>page: <code>{page}</code>; <code>.page()</code> shows it here</p>")
    return f'<div class="autotune-card"><style>{_STYLE}</style>{"".join(parts)}</div>'
