"""The literature's metrics of model inversion: attack accuracy, feature distances, FID, PRDC, re-identification."""

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
    PrivateFit,
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
_TINY = 1e-12


def class_figures(
    target: WholeModel,
    evaluator: Evaluator,
    by_class: Tensor,
    private: Images,
    *,
    others: Images | None = None,
    k: int = 3,
    cache: MutableMapping[str, tuple[Tensor, Tensor]] | None = None,
) -> ClassFigures:
    """The metrics of images of every class. Values of single images are lists of K lists of R.

    Features are those of the evaluator before its last linear layer; metrics of different evaluators do not compare.

    - ``chance`` (one over K), ``classes``, ``images_per_class``, ``evaluator_on_private``: its accuracy on ``private``.
    - ``top1``, ``top5``: `AttackAccuracy`, and ``hits``, 1 if the class is among the evaluator's top k; null if K is
      not larger than k.
    - ``target_confidence`` in the class, without an output policy; ``confidence_gap``, the mean of it minus ``top1``:
      confidence that an independent evaluator does not confirm.
    - ``delta_eval``, ``delta_eval_squared``, ``centroid_eval``: see `FeatureDistances`; ``_squared`` is the KNN
      distance of the codes. Lower is closer.
    - ``frechet_eval``: `frechet_distance` of all images, hits or not, to all private ones; with both counts. Null for
      fewer than two images.
    - ``diversity_eval``: `prdc` with ``k`` neighbours, the mean over classes; ``k`` is reduced to what the smallest
      class allows, and the result is null if that is less than 1.
    - ``identification``, re-identification if classes are people: each picture is a probe against a gallery of all
      ``private`` images and ``others``, of ``people`` classes in all, by cosine similarity of features. ``ranks``: the
      rank of its own class, from 1; ``rank1`` and ``rank5``: the share of ranks up to 1 and 5, null if there are no
      more people; ``chance`` is that of rank 1. ``private_alone``: the same without distractors. ``to_others``: the
      share whose best match is a distractor: if a prior was trained on these, one of the attacker's own images.
      ``verification``: see `true_match_rate`.
    - ``private_fit``: how far the target has converged, see `private_fit`.

    Args:
        target: The attacked model, of K classes.
        evaluator: The judge's classifier.
        by_class: Rebuilt images ``(K, R, C, H, W)`` in [0, 1].
        private: The target's training images.
        others: Images of other classes, distractors.
        k: Neighbours of `prdc`.
        cache: Of the evaluator's features and logits of ``private``, filled for the next call.

    Raises:
        ValueError: A class has no images, or images are not of the target's shape.
    """
    classes, per_class = by_class.shape[:2]
    got, expected = tuple(by_class.shape), (target.classes, per_class, *target.input_shape)
    if got != expected or not per_class:
        raise ValueError(f"expected images ({target.classes}, R, *{target.input_shape}) of every class, got {got}")
    labels = torch.arange(classes).repeat_interleave(per_class)
    rebuilt, logits = whole_features(evaluator.model, by_class.flatten(0, 1))
    cache, key = {} if cache is None else cache, digest([evaluator.artifact, private.hashes()])
    if key not in cache:
        cache[key] = whole_features(evaluator.model, private.floats())
    own, own_logits = cache[key]
    confidence = probabilities(target, by_class.flatten(0, 1)).gather(1, labels[:, None])[:, 0]
    distances = feature_distances(rebuilt, labels, own, private.labels)
    top1 = _top(logits, labels, 1, per_class)
    return ClassFigures(
        n=classes * per_class,
        classes=classes,
        images_per_class=per_class,
        chance=1 / classes,
        evaluator_on_private=float((own_logits.argmax(1) == private.labels).float().mean()),
        top1=top1,
        top5=_top(logits, labels, 5, per_class),
        target_confidence=_values(confidence, per_class),
        confidence_gap=None if top1 is None else float(confidence.mean()) - top1.mean,
        delta_eval=_values(distances.nearest, per_class),
        delta_eval_squared=_values(distances.nearest_squared, per_class),
        centroid_eval=_values(distances.centroid, per_class),
        frechet_eval=_frechet(rebuilt, own),
        diversity_eval=_diversity(rebuilt, labels, own, private.labels, k),
        identification=_identification(evaluator, rebuilt, labels, own, private.labels, others, per_class),
        private_fit=private_fit(target, private),
    )


def private_fit(target: WholeModel, private: Images) -> PrivateFit:
    """Mean cross-entropy and confidence of a target in the right classes of its private images.

    A target that was stopped before it had converged is unsure of them, and hard to invert for that reason alone.
    """
    right = probabilities(target, private.floats()).gather(1, private.labels[:, None]).clamp_min(_TINY)
    return PrivateFit(loss=float(-right.log().mean()), confidence=float(right.mean()))


def prior_figures(evaluator: Evaluator, samples: Tensor) -> PriorFigures:
    """The evaluator's answers on samples ``(N, C, H, W)`` of a generator, before any attack.

    ``shares`` of samples by class: one that a generator never draws is hard to rebuild with it, whatever the defense.
    ``confidence`` is the mean of the highest probability, ``histogram`` its counts in tenths of [0, 1].
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
    outputs = [penultimate(network, batch.to(model.edge.device)) for batch in images.split(_BATCH)]
    features, logits = (torch.cat([part.cpu() for part in parts]) for parts in zip(*outputs, strict=True))
    return features.float(), logits


def _top(logits: Tensor, labels: Tensor, k: int, per_class: int) -> TopK | None:
    if k >= logits.shape[1]:
        return None
    hits = top_k_hits(logits, labels, k).unflatten(0, (-1, per_class))
    document = {**attack_accuracy(hits[None, None]).document(), "hits": hits.int().tolist()}
    return TopK.parse(document, source=f"top-{k}")


def _values(values: Tensor, per_class: int) -> Score:
    rows = values.double().unflatten(0, (-1, per_class)).tolist()
    images = tuple(tuple(round(value, 6) for value in row) for row in rows)
    return Score(mean=float(values.double().mean()), images=images)


def _frechet(rebuilt: Tensor, own: Tensor) -> Frechet | None:
    if len(rebuilt) < 2:
        return None
    distance = frechet_distance(rebuilt, own)
    return Frechet(distance=distance, rebuilt=len(rebuilt), private=len(own), dimensions=own.shape[1])


def _diversity(rebuilt: Tensor, labels: Tensor, own: Tensor, private_labels: Tensor, k: int) -> Diversity | None:
    k = min(k, *(int(torch.bincount(of_images).min()) - 1 for of_images in (labels, private_labels)))
    if k < 1:
        return None
    figures = [prdc(rebuilt[labels == label], own[private_labels == label], k).document() for label in labels.unique()]
    return Diversity(k=k, **{name: sum(of_class[name] for of_class in figures) / len(figures) for name in figures[0]})


def _identification(
    evaluator: Evaluator,
    rebuilt: Tensor,
    labels: Tensor,
    own: Tensor,
    private_labels: Tensor,
    others: Images | None,
    per_class: int,
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
        ranks=ranks.unflatten(0, (-1, per_class)).tolist(),
    )


def _rates(ranks: Tensor, people: int) -> dict[str, Any]:
    rates = {f"rank{k}": float((ranks <= k).double().mean()) if k < people else None for k in _TOP}
    return {"chance": 1 / people, **rates}
