import base64

from matplotlib.figure import Figure

from splitleak.eval.report.figures.drawing import data_uri, draw_plot, file_name


def drawn():
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot([0, 1], [0, 1], color="C0")
    return figure


def test_a_plot_is_the_same_each_time_in_all_its_formats(tmp_path):
    first, second = (draw_plot("a, b", "alt", drawn, tmp_path / name) for name in ("x", "y"))
    assert (first.light, first.dark, first.pdf) == (second.light, second.dark, second.pdf)
    for suffix in ("svg", "pdf", "png"):
        assert (tmp_path / "x" / f"a_b.{suffix}").read_bytes() == (tmp_path / "y" / f"a_b.{suffix}").read_bytes()


def test_dark_is_light_in_other_colours(tmp_path):
    plot = draw_plot("a", "alt", drawn, tmp_path)
    assert "#fefefe" in plot.light
    assert "#1b1f24" in plot.light
    assert "#fefefe" not in plot.dark
    assert "#1b1f24" not in plot.dark
    assert "#1f77b4" in plot.light
    assert "#1f77b4" not in plot.dark
    assert len(plot.dark) == len(plot.light)


def test_names_that_look_like_mathematics_are_drawn_as_they_are(tmp_path):
    def named():
        figure = drawn()
        figure.axes[0].set(title=r"$\frac$", xlabel="$")
        return figure

    assert draw_plot("a", "alt", named, tmp_path).light


def test_a_title_of_any_length_is_the_name_of_a_file_of_its_own(tmp_path):
    titles = ["\u6a21" * 120 + end for end in ("1", "2")]
    for title in titles:
        (tmp_path / f"gallery-{file_name(title)}.pdf").write_text(title)
    assert len(list(tmp_path.iterdir())) == 2


def test_an_address_holds_the_file(tmp_path):
    plot = draw_plot("a", "alt", drawn, tmp_path)
    assert plot.uri("pdf") == data_uri((tmp_path / "a.pdf").read_bytes(), "application/pdf")
    assert base64.b64decode(plot.uri("light").split(",")[1]) == (tmp_path / "a.svg").read_bytes()
