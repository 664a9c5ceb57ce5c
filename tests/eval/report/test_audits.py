from dataclasses import replace

import pytest

from splitleak.eval.campaign.audit.config import VERSION
from splitleak.eval.campaign.config import AttackEntry
from splitleak.eval.report.audits import audit_sheets, audits, curves, rebuilt_share, verdicts
from splitleak.eval.report.results import Results

ERRORS = {
    "audit - linear": 0.03,
    "audit - decoder": 0.02,
    "audit - decoder 100 queries": 0.025,
    "audit - decoder 16 crossings": 0.01,
    "gan": 0.001,
}


@pytest.fixture
def audited(fake_campaign):
    """A campaign with an audit and another attack, of seeds 0 and 1; ``missing`` attacks are not measured.

    ``small``: its pictures have no SSIM. ``errors``: by attack, the MSE where it is another than in `ERRORS`.
    """

    def make(missing=(), *, small=False, **errors):
        def change(cell, figures):
            views = 16 if "16" in cell["attack"] else 1
            cell["views"] = views
            figures["mse"] = errors.get(cell["attack"].rpartition(" - ")[2], ERRORS[cell["attack"]]) + (
                0.005 if cell["plus"] else 0
            )
            figures |= {
                "ssim": None if small else 1 - 10 * figures["mse"],
                "constant": 0.075,
            }  # of four: a variance of 0.1
            figures["queries"] = (100 if "queries" in cell["attack"] else 2000) * views
            return cell["attack"] not in missing

        results = Results.load(fake_campaign(change, methods=("Bottleneck",), attacks=tuple(ERRORS)))
        entries = [{"name": "audit", "attack": "audit", "settings": {"threat": "white-box", "minutes": 3}}]
        return replace(results, config={**results.config, "attacks": entries})

    return make


def test_the_list_is_named_by_the_version_on_record(audited):
    results = audited()
    [entry] = results.config["attacks"]
    named = {**entry, "settings": {**entry["settings"], "version": "audit 7"}}
    [audit] = audits(replace(results, config={**results.config, "attacks": [named]}))
    assert audit.title == "builtin, vgg: audit 7, white-box"
    [written] = AttackEntry(**entry).document()["settings"].items() - entry["settings"].items()
    assert written == ("version", VERSION)


def texts(sheet):
    return [[text.ours for text in row] for row in sheet.rows]


def test_without_an_audit_there_is_none(fake_campaign):
    results = Results.load(fake_campaign())
    assert (audits(results), audit_sheets(results), verdicts(results)) == ([], [], [])


def test_the_strongest_attack_is_told_by_each_measure_once_and_at_any_number_of_crossings(audited):
    table, queries, crossings = audit_sheets(audited())
    assert table.title == "Audit (builtin, vgg: audit 1, white-box)"
    plain, twin = texts(table)
    assert plain[:4] == ["Bottleneck", "90.00 ± 0.00", "0.0200 ± 0.0000", "decoder"]
    assert plain[4:6] == ["0.800 ± 0.000", "decoder"]
    assert plain[8:] == ["0.0100 ± 0.0000", "decoder 16 crossings", "90.0 ± 0.0"]
    assert (twin[2], twin[8]) == ("0.0250 ± 0.0000", "0.0150 ± 0.0000")
    assert [name for _, name in queries.columns] == ["target", "100", "2,000"]
    assert texts(queries)[0][1:] == ["0.0250 ± 0.0000", "0.0200 ± 0.0000"]
    assert [name for _, name in crossings.columns] == ["target", "1", "16"]
    assert texts(crossings)[0][1:] == ["0.0200 ± 0.0000", "0.0100 ± 0.0000"]


def test_the_verdict_says_how_much_is_given_back_beside_the_mean_picture(audited):
    first, _ = verdicts(audited())
    assert first == (
        "Bottleneck: the strongest of 3 attacks at one crossing gives back 80 % of what tells the victims' pictures "
        "apart (MSE 0.0200, variance 0.1000; zero-padded SSIM 0.800); after up to 16 crossings MSE 0.0100."
    )


@pytest.mark.parametrize(
    ("missing", "begins", "ends"),
    [
        (
            "decoder 16 crossings",
            "strongest of 2 attacks at one crossing gives back 75 %",
            "zero-padded SSIM 0.750); 2 of 4",
        ),
        (
            "decoder 100 queries",
            "one attack at one crossing gives back 70 %",
            "given, MSE 0.0100; 2 of 4",
        ),
    ],
)
def test_the_verdict_counts_what_was_measured_alone(audited, missing, begins, ends):
    first, _ = verdicts(audited(missing=("audit - decoder", f"audit - {missing}")))
    assert first.startswith(f"Bottleneck: the {begins}")
    assert first.endswith(f"{ends} attacks measured.")


