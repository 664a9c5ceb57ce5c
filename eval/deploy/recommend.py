"""Which cut, defense and codec to take: the least leak within budgets, why not the others, what was not measured."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import Field

from splitleak.config import Config
from splitleak.eval.deploy.deployments import Candidate
from splitleak.eval.report.frontier import dominated

_INFINITE = float("inf")


class Budgets(Config):
    """What a deployment may cost; no limit where none is given."""

    max_accuracy_drop: float | None = Field(default=None, ge=0, description="points below the undefended design")
    max_latency_ms: float | None = Field(default=None, gt=0, description="median of one request")
    max_bytes: float | None = Field(default=None, gt=0, description="a message of one image")

    def overshoot(self, candidate: Candidate) -> dict[str, float]:
        """By how much ``candidate`` is over each budget that it breaks; infinite if that was not measured."""
        latency = _INFINITE if candidate.latency_ms is None else candidate.latency_ms
        spent = {
            "max_accuracy_drop": candidate.drop,
            "max_latency_ms": latency,
            "max_bytes": candidate.bytes_per_image,
        }
        limits = {name: limit for name in spent if (limit := getattr(self, name)) is not None}
        return {name: spent[name] - limit for name, limit in limits.items() if spent[name] > limit}


def recommend(candidates: Sequence[Candidate], budgets: Budgets, latency: Mapping[str, Any] | None) -> dict[str, Any]:
    """The candidate that leaks least within ``budgets``: the highest MSE of the strongest attack on it.

    Two whose MSE agrees in two digits leak as much: of these, what was measured comes before what is assumed, and then
    accuracy, latency and bytes decide, in this order.

    Returns:
        ``{recommended, nearest, binding, candidates, not_measured, notes, budgets}``; labels, or None, in the first
        two (``nearest`` only where nothing fits); ``candidates`` with ``fits``, ``on_frontier`` and ``why``.
    """
    over = [budgets.overshoot(each) for each in candidates]
    fitting = [each for each, found in zip(candidates, over, strict=True) if not found]
    chosen = min(fitting, key=_preference) if fitting else None
    nearest = None if chosen else min(zip(candidates, over, strict=True), key=lambda pair: _distance(budgets, pair[1]))
    told = [
        {
            **asdict(each),
            "label": each.label,
            "fits": not found,
            "on_frontier": _on_frontier(each, candidates),
            "why": _why(each, found, chosen),
        }
        for each, found in zip(candidates, over, strict=True)
    ]
    return {
        "recommended": chosen.label if chosen else None,
        "nearest": nearest[0].label if nearest else None,
        "binding": list(_binding(candidates, over, chosen, budgets)) if chosen else [],
        "candidates": told,
        "not_measured": list(_not_measured(candidates)),
        "notes": list(_notes(candidates, budgets, chosen, latency)),
        "budgets": budgets.document(),
    }


def _preference(candidate: Candidate) -> tuple[float, ...]:
    latency = _INFINITE if candidate.latency_ms is None else candidate.latency_ms
    rest = (candidate.assumed, -candidate.accuracy, latency, candidate.bytes_per_image)
    return (-_protection(candidate), *rest, -candidate.mse)


def _protection(candidate: Candidate) -> float:
    return float(f"{candidate.mse:.2g}")


def _distance(budgets: Budgets, over: Mapping[str, float]) -> float:
    """The largest overshoot, as a share of its budget (of a point, where no accuracy may be lost)."""
    return max(found / max(float(getattr(budgets, name)), 1.0) for name, found in over.items())


def _on_frontier(candidate: Candidate, candidates: Sequence[Candidate]) -> bool:
    """Whether no other is as good in accuracy, leak, latency and bytes; what is assumed beats nothing measured."""
    rivals = [each for each in candidates if candidate.assumed or not each.assumed]
    return not dominated(_point(candidate), map(_point, rivals))


def _point(candidate: Candidate) -> tuple[float, ...]:
    latency = _INFINITE if candidate.latency_ms is None else candidate.latency_ms
    return (candidate.accuracy, candidate.mse, -latency, -candidate.bytes_per_image)


def _words(name: str, candidate: Candidate, by: float) -> str:
    if by == _INFINITE:
        return "its latency was not measured"
    return {
        "max_accuracy_drop": f"loses {candidate.drop:.2f} points, {by:.2f} too many",
        "max_latency_ms": f"takes {candidate.latency_ms or 0:.2f} ms, {by:.2f} too many",
        "max_bytes": f"sends {candidate.bytes_per_image:.0f} bytes, {by:.0f} too many",
    }[name]


def _why(candidate: Candidate, over: Mapping[str, float], chosen: Candidate | None) -> str:
    if over:
        return "; ".join(_words(name, candidate, by) for name, by in over.items())
    if candidate is chosen:
        return "leaks least of all that fit"
    assert chosen is not None  # as this one fits
    if _protection(candidate) == _protection(chosen):
        words = ("is assumed, not measured", "is less accurate", "is slower", "sends more", "has a lower MSE")
        pairs = zip(_preference(candidate)[1:], _preference(chosen)[1:], strict=True)
        reasons = (word for word, (own, best) in zip(words, pairs, strict=True) if own != best)
        return f"fits and leaks as much, but {next(reasons, 'stands behind it in the results')}"
    return f"fits, but leaks more: MSE {candidate.mse:.4f} against {chosen.mse:.4f}"


def _binding(
    candidates: Sequence[Candidate], over: Sequence[Mapping[str, float]], chosen: Candidate, budgets: Budgets
) -> Iterator[str]:
    """The budgets each of which alone keeps out something that leaks less."""
    for name in type(budgets).model_fields:
        kept_out = [each for each, found in zip(candidates, over, strict=True) if set(found) == {name}]
        better = [each for each in kept_out if _protection(each) > _protection(chosen)]
        if better:
            best = min(better, key=_preference)
            by = budgets.overshoot(best)[name]
            yield f"{name}: {best.label} would leak less (MSE {best.mse:.4f}), but {_words(name, best, by)}"


def _not_measured(candidates: Sequence[Candidate]) -> Iterator[str]:
    """What a reader must know before believing the recommendation."""
    measured = [each for each in candidates if not each.assumed]
    every = list(dict.fromkeys(attack for each in measured for attack in each.attacks))
    for attack in every:
        lacking = [each for each in measured if attack not in each.attacks]
        if lacking:
            yield f"attack {attack!r} on {_named(lacking, measured)}"
    if alone := [each for each in measured if each.seeds == 1]:
        yield f"more than one seed of {_named(alone, measured)}"
    if static := [each for each in measured if each.randomised and not each.adaptive]:
        yield f"an adaptive attack (several draws or views) on noise or dropout in {_named(static, measured)}"
    if not any("encoder" in each.knowledge for each in measured):
        yield "an attack that knows the encoder's weights"
    if len(every) == 1:
        yield f"any other attack than {every[0]!r}: a stronger one may order the candidates otherwise"
    if assumed := [each for each in candidates if each.assumed]:
        yield f"accuracy and leak, which are fp32's here, of {_named(assumed, candidates)}"
    if lacking := [each for each in candidates if each.latency_ms is None]:
        yield f"latency of {_named(lacking, candidates)}"


def _named(some: Sequence[Candidate], every: Sequence[Candidate]) -> str:
    return "any candidate" if len(some) == len(every) else "; ".join(each.label for each in some)


def _notes(
    candidates: Sequence[Candidate], budgets: Budgets, chosen: Candidate | None, latency: Mapping[str, Any] | None
) -> Iterator[str]:
    yield f"each leak is that on {min(each.victims for each in candidates)} victims' images or more"
    if chosen:
        rival = min((each for each in candidates if not budgets.overshoot(each)), key=lambda each: each.ssim)
        if rival.ssim < chosen.ssim:
            yield f"by SSIM {rival.label} leaks less: {rival.ssim:.3f} against {chosen.ssim:.3f}"
    if latency is None:
        return
    if latency["emulated_device"]:
        yield f"the device is emulated: {latency['emulated_device']['name']}"
    targets = chosen.targets if chosen else {target for each in candidates for target in each.targets}
    alone = [cell for cell in latency["cells"] if cell["way"] == "device" and cell["target"] in targets]
    if alone:
        fastest = min(alone, key=lambda cell: (cell["batch"], cell["parts"]["total_ms"]["p50"]))
        yield f"{_device_words(fastest, budgets)}, and nothing is sent that could leak"


def _device_words(cell: Mapping[str, Any], budgets: Budgets) -> str:
    took = cell["parts"]["total_ms"]["p50"]
    told = f"all of {cell['target']} on the device takes {took:.2f} ms"
    if budgets.max_latency_ms is None:
        return told
    return f"{told}, {'over' if took > budgets.max_latency_ms else 'within'} the latency budget"
