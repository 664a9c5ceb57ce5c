import math
from statistics import mean

import pytest

from eval.published import PublishedTable, load, names

ROWS = {"Bottleneck", "DistCorr", "Dropout", "PATROL", "ResSFL", "Noise_Nopeek", "Noise_ARL"}
OF_METHODS = ("cem_s1", "cem_s2", "cem_s3", "cem_s4", "cem_s5")


def test_the_six_tables_of_the_cem_supplement_are_there():
    assert names() == (*OF_METHODS, "cem_s6")
    for name in names():
        assert load(name).source.endswith(f"table {name.removeprefix('cem_').upper()}")


@pytest.mark.parametrize("name", OF_METHODS)
def test_each_table_has_seven_methods_without_and_with_cem(name):
    assert [(row.method, row.plus) for row in load(name).rows] == [
        (row.method, plus) for row in load(name).rows[::2] for plus in (None, "CEM")
    ]
    assert {row.method for row in load(name).rows} == ROWS
    assert len(load(name).rows) == 14


@pytest.mark.parametrize("name", OF_METHODS)
@pytest.mark.parametrize("plus", [None, "CEM"])
def test_the_averages_are_those_of_the_rows_once_misprints_are_corrected(name, plus):
    table = load(name)
    for column in table.columns:
        rows = [table.figure(method, plus, column.key).value for method in ROWS]
        average = table.figure("average", plus, column.key)
        rounding = {"accuracy": 0.01, "psnr": 0.011, "ssim": 0.0011, "mse": 0.00011}[column.metric]
        assert average.value == pytest.approx(mean(rows), abs=rounding), column.key


@pytest.mark.parametrize("attack", ["decoder", "gan"])
def test_the_psnr_of_s2_is_that_of_the_mse_of_s5_in_every_cell_but_the_misprint(attack):
    psnrs, errors = load("cem_s2"), load("cem_s5")
    astray = {}
    for row in psnrs.rows:
        figure = psnrs.figure(row.method, row.plus, psnrs.key(attack, "psnr"))
        expected = -10 * math.log10(errors.figure(row.method, row.plus, errors.key(attack, "mse")).value)
        assert figure.value == pytest.approx(expected, abs=0.14)
        if abs(figure.printed - expected) > 0.14:
            astray[row.method, row.plus] = figure
    assert list(astray) == [("Noise_ARL", "CEM")]
    assert astray["Noise_ARL", "CEM"].reason


def test_s2_and_s5_give_the_same_accuracies():
    for row in load("cem_s2").rows:
        accuracies = [load(name).figure(row.method, row.plus, "accuracy").printed for name in ("cem_s2", "cem_s5")]
        assert accuracies[0] == accuracies[1]


def test_misprints_are_kept_as_printed_with_what_they_must_have_been():
    figure = load("cem_s2").figure("Noise_ARL", "CEM", "decoder_psnr")
    assert (figure.printed, figure.corrected, figure.value) == (16.27, 14.20, 14.20)
    assert "swapped" in figure.reason
    assert load("cem_s5").figure("average", "CEM", "gan_mse").value == 0.0098
    assert load("cem_s6").figure("PATROL", None, "cloud_macs").corrected == 133.57
    plain = load("cem_s1").figure("Bottleneck", None, "decoder_psnr")
    assert (plain.printed, plain.value, plain.corrected) == (23.82, 23.82, None)


def test_cem_raises_the_error_of_every_method_and_keeps_its_accuracy():
    for name in OF_METHODS:
        table = load(name)
        for method in ROWS:
            for column in table.columns:
                without, with_cem = (table.figure(method, plus, column.key).value for plus in (None, "CEM"))
                if column.metric == "accuracy":
                    assert -0.255 <= with_cem - without <= 0.705
                else:
                    assert (with_cem > without) == (column.metric == "mse"), (name, method, column.key)


def test_what_a_table_lacks_is_none():
    table = load("cem_s1")
    assert table.figure("Rabbit", None, "accuracy") is None
    assert table.figure("PATROL", None, "decoder_mse") is None
    assert table.key("decoder", "mse") is None
    assert load("cem_s5").key("gan", "mse") == "gan_mse"


def test_a_table_that_is_not_there_is_refused_by_name():
    with pytest.raises(ValueError, match=r"expected a published table of cem_s1, .*, got 'cem_s7'"):
        load("cem_s7")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": [{"method": "a", "values": [1.0, 2.0]}]}, "1 values in row 'a', got 2"),
        ({"corrections": [{"method": "a", "column": "k", "printed": 2.0, "corrected": 3.0, "reason": "r"}]}, "printed"),
        ({"corrections": [{"method": "b", "column": "k", "printed": 1.0, "corrected": 3.0, "reason": "r"}]}, "printed"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(change, said):
    document = {
        "source": "s",
        "dataset": "d",
        "model": "m",
        "columns": [{"key": "k", "metric": "mse"}],
        "rows": [{"method": "a", "values": [1.0]}],
    }
    PublishedTable.parse(document, source="test")
    with pytest.raises(ValueError, match=said):
        PublishedTable.parse(document | change, source="test")
