import pytest

from splitleak.eval.campaign.classes.target_measures import TargetMeasuresEntry


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"robustness": {"steps": 0}}, "steps"),
        ({"robustness": {"step_size": 1}}, "step_size"),
        ({"training_time": {"rounds": 0}}, "rounds"),
        ({"extraction": {"attacks": ["PPA"], "student": {"width": 0}}}, "width"),
        ({"backdoors": [{"trigger": "trojan"}]}, "trigger"),
        ({"robustness": {"seed": 1}}, "expected no seed, which is the target's, got one in robustness"),
        ({"backdoors": [{}, {"seed": 1}]}, "got one in backdoor 2"),
        ({"backdoors": [{"fraction": 0.05}, {"fraction": 0.05, "target": 1}]}, "different triggers or fractions"),
    ],
)
def test_settings_that_do_not_fit_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        TargetMeasuresEntry.parse(given, source="test")


def test_each_seed_has_settings_of_its_own():
    entry = TargetMeasuresEntry(robustness={"images": 10}, backdoors=({"trigger": "blended"},))
    assert [entry.robust(seed).seed for seed in (0, 3)] == [0, 3]
    assert entry.robust(3).images == 10
    assert [poison.seed for poison in entry.poisons(2)] == [2]


def test_a_line_tells_what_is_asked_for_and_no_more():
    asked = {"robustness": {}, "extraction": {"attacks": ["PPA"]}, "backdoors": [{"fraction": 0.05}]}
    told = TargetMeasuresEntry.parse(asked, source="test").summary()
    assert told == "confidence, robustness, extraction from PPA, badnets 5 %"
    assert TargetMeasuresEntry().summary() == "confidence"
