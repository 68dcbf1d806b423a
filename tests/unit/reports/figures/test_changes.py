"""What each change gave, drawn: bars, marks and names."""

import pytest
import study_builder
from study_builder import change

from reports.figures import changes
from reports.tables.attribution import attribution_table


def test_bars_and_diamonds_in_the_order_of_the_path_and_the_whole_gain_last() -> None:
    figure = changes.which_change(attribution_table(study_builder.attribution()), 0.38)
    gave, ties, lost, idle, whole = figure.data

    assert (gave.name, list(gave.x), list(gave.error_x.array)) == (
        "gained when added in this order", [0.25, 0.08, 0.05], pytest.approx([0.03] * 3),
    )  # fmt: skip
    assert (list(ties.x), ties.marker.color, ties.marker.pattern.shape) == ([0.01, -0.005, -0.005], "#8A8F98", "/")
    assert (list(lost.x), lost.marker.symbol) == ([0.22, 0.09, 0.06], "diamond")
    assert list(idle.x) == [0.005, 0.0, -0.01] and not idle.showlegend
    assert (list(whole.x), list(whole.y)) == ([0.38], [6])
    assert gave.marker.color != lost.marker.color and gave.marker.pattern.shape != ties.marker.pattern.shape
    names = list(figure.layout.yaxis.ticktext)
    assert names[0] == "optim.muon_lr<br>0.02 → 0.05" and names[3] == "model.dropout<br>0 → 0.05 (tie)"
    assert names[-1] == "<b>all changes</b>"
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1], "the default's side is on top"
    assert figure.layout.xaxis.title.text == "worth (nats per token)"


def test_what_does_not_train_or_was_not_measured_is_marked() -> None:
    measured = (
        change("a", 0, 1, 0.3, 0.3, False), change("c", 0, 1, None, None, False), change("d", 0, 1, -0.1, 0.0, True),
    )  # fmt: skip
    figure = changes.which_change(attribution_table(study_builder.attribution(changes=measured)), 0.2)
    drawn = {trace.text[0] if trace.text else trace.name: trace for trace in figure.data}

    assert list(drawn["cannot be trained"].x) == [pytest.approx(0.33)], "at the edge"
    assert list(drawn["cannot be trained"].y) == [1.2] and list(drawn["not measured"].x) == [0.0]
    assert drawn["−0.1000 (−0.1300 to −0.0700)"].name == "made it worse"


def test_names_stay_text_in_the_figure() -> None:
    rows = attribution_table(study_builder.attribution(changes=(change("<b>x</b>", "<i>", "%{y}", 0.1, 0.1, False),)))
    figure = changes.which_change(rows, 0.1)

    assert figure.layout.yaxis.ticktext[0] == "&lt;b&gt;x&lt;/b&gt;<br>&lt;i&gt; → %\u200b{y}"