def test_an_attack_that_one_seed_lacks_is_not_measured(audited):
    results, lacking = audited(), "Bottleneck, audit - linear, seed 1"
    cells = tuple(replace(cell, record=None) if cell.label == lacking else cell for cell in results.cells)
    first, _ = verdicts(replace(results, cells=cells))
    assert first.endswith("; 3 of 4 attacks measured.")


@pytest.mark.parametrize(
    ("linear", "missing", "said"),
    [(0.015, (), True), (0.03, (), False), (0.015, ("audit - decoder 16 crossings",), False)],
)
def test_it_is_said_where_the_strongest_attack_was_not_run_on_several_crossings(audited, linear, missing, said):
    results = audited(missing, linear=linear)
    first, _ = verdicts(results)
    [note] = audit_sheets(results)[0].notes
    assert ("; after up to 16 crossings, which linear was not given, MSE 0.0100." in first) == said
    assert ("After several crossings an attack was not run that is the strongest at one" in note) == said


def test_what_is_not_measured_yet_is_left_out(audited):
    results = audited(missing=("audit - decoder", "audit - decoder 100 queries"))
    [table] = audit_sheets(results)
    assert texts(table)[0][2:4] == ["0.0300 ± 0.0000", "linear"]


def test_attacks_that_do_worse_than_the_mean_picture_give_nothing_back(audited):
    first, _ = verdicts(audited(linear=0.2, decoder=0.15, **{"decoder 100 queries": 0.3, "decoder 16 crossings": 0.2}))
    assert "at one crossing gives back nothing of what tells the victims' pictures apart (MSE 0.15" in first


def test_of_one_victim_the_verdict_tells_the_mse(audited):
    """Nothing tells one picture from others, and there was no verdict at all."""
    results = audited()
    cells = [
        replace(cell, record=cell.record.model_copy(update={"n": 1, "constant_mse": 0.0})) for cell in results.cells
    ]
    first, _ = verdicts(replace(results, cells=tuple(cells)))
    assert first == (
        "Bottleneck: the strongest of 3 attacks at one crossing has an MSE of 0.0200; zero-padded SSIM 0.800; "
        "after up to 16 crossings MSE 0.0100."
    )


def test_an_audit_that_has_only_begun_has_no_verdict(audited):
    nothing = audited(missing=tuple(ERRORS))
    assert verdicts(nothing) == []
    assert set(texts(audit_sheets(nothing)[0])[0][1:]) == {"-"}


def test_the_share_that_is_rebuilt_is_0_for_the_mean_picture_and_100_for_a_copy(audited):
    for cell, record in audited().measured:
        assert rebuilt_share(cell) == pytest.approx(100 * (1 - record.mse / 0.1))
    assert rebuilt_share(replace(cell, record=None)) is None


def test_few_victims_are_as_well_rebuilt_as_many_by_an_attack_of_one_mse(audited):
    """Of two, each is half of their own mean picture, whose error is half of the variance."""
    [(cell, record), *_] = audited().measured
    shares = [
        rebuilt_share(replace(cell, record=record.model_copy(update={"n": n, "constant_mse": 0.1 * (1 - 1 / n)})))
        for n in (2, 10, 1000)
    ]
    assert shares == pytest.approx([100 * (1 - record.mse / 0.1)] * 3)


def test_of_other_results_there_is_a_curve_where_pictures_crossed_at_different_numbers_of_times(fake_campaign):
    def crossing(cell, figures):
        cell["views"] = 16 if cell["attack"] == "gan" else 1

    [curve] = curves(Results.load(fake_campaign(crossing, methods=("Bottleneck",))))
    assert curve.places == [1, 16]
    assert list(curve.rows) == ["Bottleneck", "Bottleneck + CEM"]
    assert curves(Results.load(fake_campaign(methods=("Bottleneck",)))) == []


def test_of_pictures_too_small_for_ssim_the_verdict_tells_the_mse(audited):
    results = audited(small=True)
    assert "(MSE 0.0200, variance 0.1000)" in verdicts(results)[0]
    assert texts(audit_sheets(results)[0])[0][4:6] == ["-", "-"]
