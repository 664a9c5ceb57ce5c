from splitleak.eval.campaign.audit.predictions import inversions, shares

SHAPE = (1, 32, 32)


def names(minutes, pairs=2500):
    return [entry.name for entry in inversions(minutes, pairs, 10, SHAPE)]


def test_the_first_is_always_there_and_the_budget_decides_on_the_others():
    assert names(0.1) == ["inversion"]
    everything = names(600)
    assert everything[0] == "inversion"
    assert everything[1:] == [f"inversion {queries} queries" for queries in (1000, 300, 100)] + ["inversion longer"]
    assert names(600, pairs=200) == ["inversion", "inversion 100 queries", "inversion longer"]


def test_fewer_queries_train_longer_on_each_and_the_longest_four_times_as_long():
    epochs = {entry.name: dict(entry.settings).get("epochs") for entry in inversions(600, 2500, 10, SHAPE)}
    assert epochs["inversion"] is None
    assert epochs["inversion 100 queries"] == epochs["inversion longer"]


def test_no_more_scores_are_shared_than_a_service_has():
    assert list(shares(10).values()) == [0, 3, 1]
    assert list(shares(3).values()) == [0, 1]
