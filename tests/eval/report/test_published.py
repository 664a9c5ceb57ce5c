import itertools
import math
import re
from statistics import mean

import pytest

from splitleak.eval.report.published import PublishedTable, load, names

ROWS = {"Bottleneck", "DistCorr", "Dropout", "PATROL", "ResSFL", "Noise_Nopeek", "Noise_ARL"}
OF_METHODS = ("cem_s1", "cem_s2", "cem_s3", "cem_s4", "cem_s5")


OF_CLASSES = tuple(name for name in names() if not name.startswith("cem"))


def where(row):
    return {"setting": row.setting, "setup": row.setup}


def values(table, setting, setup=None):
    """All that a table has of the head of low rank."""
    [row] = [row for row in table.rows if row.place == ("LoR", None, setting, setup)]
    return row.values


def differences(table, method, column, *, setup=None, setting=None):
    """Undefended minus ``method``, both as corrected."""
    undefended = table.figure("none", None, column, setup=setup)
    return undefended.value - table.figure(method, None, column, setting=setting, setup=setup).value


def test_the_six_tables_of_the_cem_supplement_are_there():
    found = [name for name in names() if name.startswith("cem")]
    assert found == [*OF_METHODS, "cem_s6"]
    for name in found:
        assert load(name).source.endswith(f"table {name.removeprefix('cem_').upper()}")


@pytest.mark.parametrize("name", OF_CLASSES)
def test_a_table_of_class_inversion_says_where_it_stands_and_what_its_spread_is(name):
    table, number = load(name), name.split("_")[1]
    assert re.search(r"section 4\.4" if number == "s44" else rf"table {number[1:]}\b", table.source)
    assert any("±" in remark for remark in table.remarks)


@pytest.mark.parametrize("name", OF_CLASSES)
def test_every_figure_of_a_table_of_class_inversion_is_one_that_its_metric_can_have(name):
    table = load(name)
    shares = ("accuracy", "attack_accuracy", "attack_accuracy_top5", "attack_success", "attack_success_targeted")
    for row in table.rows:
        figures = {column.key: table.figure(row.method, row.plus, column.key, **where(row)) for column in table.columns}
        assert any(figures.values())
        for column in table.columns:
            if (figure := figures[column.key]) is not None:
                assert 0 <= figure.value <= (100 if column.metric in shares else 20_000)
                first = figures.get(column.key.replace("top5", "top1"))
                assert column.metric != "attack_accuracy_top5" or first is None or figure.value >= first.value


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


def test_bido_loses_six_points_and_the_attacks_ten_and_twenty_nine():
    gmi, ked, mnist = load("bido_t1"), load("bido_t2"), load("bido_t3_mnist")
    best = {"method": "BiDO-HSIC", "setting": "(c)"}
    assert differences(gmi, column="accuracy", **best) == pytest.approx(6, abs=0.2)
    assert differences(gmi, column="gmi_top1", **best) > 10
    assert differences(gmi, column="gmi_top5", **best) == pytest.approx(20, abs=0.2)
    assert differences(ked, column="ked_top1", **best) > 29
    assert differences(ked, column="ked_top5", **best) > 20
    assert differences(mnist, "BiDO-HSIC", "ked_top1") == pytest.approx(38, abs=0.2)
    assert differences(mnist, "BiDO-HSIC", "accuracy") == pytest.approx(0.3, abs=0.05)
    assert differences(mnist, "MID", "ked_top1") < 0


def test_both_tables_of_bido_have_the_same_models():
    accuracies = [{row.place: row.values[0] for row in load(name).rows} for name in ("bido_t1", "bido_t2")]
    assert accuracies[0] == accuracies[1]


def test_bido_keeps_its_accuracy_by_both_terms_together_only():
    table = load("bido_t5")
    assert table.figure("BiDO-HSIC, input term only", None, "accuracy").value < 1
    assert differences(table, "BiDO-COCO, input term only", "ked_top1") < 0
    both, without = (table.figure(name, None, "accuracy").value for name in ("BiDO-HSIC", "BiDO-HSIC, label term only"))
    assert both > without


def test_freezing_costs_six_points_on_average_once_a_misprint_is_corrected():
    table = load("tldmi_t3")
    setups = list(dict.fromkeys(row.setup for row in table.rows))
    assert len(setups) == 6

    def drops(column, of=setups):
        return [differences(table, "TL-DMI", column, setup=setup) for setup in of]

    assert mean(drops("ked_accuracy")) == pytest.approx(5.77, abs=0.005)
    assert mean(drops("gmi_accuracy")) == pytest.approx(5.77, abs=0.005)
    assert (min(drops("ked_top1")), max(drops("ked_top1"))) == pytest.approx((13.33, 42.60))
    celeba = [setup for setup in setups if setup.endswith("CelebA")]
    assert (min(drops("gmi_top1", celeba)), max(drops("gmi_top1", celeba))) == pytest.approx((11.14, 31.94))
    assert min(drops("gmi_top1")) < 11  # the text's range leaves FFHQ out
    figure = table.figure("TL-DMI", None, "ked_accuracy", setup="FaceNet64, CelebA")
    assert (figure.printed, figure.value) == (83.41, 83.61)


