"""All that a judge says of images rebuilt of every class: the figures of the literature, and what each is made of."""

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from splitleak.config import digest
from splitleak.datasets.images import Images
from splitleak.defenses.artifact import WholeModel
from splitleak.eval.record.evaluator import Evaluator, probabilities
from splitleak.eval.record.schema import (
    ClassFigures,
    Diversity,
    Frechet,
    Identification,
    PriorFigures,
    Rates,
    Score,
    TopK,
    Verification,
)
from splitleak.measures.diversity import prdc
from splitleak.measures.feature_distance import feature_distances
from splitleak.measures.frechet import frechet_distance
from splitleak.measures.hits import attack_accuracy, top_k_hits
from splitleak.measures.identification import identification_ranks, match_scores, true_match_rate
from splitleak.models.penultimate import penultimate

_BATCH = 256
_TOP = (1, 5)
_FALSE_MATCHES = 0.01


def class_figures(
    target: WholeModel,
    evaluator: Evaluator,
    by_class: Tensor,
    private: Images,
    *,
    others: Images | None = None,
    k: int = 3,
    known: MutableMapping[str, tuple[Tensor, Tensor]] | None = None,
) -> ClassFigures:
    """The figures of images ``by_class`` ``(K, R, C, H, W)`` in [0, 1], rebuilt of ``target``.

    ``private`` are the images that the target was trained on, ``others`` some of other classes, as distractors. Values
    of single images are lists of K lists of R. ``known`` keeps what the evaluator makes of ``private`` for the next.
    Features are those of the evaluator before its last linear layer; figures of different evaluators do not compare.

    - ``chance`` (one over K), ``classes``, ``images_per_class``, ``evaluator_on_private``: how often it is right there.
    - ``top1``, ``top5``: `AttackAccuracy`, and ``hits``, 1 where the evaluator has the class among its first; null
      where K is no larger than that.
    - ``target_confidence`` in the class, without any policy; ``confidence_gap``, how far its mean is above ``top1``:
      what the target believes and an evaluator does not.
    - ``delta_eval``, ``delta_eval_squared``, ``centroid_eval``: see `FeatureDistances`; ``_squared`` is the KNN
      distance of the codes. Lower is closer.
    - ``frechet_eval``: `frechet_distance` of all images, hits or not, to all private ones; with both counts. Null for
      fewer than two images.
    - ``diversity_eval``: `prdc` with neighbour ``k``, the mean over classes; ``k`` falls to what the smallest
      class allows, and is null where that is less than 1.
    - ``identification``, re-identification where classes are people: a picture is looked up in a gallery of all
      ``private`` images and ``others``, of ``people`` classes in all, by the cosine of features. ``ranks``: at which
      place its own is, from 1; ``rank1`` and ``rank5``: the share of ranks up to 1 and 5, null where there are no more
      people; ``chance`` is that of rank 1. ``private_alone``: the same without distractors. ``to_others``: the share
      whose first is a distractor: where a prior was trained on these, somebody whom the attacker had at hand.
      ``verification``: see `true_match_rate`.

    Raises:
        ValueError: There are not images of every class, or not of the target's shape.
    """
    classes, each = by_class.shape[:2]
    if by_class.ndim != 5 or classes != target.classes or tuple(by_class.shape[2:]) != target.input_shape or not each:
        got = tuple(by_class.shape)
        raise ValueError(f"expected images ({target.classes}, R, *{target.input_shape}) of every class, got {got}")
    labels = torch.arange(classes).repeat_interleave(each)
    rebuilt, logits = whole_features(evaluator.model, by_class.flatten(0, 1))
    known, key = {} if known is None else known, digest([evaluator.made, private.hashes()])
    if key not in known:
        known[key] = whole_features(evaluator.model, private.floats())
    own, own_logits = known[key]
    confidence = probabilities(target, by_class.flatten(0, 1)).gather(1, labels[:, None])[:, 0]
    distances = feature_distances(rebuilt, labels, own, private.labels)
    top1 = _top(logits, labels, 1, each)
    return ClassFigures(
        n=classes * each,
        classes=classes,
        images_per_class=each,
        chance=1 / classes,
        evaluator_on_private=float((own_logits.argmax(1) == private.labels).float().mean()),
        top1=top1,
        top5=_top(logits, labels, 5, each),
        target_confidence=_values(confidence, each),
        confidence_gap=None if top1 is None else float(confidence.mean()) - top1.mean,
        delta_eval=_values(distances.nearest, each),
        delta_eval_squared=_values(distances.nearest_squared, each),
        centroid_eval=_values(distances.centroid, each),
        frechet_eval=_frechet(rebuilt, own),
        diversity_eval=_diversity(rebuilt, labels, own, private.labels, k),
        identification=_identification(evaluator, rebuilt, labels, own, private.labels, others, each),
    )


