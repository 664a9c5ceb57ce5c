"""Flags: automatic warnings about numbers that may overstate a defense."""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from statistics import fmean

from splitleak.attacker.class_inversion import CLASS_ATTACKS
from splitleak.attacker.class_inversion.lomma import AGREES
from splitleak.attacker.reconstruction import ATTACKS
from splitleak.cloud.policy import PolicyConfig
from splitleak.defenses import DEFENSES
from splitleak.defenses.base import Defense
from splitleak.defenses.importing import OWN_ANSWER
from splitleak.defenses.stack import DefenseConfig
from splitleak.eval.campaign.audit.config import AUDIT
from splitleak.eval.record.schema import ClassesRecord, FigurePlace, Record
from splitleak.eval.report.comparisons import weaker_attacks
from splitleak.eval.report.results import Cell, Doubt, Results
from splitleak.eval.report.statements import Statement

_CHANCE = 2  # times the accuracy of chance, and less; of two classes, half of the way from chance to all
_STILL_FALLING = 0.02  # relative fall of the held-out error over the last tenth of the epochs
_STILL_RISING = 0.03  # of the target's mean confidence over the last quarter of a search
_UNLIKE = 10.0  # of `unlikeness`, which is about 1 for images of one distribution
_CONSTANT = 0.95  # times the error of a constant picture: more is hardly better
_UNSEEN = 0.01  # share of all that the victims' scores sum to
_SURE = 0.7  # mean confidence of a target in the right classes of its private images
_FITTED = 0.5  # its mean cross-entropy there, in nats
_NO_GRADIENT = 1e-8  # norm; float32 loses what the pixels add long before


def doubts(results: Results, statements: Sequence[Statement]) -> list[Doubt]:
    """Each flag once, with the cells it is about, seeds grouped; for recorded results, those on record."""
    if results.doubts is not None:
        return list(results.doubts)
    flags: list[tuple[str, int | None, str]] = []
    several = len(results.tables) > 1
    for cell, flag, whole_target in cell_flags(results):
        parts = [cell.row.label, None if whole_target else cell.attack] if cell.attack else [cell.table, cell.row.label]
        parts += [cell.table] if several and cell.attack else []
        flags.append((", ".join(filter(None, parts)), cell.seed, flag))
    flags += _of_claims(statements)
    if results.config and len({cell.seed for cell, _ in results.measured}) == 1:  # of however many are planned
        flags.append((results.name, None, "one seed: the luck of one training is in every figure; run more"))
    return _gathered(flags)


def cell_flags(results: Results) -> list[tuple[Cell, str, bool]]:
    """The flags of every cell: cell, flag, and whether it is about the cell's whole target.

    Those of `record_flags`, and those that follow from a service or from several records:

    ``class mean``: victims are hardly closer than the attacker's own mean picture of their class.
    ``no gain``: pictures of classes are recognised no more often than those of the best baseline of the same access.
    ``constant picture``: the pictures are hardly better than the constant predictor, the mean of the true ones.
    ``randomised``: a defense or a service draws fresh noise at each call, and no attack averaged over several views,
    or none asked more than once for each of its own images.
    ``white box``: the attack runs the model itself, so an output policy has no effect on it; or the best white-box
    attack does worse than the best black-box attack.
    ``unseen classes``: shared scores have mass on classes that no auxiliary image was assigned to.
    ``evaluator``: the evaluator is less accurate than the target.
    ``below the estimate``: an attack that saw each image once fell below the Gaussian estimate of the MSE, so that
    model fails on this target.
    ``start``: an attack does worse than the attack it started from.
    ``linear``, ``nearest``: an attack that knows as much does worse than linear regression, or than the nearest of its
    own images.
    ``cheaper``: an attack of an audit does worse than one that stands before it on the list and knows no more.
    ``not converged``: the same attack finds more when it is trained longer.
    """
    flags = [(cell, flag, False) for cell, record in results.measured for flag in _of_cell(cell, record)]
    alike: dict[Hashable, list[tuple[Cell, Record]]] = {}
    for cell, record in results.measured:
        if cell.attack is not None and cell.kind == "victims":  # of loose records, targets of one name may share a row
            alike.setdefault((cell.let_out, record.target.digest), []).append((cell, record))
    for ours in alike.values():
        flags += [(ours[0][0], flag, True) for flag in (*_randomised(ours), *_white_box(ours))]
        of_one = (*weaker_attacks(ours, audited=results.kind == AUDIT), *_below_the_estimate(ours))
        flags += [(cell, flag, False) for cell, flag in of_one]
    return flags


