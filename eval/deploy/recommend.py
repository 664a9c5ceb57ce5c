"""Recommends cut, defense and codec: the least leakage within budgets, with reasons and what was not measured."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import Field

from splitleak.config import Config
from splitleak.eval.deploy.deployments import PLAIN, Deployment
from splitleak.eval.report.figures.frontier import dominated
from splitleak.wire.protocol.codec import DEFLATE

_INFINITE = float("inf")
_ROUNDING = 1e-9  # by which a difference of two accuracies may be off


class Budgets(Config):
    """Budgets of a deployment; None is no limit."""

    max_accuracy_drop: float | None = Field(default=None, ge=0, description="points below the undefended design")
    max_latency_ms: float | None = Field(default=None, gt=0, description="median latency of one request")
    max_bytes: float | None = Field(default=None, gt=0, description="bytes sent per image")

    def overshoot(self, deployment: Deployment) -> dict[str, float]:
        """The excess over each exceeded budget, by name; infinite if the value was not measured."""
        latency = _INFINITE if deployment.latency_ms is None else deployment.latency_ms
        spent = {
            "max_accuracy_drop": deployment.drop,
            "max_latency_ms": latency,
            "max_bytes": deployment.bytes_per_image,
        }
        limits = {name: limit for name in spent if (limit := getattr(self, name)) is not None}
        return {name: spent[name] - limit for name, limit in limits.items() if spent[name] - limit > _ROUNDING}


def recommend(deployments: Sequence[Deployment], budgets: Budgets, latency: Mapping[str, Any] | None) -> dict[str, Any]:
    """The deployment with the least leakage within ``budgets``: the highest MSE of the strongest attack on it.

    An MSE equal in two significant digits is a tie: then measured comes before assumed, and then accuracy, latency and
    bytes decide, in this order.

    Args:
        deployments: The deployments.
        budgets: Their limits.
        latency: Result of the latency sweep, for the notes.

    Returns:
        ``{recommended, nearest, binding, deployments, not_measured, notes, budgets}``; labels, or None, in the first
        two (``nearest`` only where nothing fits); ``candidates`` with ``fits``, ``on_frontier`` and ``why``.
    """
    over = [budgets.overshoot(option) for option in deployments]
    fitting = [option for option, overshoots in zip(deployments, over, strict=True) if not overshoots]
    chosen = min(fitting, key=_preference) if fitting else None
    nearest = None if chosen else min(zip(deployments, over, strict=True), key=lambda pair: _distance(budgets, pair[1]))
    documents = [
        {
            **asdict(option),
            "label": option.label,
            "fits": not overshoots,
            "on_frontier": _on_frontier(option, deployments),
            "why": _why(option, overshoots, chosen),
        }
        for option, overshoots in zip(deployments, over, strict=True)
    ]
    return {
        "recommended": chosen.label if chosen else None,
        "nearest": nearest[0].label if nearest else None,
        "binding": list(_binding(deployments, over, chosen, budgets)) if chosen else [],
        "candidates": documents,
        "not_measured": list(_not_measured(deployments)),
        "notes": list(_notes(deployments, budgets, chosen, latency)),
        "budgets": budgets.document(),
    }


def _preference(deployment: Deployment) -> tuple[float, ...]:
    latency = _INFINITE if deployment.latency_ms is None else deployment.latency_ms
    rest = (deployment.assumed, -deployment.accuracy, latency, deployment.bytes_per_image)
    return (-_protection(deployment), *rest, -deployment.mse)


def _protection(deployment: Deployment) -> float:
    return float(f"{deployment.mse:.2g}")


def _distance(budgets: Budgets, over: Mapping[str, float]) -> float:
    """The largest relative excess over a budget (relative to 1 for budgets below 1)."""
    return max(overshoot / max(float(getattr(budgets, name)), 1.0) for name, overshoot in over.items())


def _on_frontier(deployment: Deployment, deployments: Sequence[Deployment]) -> bool:
    """Whether it is Pareto-optimal in accuracy, leakage, latency and bytes; assumed ones dominate no measured ones."""
    rivals = [rival for rival in deployments if deployment.assumed or not rival.assumed]
    return not dominated(_point(deployment), map(_point, rivals))


def _point(deployment: Deployment) -> tuple[float, ...]:
    latency = _INFINITE if deployment.latency_ms is None else deployment.latency_ms
    return (deployment.accuracy, deployment.mse, -latency, -deployment.bytes_per_image)


def _words(name: str, deployment: Deployment, by: float) -> str:
    if by == _INFINITE:
        return "its latency was not measured"
    return {
        "max_accuracy_drop": f"loses {deployment.drop:.2f} points, {by:.2f} too many",
        "max_latency_ms": f"takes {deployment.latency_ms or 0:.2f} ms, {by:.2f} too many",
        "max_bytes": f"sends {deployment.bytes_per_image:.0f} bytes, {by:.0f} too many",
    }[name]


def _why(deployment: Deployment, over: Mapping[str, float], chosen: Deployment | None) -> str:
    if over:
        return "; ".join(_words(name, deployment, by) for name, by in over.items())
    if deployment is chosen:
        return "leaks least of all that fit"
    assert chosen is not None  # as this one fits
    if _protection(deployment) == _protection(chosen):
        words = ("is assumed, not measured", "is less accurate", "is slower", "sends more", "has a lower MSE")
        pairs = zip(_preference(deployment)[1:], _preference(chosen)[1:], strict=True)
        reasons = (word for word, (own, best) in zip(words, pairs, strict=True) if own != best)
        return f"fits and leaks as much, but {next(reasons, 'stands behind it in the results')}"
    return f"fits, but leaks more: MSE {deployment.mse:.4f} against {chosen.mse:.4f}"


def _binding(
    deployments: Sequence[Deployment], over: Sequence[Mapping[str, float]], chosen: Deployment, budgets: Budgets
) -> Iterator[str]:
    """The binding budgets: those that alone exclude a deployment with less leakage."""
    for name in type(budgets).model_fields:
        excluded = [option for option, overshoots in zip(deployments, over, strict=True) if set(overshoots) == {name}]
        better = [option for option in excluded if _protection(option) > _protection(chosen)]
        if better:
            best = min(better, key=_preference)
            by = budgets.overshoot(best)[name]
            yield f"{name}: {best.label} would leak less (MSE {best.mse:.4f}), but {_words(name, best, by)}"


def _not_measured(deployments: Sequence[Deployment]) -> Iterator[str]:
    """What was not measured, as caveats of the recommendation."""
    measured = [option for option in deployments if not option.assumed]
    every = list(dict.fromkeys(attack for option in measured for attack in option.attacks))
    for attack in every:
        lacking = [option for option in measured if attack not in option.attacks]
        if lacking:
            yield f"attack {attack!r} on {_named(lacking, measured)}"
        if partly := [option for option in measured if attack in option.partly]:
            yield f"attack {attack!r} on some of the targets of {_named(partly, measured)}"
        efforts = [{effort for name, effort in option.efforts if name == attack} for option in measured]
        if _nothing_in_common(efforts):
            yield f"attack {attack!r} with the same queries and settings on each: the weakest may leak least"
    if _nothing_in_common([set(option.scored) for option in measured]):
        yield "the same victims of each: a leak that is less may be that of other pictures"
    if alone := [option for option in measured if option.seeds == 1]:
        yield f"more than one seed of {_named(alone, measured)}"
    if static := [option for option in measured if option.randomised and not option.adaptive]:
        yield f"an adaptive attack (several draws or views) on noise or dropout in {_named(static, measured)}"
    if not any(option.white_box for option in measured):
        yield "an attack that knows the encoder's weights"
    if len(every) == 1:
        yield f"any other attack than {every[0]!r}: a stronger one may order the candidates otherwise"
    if uncorrected := [option for option in measured if option.uncorrected]:
        yield f"the accuracy that the codec costs, which is fp32's here, of {_named(uncorrected, measured)}"
    if assumed := [option for option in deployments if option.assumed]:
        yield f"accuracy and leak, which are fp32's here, of {_named(assumed, deployments)}"
    if packed := [option for option in assumed if DEFLATE in option.codec]:
        yield f"bytes of the victims' images, which are those of built-in images here, of {_named(packed, deployments)}"
    if lacking := [option for option in deployments if option.latency_ms is None]:
        yield f"latency of {_named(lacking, deployments)}"


def _nothing_in_common(of_each: Sequence[set[str]]) -> bool:
    """Whether none of what is known of some is known of all of these."""
    known = [of_one for of_one in of_each if of_one]
    return bool(known) and not set.intersection(*known)


def _named(some: Sequence[Deployment], every: Sequence[Deployment]) -> str:
    return "any candidate" if len(some) == len(every) else "; ".join(option.label for option in some)


def _notes(
    deployments: Sequence[Deployment], budgets: Budgets, chosen: Deployment | None, latency: Mapping[str, Any] | None
) -> Iterator[str]:
    if not any(not option.defenses and option.codec == PLAIN for option in deployments):
        yield "no undefended design was measured: a drop is from the most accurate of these, whatever that lost"
    yield f"each leak is that on {min(option.victims for option in deployments)} victims' images or more"
    if chosen and chosen.ssim is not None:
        fitting = [option for option in deployments if not budgets.overshoot(option)]
        ssim, rival = min((option.ssim, option.label) for option in fitting if option.ssim is not None)
        if ssim < chosen.ssim:
            yield f"by SSIM {rival} leaks less: {ssim:.3f} against {chosen.ssim:.3f}"
    if latency is None:
        return
    alone = [cell for cell in latency["cells"] if cell["way"] == "split" and cell["window"] == 1]
    if (batch := min((cell["batch"] for cell in alone), default=1)) > 1:
        yield f"each latency is that of a request of {batch} images: none of fewer was timed"
    if latency["emulated_device"]:
        yield f"the device is emulated: {latency['emulated_device']['name']}"
    targets = chosen.targets if chosen else {target for option in deployments for target in option.targets}
    on_device = [cell for cell in latency["cells"] if cell["way"] == "device" and cell["target"] in targets]
    if on_device:
        fastest = min(on_device, key=lambda cell: (cell["batch"], cell["parts"]["total_ms"]["p50"]))
        yield f"{_device_words(fastest, budgets)}, and nothing is sent that could leak"


def _device_words(cell: Mapping[str, Any], budgets: Budgets) -> str:
    latency_ms = cell["parts"]["total_ms"]["p50"]
    sentence = f"all of {cell['target']} on the device takes {latency_ms:.2f} ms"
    if budgets.max_latency_ms is None:
        return sentence
    return f"{sentence}, {'over' if latency_ms > budgets.max_latency_ms else 'within'} the latency budget"