def prior_figures(evaluator: Evaluator, samples: Tensor) -> PriorFigures:
    """What the evaluator makes of a generator's own images ``(N, C, H, W)``, before any attack.

    ``shares`` of them that it puts in each class: one that a generator never draws is hard to rebuild with it, whatever
    the defense. ``confidence`` is the mean of its highest probability, ``histogram`` counts that in tenths of [0, 1].
    """
    highest, answers = whole_features(evaluator.model, samples)[1].softmax(1).max(1)
    counts = torch.bincount(answers, minlength=evaluator.model.classes)
    return PriorFigures(
        samples=len(samples),
        shares=tuple((counts.double() / len(samples)).tolist()),
        classes_drawn=int((counts > 0).sum()),
        confidence=float(highest.mean()),
        histogram=tuple(torch.histc(highest, 10, 0, 1).int().tolist()),
    )


@torch.inference_mode()
def whole_features(model: WholeModel, images: Tensor) -> tuple[Tensor, Tensor]:
    """A model's penultimate features ``(N, d)`` and logits ``(N, K)`` of images ``(N, C, H, W)`` in [0, 1]."""
    network = nn.Sequential(model.edge.encoder, model.edge.stack, model.cloud.head)
    found = [penultimate(network, batch.to(model.edge.device)) for batch in images.split(_BATCH)]
    return torch.cat([features.float().cpu() for features, _ in found]), torch.cat([made.cpu() for _, made in found])


def _top(logits: Tensor, labels: Tensor, first: int, each: int) -> TopK | None:
    if first >= logits.shape[1]:
        return None
    hits = top_k_hits(logits, labels, first).unflatten(0, (-1, each))
    document = {**attack_accuracy(hits[None, None]).document(), "hits": hits.int().tolist()}
    return TopK.parse(document, source=f"top-{first}")


def _values(values: Tensor, each: int) -> Score:
    rows = values.double().unflatten(0, (-1, each)).tolist()
    images = tuple(tuple(round(value, 6) for value in row) for row in rows)
    return Score(mean=float(values.double().mean()), images=images)


def _frechet(rebuilt: Tensor, own: Tensor) -> Frechet | None:
    if len(rebuilt) < 2:
        return None
    distance = frechet_distance(rebuilt, own)
    return Frechet(distance=distance, rebuilt=len(rebuilt), private=len(own), dimensions=own.shape[1])


def _diversity(rebuilt: Tensor, labels: Tensor, own: Tensor, private_labels: Tensor, k: int) -> Diversity | None:
    smallest = min(int(torch.bincount(of).min()) for of in (labels, private_labels))
    k = min(k, smallest - 1)
    if k < 1:
        return None
    found = [prdc(rebuilt[labels == of], own[private_labels == of], k).document() for of in labels.unique()]
    return Diversity(k=k, **{name: sum(each[name] for each in found) / len(found) for name in found[0]})


def _identification(
    evaluator: Evaluator,
    rebuilt: Tensor,
    labels: Tensor,
    own: Tensor,
    private_labels: Tensor,
    others: Images | None,
    each: int,
) -> Identification:
    classes, gallery, people = int(labels.max()) + 1, own, private_labels
    if others is not None:
        further = others.labels.unique(return_inverse=True)[1]
        gallery = torch.cat([own, whole_features(evaluator.model, others.floats())[0]])
        people = torch.cat([private_labels, classes + further])
    scores = match_scores(rebuilt, gallery, people)
    ranks, count = identification_ranks(scores, labels), scores.shape[1]
    return Identification(
        people=count,
        distractors=count - classes,
        gallery=len(gallery),
        **_rates(ranks, count),
        private_alone=Rates(**_rates(identification_ranks(scores[:, :classes], labels), classes)),
        to_others=float((scores.argmax(1) >= classes).double().mean()) if count > classes else None,
        verification=Verification(
            false_match_rate=_FALSE_MATCHES,
            true_match_rate=true_match_rate(scores, labels, _FALSE_MATCHES),
            comparisons=scores.numel() - len(labels),
        ),
        ranks=ranks.unflatten(0, (-1, each)).tolist(),
    )


def _rates(ranks: Tensor, people: int) -> dict[str, Any]:
    rates = {f"rank{k}": float((ranks <= k).double().mean()) if k < people else None for k in _TOP}
    return {"chance": 1 / people, **rates}
