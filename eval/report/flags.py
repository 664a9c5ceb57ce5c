"""Flags: machine-made doubts about a number that may flatter a defense."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from splitleak.attacker.class_inversion import CLASS_ATTACKS
from splitleak.attacker.reconstruction import ATTACKS
from splitleak.cloud.policy import PolicyConfig
from splitleak.defenses import DEFENSES

_CHANCE = 2  # times the accuracy of chance, and less
_STILL_FALLING = 0.02  # relative fall of the held-out error over the last tenth of the epochs
_STILL_RISING = 0.03  # of the target's mean confidence over the last quarter of a search
_WORSE = 1.02  # times the MSE of the start: less is chance
_CONSTANT = 0.95  # times the error of a constant picture: more is hardly better
_UNSEEN = 0.01  # share of all that the victims' scores sum to
_NO_GRADIENT = 1e-8  # norm; float32 loses what the pixels add long before

Cell = Mapping[str, Any]


def flags(record: Mapping[str, Any]) -> list[str]:
    """What a reader should doubt in a cell's record, each with what to do; empty if nothing.

    ``target``: the classifier itself is hardly better than chance, so that its answers tell nothing.
    ``mean image``: the attack is hardly better than always answering the mean of its public images.
    ``not converged``: its held-out error was still falling when training ended, or the attacked model still getting
    surer of its pictures when a search did.
    ``zero gradient``: it descends on the pixels, and no gradient came back to them.
    ``start``: it trained on from a decoder and never did better than that.
    """
    findings, found = record["attack"]["findings"], []
    target = record.get("target", {})
    classes = target.get("target", {}).get("model", {}).get("classes")
    if classes and target["accuracy"] < _CHANCE / classes:
        found.append("target: hardly better than chance; what is rebuilt of its answers speaks for no classifier")
    if "mean_image_mse" in findings and findings["held_out_mse"] > _CONSTANT * findings["mean_image_mse"]:
        found.append("mean image: the attack is hardly better than a constant picture; try a stronger one")
    errors = [figures["held_out_mse"] for figures in findings.get("history", ()) if "held_out_mse" in figures]
    tenth = max(1, len(errors) // 10)
    if len(errors) > tenth and min(errors[-tenth:]) < (1 - _STILL_FALLING) * min(errors[:-tenth]):
        found.append("not converged: the attack was still getting better when it ended; train it longer")
    surer = [figures["confidence"] for figures in findings.get("history", ()) if "confidence" in figures]
    quarter = len(surer) // 4
    if quarter and fmean(surer[-quarter:]) > fmean(surer[-2 * quarter : -quarter]) + _STILL_RISING:
        found.append("not converged: the target was still getting surer of the pictures; give the search more steps")
    gradient = findings.get("gradient_norm_start")
    if gradient is not None and not gradient > _NO_GRADIENT:
        found.append(
            "zero gradient: the defense hides the gradient, which is not the image; go around it (an encoder without "
            "what blocks it, or an attack without gradients)"
        )
    if findings.get("chosen_epoch", 1) <= findings.get("decoder_epochs", 0):
        found.append("start: no epoch beat the decoder that the attack started from, so its score is that decoder's")
    return found


def campaign_flags(
    records: Sequence[Mapping[str, Any]], leakage: Mapping[str, Mapping[str, Any]]
) -> list[tuple[Cell, str]]:
    """The doubts about every record of a campaign, and those that only records side by side can raise.

    ``randomised``: a defense draws anew at each call, and no attack on the target saw an image more than once.
    ``white box``: the best attack that knows the encoder's weights does worse than the best that does not.
    ``below the bound``: an attack that saw each image once beat the bound, so its assumptions fail on this target.
    ``start``: an attack does worse than the attack that its ``start`` names.

    Args:
        records: Records with their ``cell``.
        leakage: What `splitleak.eval.targets.leakage.measure` found of each target, by its key; a target may lack it.

    Returns:
        The cell a doubt is about and the doubt; one about a whole target is told of the first of its cells.
    """
    found = [(record["cell"], flag) for record in records for flag in flags(record)]
    by_target: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_target.setdefault(record["cell"]["target"], []).append(record)
    for target, ours in by_target.items():
        whole = {**ours[0]["cell"], "attack": None}
        found += [(whole, flag) for flag in (*_randomised(ours), *_white_box(ours))]
        found += _worse_than_start(ours)
        found += _below_the_bound(ours, leakage.get(target, {}))
    return found


def prediction_flags(records: Sequence[Mapping[str, Any]]) -> list[tuple[Cell, str]]:
    """The doubts about every record of a campaign against predictions, with what such a campaign alone can get wrong.

    ``constant picture``: the pictures are hardly closer than the mean of the true ones, given to all.
    ``randomised``: the service draws anew at each answer, and the attacker asked once for each image.
    ``white box``: the attack runs the model itself, so an output policy is nothing to it.
    ``unseen classes``: what was shared has scores of classes that no auxiliary image was given.
    ``evaluator``: the judge's own classifier is weaker than the one that was attacked.

    Args:
        records: Records with their ``cell`` and ``constant_mse``, see `PredictionResults`.

    Returns:
        The cell a doubt is about and the doubt.
    """
    return [
        (record["cell"], flag)
        for record in records
        for flag in (
            *flags(record),
            *_constant(record),
            *_asked_once(record),
            *_ignores_policy(record),
            *_unseen(record),
            *_weak_evaluator(record),
        )
    ]


def _mse(record: Mapping[str, Any]) -> float:
    return float(record["score"]["mse"]["mean"])


def _randomised(records: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [defense["name"] for defense in records[0]["target"]["target"]["defenses"]]
    random = [name for name in names if name in DEFENSES and DEFENSES[name].randomised]
    if not random or any(record["cell"]["views"] > 1 for record in records):
        return []
    what = ", ".join(random)
    return [f"randomised: {what} draws anew at each call, and every attack saw each image once; let one see more views"]


def _white_box(records: Sequence[Mapping[str, Any]]) -> list[str]:
    best: dict[bool, Mapping[str, Any]] = {}
    for record in sorted(records, key=_mse, reverse=True):
        kind = ATTACKS.get(record["attack"]["attack"])
        if kind is not None:
            best["encoder" in kind.needs] = record
    if len(best) < 2 or _mse(best[True]) <= _mse(best[False]):
        return []
    white, black = (f"{best[knows]['cell']['attack']} {_mse(best[knows]):.4f}" for knows in (True, False))
    return [
        f"white box: knowing the weights did worse (MSE of {white}) than not knowing them ({black}); the white-box "
        "attack is not at its best, so look for its gradient and give it more steps"
    ]


def _worse_than_start(records: Sequence[Mapping[str, Any]]) -> list[tuple[Cell, str]]:
    found = []
    for record in records:
        start = record["attack"]["config"].get("start")
        others = [
            other
            for other in records
            if other["attack"]["attack"] == start and other["cell"]["views"] == record["cell"]["views"]
        ]
        if start in ATTACKS and others and _mse(record) > _WORSE * min(map(_mse, others)):
            figures = f"MSE {_mse(record):.4f} beside {min(map(_mse, others)):.4f}"
            found.append(
                (record["cell"], f"start: weaker than the {start} that it starts from ({figures}); train it longer")
            )
    return found


def _below_the_bound(records: Sequence[Mapping[str, Any]], leakage: Mapping[str, Any]) -> list[tuple[Cell, str]]:
    bound = leakage.get("mse_bound", 0.0)  # it is one on attacks that see an image once
    return [
        (
            record["cell"],
            f"below the bound: MSE {_mse(record):.4f} under the bound of {bound:.4f}; what the bound assumes does not "
            "hold here, so do not rely on it",
        )
        for record in records
        if record["cell"]["views"] == 1 and _mse(record) < bound
    ]


def _constant(record: Mapping[str, Any]) -> Iterator[str]:
    constant = record["constant_mse"]
    if constant is not None and _mse(record) > _CONSTANT * constant:
        yield "constant picture: hardly closer to the truth than its mean, given to all; nothing was rebuilt of any one"


def _ignores_policy(record: Mapping[str, Any]) -> Iterator[str]:
    if _policy(record) and _runs_the_model(record):
        yield (
            f"white box: the attack runs the model itself, so {', '.join(_policy(record))} is nothing to it; its "
            "figures are those without, and speak for no policy"
        )


def _asked_once(record: Mapping[str, Any]) -> Iterator[str]:
    policy = PolicyConfig.parse(record["cell"]["policy"], source="policy")
    names = [defense["name"] for defense in record["target"]["target"]["defenses"]]
    fresh = [name for name in names if name in DEFENSES and DEFENSES[name].randomised]
    fresh += ["the policy's noise"] if policy.sigma and policy.noise == "fresh" else []
    if fresh and record["attack"]["draws"] == 1 and not _runs_the_model(record):
        yield (
            f"randomised: {', '.join(fresh)} comes anew with each answer, and the attacker asked once for each image; "
            "let it draw more often"
        )


def _unseen(record: Mapping[str, Any]) -> Iterator[str]:
    mass = record["attack"]["findings"].get("mass_dropped", 0.0)
    if mass > _UNSEEN:
        yield (
            f"unseen classes: {100 * mass:.1f} % of what the victims shared is on classes that the attacker's own "
            "images never got, so its inverter does not know them; a wider auxiliary set would do better"
        )


def _weak_evaluator(record: Mapping[str, Any]) -> Iterator[str]:
    judge, target = record.get("evaluator", {}).get("accuracy"), record["target"]["accuracy"]
    if judge is not None and judge < target:
        yield (
            f"evaluator: weaker than the target ({100 * judge:.1f} % and {100 * target:.1f} %), so what it does not "
            "recognise may be recognisable"
        )


def _policy(record: Mapping[str, Any]) -> list[str]:
    """The steps of the cell's output policy in words."""
    return [*record["cell"]["policy"], *([] if record["cell"].get("purify") is None else ["purification"])]


def _runs_the_model(record: Mapping[str, Any]) -> bool:
    attack = CLASS_ATTACKS.get(record["attack"]["attack"])
    return attack is not None and attack.ignores_output_policy()
