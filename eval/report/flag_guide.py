"""What each flag means to a reader: when it is raised, why it matters, and what to do about it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FlagGuide:
    """``raised``: the condition. ``matters``: what it does to the figures. ``remedy``: what to do."""

    raised: str
    matters: str
    remedy: str


_WEAK = "A weak attack makes a defense look strong."
GUIDE: dict[str, FlagGuide] = {
    "target": FlagGuide(
        "The classifier's accuracy is near the chance level.",
        "What is rebuilt of its features or answers says nothing about a classifier that works.",
        "Train the target longer, or choose a weaker defense.",
    ),
    "right answer": FlagGuide(
        "An imported network has no labels to be held against, so accuracy is agreement with its own earlier answers.",
        "It is 100 % without a defense by definition, and no accuracy on the task.",
        "Bring labelled images.",
    ),
    "mean image": FlagGuide(
        "On the attacker's own held-out images the attack is hardly better than one constant picture.",
        f"It has learned nothing yet. {_WEAK}",
        "Train it longer, give it more pairs, or take another attack.",
    ),
    "constant picture": FlagGuide(
        "What was rebuilt is hardly closer to the truth than the victims' mean picture, given to all.",
        "Either the defense holds, or the attack failed; this figure alone cannot tell which.",
        "Believe the defense only where several different attacks end here.",
    ),
    "not converged": FlagGuide(
        "The same attack finds more when it is trained longer, or its held-out error was still falling at its end.",
        f"{_WEAK}",
        "Believe the longer one, and give it more.",
    ),
    "no gain": FlagGuide(
        "Pictures of classes are recognised no more often, by two standard errors, than those of the best baseline.",
        "A baseline picks from what the attacker has already: nothing was learnt by inversion.",
        "Compare defenses by an attack that gains, or on classes that the attacker's images are not of.",
    ),
    "class mean": FlagGuide(
        "Victims are hardly closer than the attacker's own mean picture of their class.",
        "What was rebuilt is the class, and no likeness of the victim.",
        "Read it as what the label alone gives; let victims share more scores, or take a stronger attack.",
    ),
    "student": FlagGuide(
        "A network that LOMMA taught the target's answers labels public images otherwise than the target does.",
        f"It pulls the search elsewhere. {_WEAK}",
        "Give it no say (agreement), teach it longer (student_steps), or do without (students = 0).",
    ),
    "claim": FlagGuide(
        "A claim cannot be told from so few seeds, by a paired test that is corrected for the number of claims.",
        "Its figures may be luck, whichever way they point.",
        "Run as many seeds as the claim's figures say would tell, or claim less.",
    ),
    "zero gradient": FlagGuide(
        "An attack that optimises pixels was given a gradient of zero.",
        "The defense hides the gradient, not the picture.",
        "Attack an encoder without the part that blocks it, or without gradients.",
    ),
    "start": FlagGuide(
        "An attack ended no better than the one it started from.",
        f"It adds nothing as it is. {_WEAK}",
        "Give it more steps.",
    ),
    "few queries": FlagGuide(
        "What the attacker asked for has fewer values than the attack has weights.",
        "An attacker who may ask more would rebuild more.",
        "Allow more queries, where the threat model does.",
    ),
    "unlike": FlagGuide(
        "The victims' features are not distributed as those of the public images.",
        "An attacker with images like the victims' would do better.",
        "Choose public images from the victims' world.",
    ),
    "capture": FlagGuide(
        "The capture tells of messages that are missing.",
        "The attack saw less than crossed the wire.",
        "Record it again.",
    ),
    "randomised": FlagGuide(
        "The target draws anew at each crossing, and no attack saw a picture twice, or asked twice for its own.",
        "Averaging over crossings takes much of such a defense away.",
        "Let one attack see several views, and draw several answers.",
    ),
    "white box": FlagGuide(
        "An attack that knows the weights does worse than one that does not, or runs the model itself, where the "
        "service's policy has no effect.",
        "It is not at its best, or its figures are those without the policy.",
        "Look for its gradient and give it more steps; believe the better one.",
    ),
    "unseen classes": FlagGuide(
        "Victims' scores have mass on classes that none of the attacker's images was given.",
        "The inverter has never seen them, and rebuilds them badly.",
        "Widen the auxiliary images.",
    ),
    "evaluator": FlagGuide(
        "The judge of the pictures classifies worse than the target.",
        "What it does not recognise may be recognisable.",
        "Train a better evaluator.",
    ),
    "below the estimate": FlagGuide(
        "An attack has a lower MSE than the Gaussian estimate of the least one.",
        "Images or features are not Gaussian here, so the estimate does not hold.",
        "Do not rely on the estimate for this target.",
    ),
    "linear": FlagGuide(
        "An attack that knows as much does worse than linear regression.",
        f"{_WEAK}",
        "Train it longer; as it is it is no attack.",
    ),
    "nearest": FlagGuide(
        "An attack that knows as much does worse than the nearest of the attacker's own images.",
        f"{_WEAK}",
        "Train it longer; as it is it is no attack.",
    ),
    "cheaper": FlagGuide(
        "An attack of an audit does worse than one that stands before it on the list.",
        "More effort should find no less.",
        "Look at its settings; the verdict takes the better one in any case.",
    ),
    "one seed": FlagGuide(
        "All figures are of one training of each target.",
        "The luck of that training is in every figure, and in every comparison.",
        "Run at least three seeds.",
    ),
    "its margin is less than two standard errors over seeds": FlagGuide(
        "A claim's margin is small beside its spread over seeds.",
        "Luck is not excluded.",
        "Run more seeds.",
    ),
}


def guide_of(flag: str) -> FlagGuide | None:
    """What there is to know of a flag, by the words before its colon."""
    return GUIDE.get(flag.partition(":")[0])
