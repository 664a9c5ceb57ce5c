import pytest

from splitleak.eval.report.beside_published import beside_the_papers, published_of
from splitleak.eval.report.published import defenses
from splitleak.eval.report.report import write_report
from splitleak.eval.report.results import Results

TARGETS = [
    {"name": "none", "defenses": []},
    {"name": "BiDO nHSIC", "defenses": [{"name": "bido", "config": {}}], "published": "BiDO-HSIC"},
    {"name": "ours alone", "defenses": [{"name": "bido", "config": {}}], "published": None},
    {"name": "TL 2", "defenses": [{"name": "transfer", "config": {}}], "published": "TL-DMI"},
]
SHARES = {
    ("GMI", "none"): 0.8,
    ("KED", "none"): 0.9,
    ("GMI", "BiDO nHSIC"): 0.5,
    ("KED", "BiDO nHSIC"): 0.4,
    ("GMI", "ours alone"): 0.1,
    ("KED", "ours alone"): 0.1,
    ("GMI", "TL 2"): 0.8,
    ("KED", "TL 2"): 0.95,
}


@pytest.fixture
def folder(fake_predictions):
    """Two attacks on four targets; a defended one is 0.02 less accurate, and 0.01 more for each seed."""

    def make(targets=TARGETS, left_out=(), **config):
        def change(record):
            cell = record["cell"]
            record["target"]["accuracy"] = 0.9 - (0 if cell["row"] == "none" else 0.02 + 0.01 * cell["seed"])
            record["scores"]["recognised"] = {"mean": SHARES[cell["figure"], cell["row"]], "images": [[0, 1]]}
            return (cell["figure"], cell["row"], cell["seed"]) not in left_out

        rows = [target["name"] for target in TARGETS]
        figures = {
            name: {row: {"kind": "classes", "attack": attack, "id": f"{name}-{row}"} for row in rows}
            for name, attack in (("GMI", "gmi"), ("KED", "ked-mi"))
        }
        attacks = [{"name": "GMI", "attack": "gmi"}, {"name": "KED", "attack": "ked-mi"}]
        return fake_predictions(
            figures, change, config={"kind": "classes", "attacks": attacks, "targets": targets, **config}
        )

    return make


@pytest.fixture
def sheet(folder):
    def make(*args, **changes):
        [found] = beside_the_papers(Results.load(folder(*args, **changes)))
        return [[str(text) for text in row] for row in found.rows], found.notes

    return make


def test_ours_stand_before_the_papers_of_the_same_defense(sheet):
    rows, _ = sheet()
    assert [row[1] for row in rows if row[1].startswith("ours")] == ["ours: BiDO nHSIC", "ours: TL 2"]
    assert rows[0][0] == rows[1][0] == "BiDO-HSIC"
    assert rows[1][1].startswith("Peng et al., BiDO")
    named = [row[0] for row in rows]
    assert named == sorted(named, key=["BiDO-HSIC", "TL-DMI"].index)


def test_our_differences_are_paired_by_seed_and_by_the_strongest_attack_on_each(sheet):
    rows, _ = sheet()
    assert rows[0][2:] == [
        "GMI 2",
        "90.0 ± 0.0",
        "90.0 ± 0.0",  # KED, of the undefended
        "87.5 ± 0.7",
        "50.0 ± 0.0",
        "-2.5 ± 0.7",
        "-40.0 ± 0.0",
    ]
    [frozen] = [row for row in rows if row[1] == "ours: TL 2"]
    assert frozen[-1] == "+5.0 ± 0.0"


def test_the_strongest_of_some_attacks_has_a_row_of_its_own(sheet):
    rows, _ = sheet(strongest={"losses": ["GMI"]})
    assert [row[1] for row in rows[:2]] == ["ours: BiDO nHSIC", "ours: BiDO nHSIC, losses"]
    assert [rows[1][place] for place in (2, 4, 6, 8)] == ["GMI 2", "80.0 ± 0.0", "50.0 ± 0.0", "-30.0 ± 0.0"]


def test_a_seed_that_lacks_an_attack_does_not_count(sheet):
    rows, _ = sheet(left_out={("GMI", "BiDO nHSIC", 1)})
    assert rows[0][-1] == "-40.0 [1]"
    assert rows[0][-2] == "-2.5 ± 0.7"


def test_what_is_not_measured_yet_leaves_the_papers_standing(sheet):
    everything = {(figure, row, seed) for figure, row in SHARES for seed in (0, 1)}
    rows, _ = sheet(left_out=everything)
    assert rows[0][2:] == ["-"] * 7
    assert rows[1][-2:] == ["-5.9", "-10.3"]


def test_misprints_are_marked_and_said(sheet):
    rows, notes = sheet()
    [marked] = [row for row in rows if "FaceNet64, CelebA" in row[1]]
    assert marked[5] == "83.61†"
    assert any("FaceNet64, CelebA: printed 83.41, must be 83.61" in note for note in notes)
    assert "absolute figures do not compare" in notes[0]


@pytest.mark.parametrize(
    "targets",
    [
        [{name: value for name, value in target.items() if name != "published"} for target in TARGETS],
        [target for target in TARGETS if target["name"] != "none"],
        [],
    ],
    ids=["planned before there was the field", "every target defended", "no targets"],
)
def test_a_campaign_with_nothing_to_set_beside_has_no_such_table(folder, targets):
    assert beside_the_papers(Results.load(folder(targets))) == []


def test_a_campaign_of_other_figures_has_no_such_table(fake_predictions):
    assert beside_the_papers(Results.load(fake_predictions())) == []


def test_the_report_has_it_in_both_forms(folder, tmp_path, parsed, undrawn):
    page = write_report(folder(), tmp_path / "report")
    written = (tmp_path / "report" / "report.md").read_text()
    assert "### Beside the papers" in written
    assert "Peng et al., BiDO, KDD 2022, table 2: CelebA, (c)" in written
    assert (
        written.index("### Targets and attacks")
        < written.index("### Beside the papers")
        < written.index("\n## Figure GMI")
    )
    assert "Beside the papers" in "".join(parsed(page.read_text()).text)


@pytest.mark.parametrize("defense", ["MID", "BiDO-HSIC", "BiDO-COCO", "TL-DMI", "LS", "LoR", "CALoR"])
def test_a_table_gives_each_setup_of_a_defense_once(defense):
    found = published_of(defense)
    assert found
    assert len({each.source for each in found}) == len(found)
    assert all(0 <= figure.value <= 100 for each in found for figure in (*each.accuracy, *each.recognised))


def test_of_several_settings_the_one_that_costs_least_is_taken():
    [gmi] = [each for each in published_of("MID") if "BiDO, KDD 2022, table 1:" in each.source]
    assert gmi.source.endswith("CelebA, (c)")
    assert (gmi.attack, gmi.costs, gmi.takes) == ("gmi", pytest.approx(-7.51), pytest.approx(-1.0))


def test_of_several_attacks_each_model_has_the_strongest_on_it():
    [image_net] = [each for each in published_of("TL-DMI") if "CALoR, table 2: ImageNet" in each.source]
    assert (image_net.attack, image_net.recognised[1].value) == ("if-gmi", 64.6)
    assert image_net.recognised[0].value == 85.8
    [both] = published_of("TL-DMI + BiDO-HSIC")
    assert both.takes == pytest.approx(18.87 - 90.87)


def test_a_table_without_an_undefended_model_is_left_out():
    assert not any("table 4" in each.source or "table 18" in each.source for each in published_of("LoR"))
    assert "none" not in defenses()