@pytest.mark.parametrize(
    ("name", "attack", "ratios"),
    [
        ("tldmi_t5", "lomma_top1", {("BiDO-HSIC", None): 2.91, ("TL-DMI", "13.9 M"): 3.58, ("TL-DMI", "11.5 M"): 3.54}),
        ("tldmi_t7", "brep_top1", {("BiDO-HSIC", None): 3.46, ("TL-DMI", None): 4.95}),
    ],
)
def test_the_ratios_of_both_drops_are_those_printed(name, attack, ratios):
    table = load(name)
    for (method, setting), ratio in ratios.items():
        lost = [differences(table, method, column, setting=setting) for column in (attack, "accuracy")]
        assert lost[0] / lost[1] == pytest.approx(ratio, abs=0.01)


def test_freezing_and_bido_together_are_worth_what_the_text_says():
    table = load("tldmi_s44")
    alone, both = (
        [table.figure(method, plus, column).value for column in ("accuracy", "ked_top1")]
        for method, plus in (("BiDO-HSIC", None), ("TL-DMI", "BiDO-HSIC"))
    )
    assert both[0] - alone[0] == pytest.approx(1.8)
    assert alone[1] - both[1] == pytest.approx(27.36)
    assert [row.name for row in table.rows][-1] == "TL-DMI + BiDO-HSIC"


def test_freezing_is_the_only_defense_that_trains_faster():
    table = load("tldmi_t12")
    seconds = {row.name: row.values[0] / table.rows[0].values[0] for row in table.rows if row.setup == "VGG16"}
    printed = {"none": 1, "BiDO-COCO": 1.55, "BiDO-HSIC": 1.55, "TL-DMI": 0.69, "TL-DMI + BiDO-HSIC": 0.96}
    assert seconds == pytest.approx(printed, abs=0.005)


def test_the_averages_over_three_trainings_are_those_of_the_rows():
    table = load("tldmi_t13")
    for row in table.averages:
        runs = [each for each in table.rows if each.setup == row.setup]
        assert len(runs) == 3
        for index, average in enumerate(row.values):
            if average != "-":
                assert mean(run.values[index] for run in runs) == pytest.approx(average, abs=0.005)


def test_fewer_trained_parameters_leave_less_accuracy():
    rows = [row for row in load("tldmi_t11").rows if row.setup == "VGG16" and row.name == "TL-DMI"]
    assert rows == sorted(rows, key=lambda row: row.values[0], reverse=True)
    assert rows == sorted(rows, key=lambda row: row.values[1], reverse=True)
    assert load("tldmi_t11").figure("none", None, "accuracy", setup="VGG16").value == 89.0


def test_calor_lowers_both_attacks_by_what_its_text_says():
    low, high, steps = load("calor_t1"), load("calor_t2"), load("calor_t3")
    for attack, points in (("if_top1", 38.4), ("plg_top1", 52.0)):
        assert differences(high, "CALoR", attack, setup="MS-Celeb-1M") == pytest.approx(points)
        best = min(low.figure(method, None, attack).value for method in ("MID", "BiDO-HSIC", "LS", "TL-DMI"))
        assert best - low.figure("CALoR", None, attack).value > 30
    for setup, points in (("IR-152, 64 x 64", 3), ("ResNet-152, 224 x 224", 4)):
        without, adapted = (steps.figure(method, None, "if_top1", setup=setup).value for method in ("LoR", "CALoR"))
        assert without - adapted == pytest.approx(points)


def test_tables_of_one_model_agree_on_it():
    first, ranks, high = load("calor_t1"), load("calor_t4"), load("calor_t18")
    for name in ("calor_t8", "calor_t9", "calor_t10"):
        assert [(row.method, row.values[0]) for row in load(name).rows] == [
            (row.method, row.values[0]) for row in first.rows
        ]
    activation, steps = load("calor_t5"), load("calor_t3")
    assert values(activation, "tanh", "IR-152, 64 x 64") == values(ranks, "rank 20")
    assert values(activation, "tanh", "ResNet-152, 224 x 224") == values(high, "rank 50")
    assert values(steps, None, "IR-152, 64 x 64") == values(ranks, "rank 30")
    assert values(steps, None, "ResNet-152, 224 x 224") == values(high, "rank 50")


@pytest.mark.parametrize("name", ["calor_t4", "calor_t18"])
def test_a_lower_rank_leaves_less_to_the_attack(name):
    attacks = [row.values[1] for row in load(name).rows]
    assert all(after >= before - 1 for before, after in itertools.pairwise(attacks))


def test_low_rank_withstands_the_blended_trigger_and_not_the_other():
    table = load("calor_t17")
    assert differences(table, "LoR", "success", setup="Blended") > 40
    assert differences(table, "LoR", "success", setup="BadNets") < 2
    assert table.figure("LoR", None, "success", setup="clean") is None


def test_a_table_that_is_not_there_is_refused_by_name():
    with pytest.raises(ValueError, match=r"expected a published table of bido_t1, .*, got 'cem_s7'"):
        load("cem_s7")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": [{"method": "a", "values": [1.0, 2.0]}]}, "1 values in row 'a', got 2"),
        ({"corrections": [{"method": "a", "column": "k", "printed": 2.0, "corrected": 3.0, "reason": "r"}]}, "printed"),
        ({"rows": [{"method": "a", "values": [1.0]}, {"method": "a", "values": [2.0]}]}, "each row once"),
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
