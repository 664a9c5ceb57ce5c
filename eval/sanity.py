"""Flags: machine-made doubts about a number that may flatter a defense."""

from collections.abc import Mapping, Sequence
from typing import Any

from attacker.reconstruction import ATTACKS
from defenses import DEFENSES

_STILL_FALLING = 0.02  # relative fall of the held-out error over the last tenth of the epochs
_WORSE = 1.02  # times the MSE of the start: less is chance
_NO_GRADIENT = 1e-8  # norm; float32 loses what the pixels add long before

Cell = Mapping[str, Any]


def flags(record: Mapping[str, Any]) -> list[str]:
    """What a reader should doubt in a cell's record, each with what to do; empty if nothing.

    ``mean image``: the attack is hardly better than always answering the mean of its public images.
    ``not converged``: its held-out error was still falling when training ended.
    ``zero gradient``: it descends on the pixels, and no gradient came back to them.
    ``start``: it trained on from a decoder and never did better than that.
    """
    findings, found = record["attack"]["findings"], []
    if "mean_image_mse" in findings and findings["held_out_mse"] > 0.95 * findings["mean_image_mse"]:
        found.append("mean image: the attack is hardly better than a constant picture; try a stronger one")
    errors = [figures["held_out_mse"] for figures in findings.get("history", ()) if "held_out_mse" in figures]
    tenth = max(1, len(errors) // 10)
    if len(errors) > tenth and min(errors[-tenth:]) < (1 - _STILL_FALLING) * min(errors[:-tenth]):
        found.append("not converged: the attack was still getting better when it ended; train it longer")
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
        leakage: What `eval.leakage.measure` found of each target, by its key; a target may lack it.

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
