"""A page in a notebook's cell: in a frame of its own, of which it is a part."""

from __future__ import annotations

import re
from html import unescape

from autotune.core.page_frame import PageFrame


def test_a_page_is_a_part_of_its_frame() -> None:
    page = '<p title="a & b">"quoted" \'too\'</p>'
    html = PageFrame(page, 300)._repr_html_()
    frame = r'<iframe srcdoc="([^"]*)" sandbox="allow-scripts allow-popups" style="([^"]*)"></iframe>'
    content = re.fullmatch(frame, html)
    assert content is not None
    assert unescape(content[1]) == page and "height:300px" in content[2]
    assert "quoted" not in repr(PageFrame(page, 300))
