from splitleak.eval.report.headline import attacked, threat_model, verdict
from splitleak.eval.report.results import Results


def said(folder, doubts=()):
    return " ".join(verdict(Results.load(folder), doubts)).replace("\xa0", " ")


def test_the_verdict_names_who_gives_most_and_who_gives_least(fake_campaign):
    def with_constant(cell, figures):
        figures["constant"] = 0.075  # of four: a variance of 0.1

    text = said(fake_campaign(with_constant, methods=("Bottleneck", "PATROL"), seeds=(0,)))
    assert text.startswith("Most is given away by Bottleneck (accuracy 90.0 %): the strongest attack gives back 90 %")
    assert "Least by PATROL + CEM (accuracy 89.7 %): 58 %." in text


def test_a_weak_attacker_of_the_same_scores_protects_nobody(fake_predictions):
    """Rows that differ in the attacker alone are one: what the strongest has of it is told."""

    def change(record):
        record["constant_mse"] = 0.075  # of four: a variance of 0.1
        error = {"one score": 0.06, "one score, weaker": 0.1, "all scores": 0.02}[record["cell"]["row"]]
        record["scores"]["mse"]["mean"] = error

    rows = {"one score": {"share": 1}, "one score, weaker": {"share": 1}, "all scores": {"share": 0}}
    text = said(fake_predictions({"f": {"one score, weaker": rows["one score, weaker"]}, "g": rows}, change))
    assert "Most is given away by all scores (accuracy 90.0 %, Figure g): the strongest attack gives back 80 %" in text
    assert "Least by one score (accuracy 90.0 %, Figure g): 40 %." in text


def test_more_crossings_of_a_picture_never_give_less(fake_campaign):
    """The strongest was not run on several, and the last was not measured: what is known by then is told."""

    def change(cell, figures):
        cell["views"] = {"decoder 8": 8, "decoder 16": 16}.get(cell["attack"], 1)
        figures["constant"] = 0.075  # of four: a variance of 0.1
        figures["mse"] = {"decoder": 0.03, "gan": 0.01, "decoder 8": 0.02}.get(cell["attack"], 0)
        return cell["attack"] != "decoder 16" and not cell["plus"]

    attacks = ("decoder", "gan", "decoder 8", "decoder 16")
    text = said(fake_campaign(change, methods=("Bottleneck",), attacks=attacks, seeds=(0,)))
    assert "the strongest attack gives back 90 %" in text
    assert "After up to 8 crossings of the same picture it is 90 %." in text


def test_the_verdict_of_a_run_that_is_not_at_its_end_says_so(fake_campaign):
    folder = fake_campaign(lambda cell, figures: cell["attack"] != "gan", methods=("Bottleneck",), seeds=(0, 1))
    assert "Only 4 of 8 cells are measured: the others may change who gives most and least away." in said(folder)


def test_targets_of_several_data_sets_are_ordered_by_what_is_told_of_them(fake_campaign):
    """An error counts beside that of the mean picture: of dark pictures all errors are small."""

    def change(cell, figures):
        cell["dataset"] = "dark" if cell["method"] == "Bottleneck" else "bright"
        figures["constant"] = 0.015 if cell["method"] == "Bottleneck" else 0.3

    text = said(fake_campaign(change, methods=("Bottleneck", "PATROL"), seeds=(0,)))
    assert "Most is given away by PATROL (accuracy 90.0 %, bright, vgg): the strongest attack gives back 90" in text
    assert "Least by Bottleneck + CEM (accuracy 89.7 %, dark, vgg): 40 %." in text


def test_without_the_error_of_a_constant_picture_it_tells_the_mse(fake_campaign):
    folder = fake_campaign(methods=("Bottleneck",), seeds=(0,))
    for path in folder.glob("cells/*/score/pictures.npz"):
        path.unlink()
    assert "has an MSE of 0.0100" in said(folder)


def test_flags_are_told_of_in_the_verdict(fake_campaign):
    folder = fake_campaign(methods=("Bottleneck",), seeds=(0,))
    assert "One flag was raised" in said(folder, [("a", "b")])
    assert "2 flags were raised" in said(folder, [("a", "b"), ("c", "d")])
    assert "raised" not in said(folder)


def test_where_nothing_is_measured_nothing_is_said(fake_campaign):
    results = Results.load(fake_campaign(lambda cell, figures: False, methods=("Bottleneck",)))
    assert (verdict(results, ()), threat_model(results), attacked(results)) == ([], "", "")


def test_the_threat_model_says_who_sees_what_and_asks_how_often(fake_campaign):
    results = Results.load(fake_campaign(methods=("Bottleneck",), seeds=(0,)))
    assert threat_model(results).startswith("The attacker reads the features on the wire")


def test_what_was_attacked_is_named_with_its_cut_and_images(fake_campaign):
    text = attacked(Results.load(fake_campaign(methods=("Bottleneck",), seeds=(0,))))
    assert "cut" in text
    assert "victims" in text


def test_the_strongest_attack_is_that_on_the_target_whatever_the_seeds_of_the_others(fake_record, tmp_path):
    """Of loose records: the best of those of each seed were averaged, a weak attack's with the strongest's."""
    about = {"dataset": "builtin", "model": "vgg", "method": "Bottleneck", "plus": None, "seed": 0, "target": "t"}
    for attack, seed, mse in (("decoder", 0, 0.05), ("decoder", 1, 0.07), ("gan", 0, 0.01)):
        record = fake_record({**about, "id": f"{attack}{seed}", "attack": attack, "views": 1}, mse)
        run = record.attack.model_copy(update={"seed": seed})
        changed = record.model_copy(update={"cell": None, "attack": run})
        changed.write(tmp_path / "run" / f"{attack}{seed}" / "record.json")
    assert said(tmp_path / "run") == "t (accuracy 90.0 %): the strongest attack has an MSE of 0.0100."
