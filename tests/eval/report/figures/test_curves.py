from splitleak.eval.report.figures.curves import Curve, draw_curve
from splitleak.eval.report.results import Spread

CURVE = Curve(
    "crossings",
    "Leak against crossings",
    "crossings",
    {"one": {1: Spread(0.02, 0.001, 3), 16: Spread(0.01, 0.001, 3)}, "other": {1: Spread(0.03, None, 1)}},
    3,
)


def test_a_curve_is_a_table_with_a_column_a_place():
    sheet = CURVE.sheet()
    assert [name for _, name in sheet.columns] == ["target", "1", "16"]
    assert [[str(text) for text in row] for row in sheet.rows] == [
        ["one", "0.0200 ± 0.0010", "0.0100 ± 0.0010"],
        ["other", "0.0300 [1]", "-"],
    ]


def test_a_curve_is_drawn_with_all_its_rows_and_names_the_table_beside_it(tmp_path):
    plot = draw_curve(CURVE, tmp_path)
    [axes] = CURVE.figure().axes
    assert [list(bars[0].get_xdata()) for bars in axes.containers] == [[1, 16], [1]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "16"]
    assert "table below" in plot.alt
    assert (tmp_path / "crossings.pdf").read_bytes().startswith(b"%PDF")