def record_flags(record: Record) -> list[str]:
    """The flags of a single record, each with a remedy.

    ``target``: the classifier's accuracy is near the chance level.
    ``right answer``: accuracy is agreement with the answers that an imported network gave before.
    ``mean image``: the attack is hardly better than the constant predictor, the mean of its public images.
    ``target``, of classes: it was stopped before it had converged, by confidence and loss on its private images.
    ``not converged``: its held-out error was still falling when training ended, or the target's confidence in the
    pictures still rising when a search did.
    ``zero gradient``: it optimises the pixels, and their gradient vanishes.
    ``start``: it started from a trained decoder and never improved on it.
    ``student``: a network that it taught the target's answers does not agree with it.
    ``few queries``: what it trained has more weights than the pictures that it asked about have values.
    ``unlike``: its own images are not like the victims'.
    ``capture``: messages are missing in the capture that it read.
    """
    findings, flags = record.attack.findings, []
    chance = 1 / record.target.design.model.classes
    if record.target.accuracy < min(_CHANCE * chance, (1 + chance) / 2):
        flags.append("target: hardly better than chance; what is rebuilt of its answers speaks for no classifier")
    flags += _not_fitted(record)
    if record.target.right_answer == OWN_ANSWER:
        flags.append(f"right answer: accuracy is the share of images that get {OWN_ANSWER}, not of right labels")
    mean_image, held_out = findings.mean_image_mse, findings.held_out_mse
    if mean_image is not None and held_out is not None and held_out > _CONSTANT * mean_image:
        flags.append("mean image: the attack is hardly better than a constant picture; try a stronger one")
    history = findings.history or ()
    to_the_end = bool(history) and "held_out_mse" in history[-1]  # not where it finishes on all pairs
    errors = [figures["held_out_mse"] for figures in history if to_the_end and "held_out_mse" in figures]
    tenth = max(1, len(errors) // 10)
    if len(errors) > tenth and min(errors[-tenth:]) < (1 - _STILL_FALLING) * min(errors[:-tenth]):
        flags.append("not converged: the attack was still getting better when it ended; train it longer")
    if any(map(_still_surer, (history, *findings.stages))):
        flags.append("not converged: the target was still getting surer of the pictures; give the search more steps")
    gradient = findings.gradient_norm_start
    if gradient is not None and not gradient > _NO_GRADIENT:
        flags.append(
            "zero gradient: the defense hides the gradient, which is not the image; go around it (an encoder without "
            "what blocks it, or an attack without gradients)"
        )
    chosen, before = findings.chosen_epoch, findings.decoder_epochs
    if chosen is not None and before is not None and chosen <= before:
        flags.append("start: no epoch beat the decoder that the attack started from, so its score is that decoder's")
    pixels = math.prod(record.target.design.model.image_shape)
    if findings.parameters is not None and record.threat_model.pictures * pixels < findings.parameters:
        flags.append(
            f"few queries: {record.threat_model.pictures:,} pictures for {findings.parameters:,} weights; the attack "
            "would gain from more"
        )
    if findings.student_agreement is not None and min(findings.student_agreement) < AGREES:
        share = f"{100 * min(findings.student_agreement):.0f} %"
        flags.append(
            f"student: it labels {share} of the public images as its teacher does; give it no say (agreement), or "
            "do without (students = 0)"
        )
    if findings.captured_unlike is not None and findings.captured_unlike > _UNLIKE:
        flags.append(
            "unlike: the victims' features are not distributed as the public images' are, so an attacker with images "
            "like the victims' would do better"
        )
    if record.threat_model.capture is not None:
        flags.append("capture: it tells of gaps, so the attack did not see all that crossed the wire; record it again")
    return flags


def _still_surer(history: Sequence[Mapping[str, float]]) -> bool:
    surer = [figures["confidence"] for figures in history if "confidence" in figures]
    quarter = len(surer) // 4
    return bool(quarter) and fmean(surer[-quarter:]) > fmean(surer[-2 * quarter : -quarter]) + _STILL_RISING


def _of_claims(statements: Sequence[Statement]) -> Iterator[tuple[str, int, str]]:
    for claim in statements:
        if claim.claimed and len(claim.seeds) == 1:
            text = "one seed: too few to tell the claim from luck; run more"
            yield claim.text.partition(" [")[0], claim.seeds[0], text
        elif claim.claimed and claim.verdict == "cannot be told":
            text = f"claim: cannot be told from {len(claim.seeds)} seeds"
            yield from ((claim.text.partition(" [")[0], seed, text) for seed in claim.seeds)


def _gathered(flags: Sequence[tuple[str, int | None, str]]) -> list[Doubt]:
    """Groups (subject, seed, flag): each flag once, with its subjects and their seeds."""
    about: dict[str, dict[str, list[int]]] = {}
    for what, seed, flag in flags:
        seeds = about.setdefault(flag, {}).setdefault(what, [])
        seeds += [seed] if seed is not None and seed not in seeds else []

    def place(what: str, seeds: list[int]) -> str:
        return f"{what} (seed {', '.join(map(str, seeds))})" if seeds else what

    return [(flag, "; ".join(map(place, places, places.values()))) for flag, places in about.items()]


def _of_cell(cell: Cell, record: Record) -> Iterator[str]:
    yield from record_flags(record)
    yield from _constant(record)
    yield from _no_gain(cell)
    if isinstance(cell.place, FigurePlace):
        yield from _asked_once(cell.place, record)
        yield from _ignores_policy(cell, record)
        yield from _no_closer_than_mean(record)
        yield from _unseen(record)
        yield from _weak_evaluator(record)


def _not_fitted(record: Record) -> list[str]:
    figures = record.figures if isinstance(record, ClassesRecord) else None
    fit = None if figures is None else figures.private_fit
    if fit is None or (fit.confidence >= _SURE and fit.loss <= _FITTED):
        return []
    return [
        f"target: not converged: its confidence in its own private images is {fit.confidence:.2f}, its loss "
        f"{fit.loss:.2f}; what is hard to rebuild of it may be so for that alone, so train it longer"
    ]


def _no_gain(cell: Cell) -> Iterator[str]:
    for judge, metric in (("", "gain"), (" by the open-set judge", "open_gain")):
        gain, error = cell.measure(metric), cell.measure(f"{metric}_error") or 0.0
        if gain is not None and gain <= 2 * error:
            yield f"no gain: not two standard errors over the best baseline{judge}, which rebuilds nothing"


def _defenses(record: Record) -> list[tuple[str, Defense]]:
    """A target's defenses with their names, of those that are at hand."""
    steps = [step for step in record.target.design.defenses if step.name in DEFENSES]
    return [(step.name, DefenseConfig.parse(step.document(), source=step.name).build()) for step in steps]


def _randomised(ours: Sequence[tuple[Cell, Record]]) -> list[str]:
    drawing = (name for name, defense in _defenses(ours[0][1]) if defense.randomised)
    what, models = ", ".join(drawing), [record.threat_model for _, record in ours]
    if not what:
        return []
    asked = [model for model in models if "query" in model.knowledge]
    flags = []
    if all(model.views == 1 for model in models):
        flags.append(
            f"randomised: {what} draws anew at each call, and every attack saw each image once; let one see more views"
        )
    if asked and all(model.draws == 1 and model.views == 1 for model in asked):
        flags.append(
            f"randomised: {what} draws anew at each call, and every attack asked once for each of its own images; let "
            "one draw more often"
        )
    return flags


def _white_box(ours: Sequence[tuple[Cell, Record]]) -> list[str]:
    flags = []
    for views in sorted({record.threat_model.views for _, record in ours}):
        best: dict[bool, tuple[Cell, Record]] = {}
        for cell, record in sorted(ours, key=lambda item: item[1].mse, reverse=True):
            kind = ATTACKS.get(record.attack.name)
            if kind is not None and record.threat_model.views == views:
                best["encoder" in kind.needs] = cell, record
        if len(best) == 2 and best[True][1].mse > best[False][1].mse:
            white, black = (f"{best[knows][0].attack} {best[knows][1].mse:.4f}" for knows in (True, False))
            flags.append(
                f"white box: knowing the weights did worse (MSE of {white}) than not knowing them ({black}); the "
                "white-box attack is not at its best, so look for its gradient and give it more steps"
            )
    return flags


def _below_the_estimate(ours: Sequence[tuple[Cell, Record]]) -> Iterator[tuple[Cell, str]]:
    for cell, record in ours:
        estimate = 0.0 if cell.leakage is None else cell.leakage.mse_gaussian_estimate  # of what sees an image once
        if record.threat_model.views == 1 and record.mse < estimate:
            yield (
                cell,
                f"below the estimate: MSE {record.mse:.4f} under the Gaussian estimate of {estimate:.4f}; images or "
                "features are not Gaussian here, so do not rely on it",
            )


def _constant(record: Record) -> Iterator[str]:
    # Nothing tells one picture from itself, as one victim's from the victims' mean.
    if record.constant_mse and record.mse > _CONSTANT * record.constant_mse:
        yield "constant picture: hardly closer to the truth than its mean, given to all; nothing was rebuilt of any one"


def _no_closer_than_mean(record: Record) -> Iterator[str]:
    if record.class_means is not None and record.mse > _CONSTANT * record.class_means.own:
        yield (
            "class mean: hardly closer than the attacker's own mean picture of the victim's class; what is rebuilt is "
            "the class, and no likeness of the victim"
        )


def _ignores_policy(cell: Cell, record: Record) -> Iterator[str]:
    if cell.policy and _runs_the_model(record):
        yield (
            f"white box: the attack runs the model itself, so {', '.join(cell.policy)} is nothing to it; its "
            "figures are those without, and speak for no policy"
        )


def _asked_once(place: FigurePlace, record: Record) -> Iterator[str]:
    policy = PolicyConfig.parse(place.policy, source="policy")
    fresh = [name for name, defense in _defenses(record) if defense.answers_anew]
    fresh += ["the policy's noise"] if policy.sigma and policy.noise == "fresh" else []
    if fresh and record.threat_model.draws == 1 and not _runs_the_model(record):
        yield (
            f"randomised: {', '.join(fresh)} comes anew with each answer, and the attacker asked once for each image; "
            "let it draw more often"
        )


def _unseen(record: Record) -> Iterator[str]:
    mass = record.attack.findings.mass_dropped or 0.0
    if mass > _UNSEEN:
        yield (
            f"unseen classes: {100 * mass:.1f} % of what the victims shared is on classes that the attacker's own "
            "images never got, so its inverter does not know them; a wider auxiliary set would do better"
        )


def _weak_evaluator(record: Record) -> Iterator[str]:
    judge, target = record.evaluator, record.target.accuracy
    if judge is not None and judge.accuracy < target:
        yield (
            f"evaluator: weaker than the target ({100 * judge.accuracy:.1f} % and {100 * target:.1f} %), so what it "
            "does not recognise may be recognisable"
        )


def _runs_the_model(record: Record) -> bool:
    attack = CLASS_ATTACKS.get(record.attack.name)
    return attack is not None and attack.ignores_output_policy()
