"""What is called a bound is one: nothing violates it, and nothing else in documentation or reports has the name."""

import math
import re
from pathlib import Path

import torch

from splitleak.eval.record.metrics import METRICS
from splitleak.eval.report.sheets import _NOTE_OF, _NOTES
from splitleak.eval.targets.leakage import ASSUMPTIONS, QUANTISATION_VARIANCE
from splitleak.measures.clusters import cluster_moments
from splitleak.measures.entropy import entropy_power, mixture_entropy, mixture_information

ROOT = Path(__file__).parents[2]
WRITTEN = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "eval").rglob("*.md"))]
SIDE, NOISE = 16, 0.435


def textures():
    """Four random textures of two colours in all their shifts ``(4 * 256, 256)``, and which of the four each is."""
    draw = torch.Generator().manual_seed(0)
    tiles = torch.randint(2, (4, SIDE, SIDE), generator=draw).double()
    shifts = [tiles.roll((down, right), (1, 2)).flatten(1) for down in range(SIDE) for right in range(SIDE)]
    return torch.cat(shifts), torch.arange(4).repeat(SIDE * SIDE)


def test_an_attack_that_knows_four_textures_reaches_0_where_the_gaussian_estimate_is_089_and_beats_no_bound():
    images, texture = textures()
    sent = images + NOISE * torch.randn(images.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    matched = images[torch.cdist(sent, images).argmin(1)]
    assert float((matched - images).square().mean()) == 0
    shares, _, variances = cluster_moments(images, texture)
    most = float(mixture_information(shares, variances, NOISE**2))
    entropy = mixture_entropy(images, texture, smallest_variance=QUANTISATION_VARIANCE)
    assert 0.085 < entropy_power(entropy - most, SIDE * SIDE) < 0.093  # the estimate, far above what the attack reaches
    told = math.log(len(images))  # nothing of which image it was is lost
    assert told <= most  # the bound on the information holds
    assert entropy_power(-math.inf, SIDE * SIDE) == 0  # and so does the one on the error, for the true entropy


OTHER_SENSES = ("bound by |",)  # of the table of formats: what ties a file to others


def test_no_documentation_and_no_report_calls_anything_a_bound():
    tables = (ROOT / "eval" / "results").glob("*/*.csv")
    texts = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in WRITTEN}
    texts |= {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").splitlines()[0] for path in tables}
    texts["notes"] = "\n".join([*_NOTE_OF.values(), *_NOTES.values(), *ASSUMPTIONS])
    texts["metrics"] = "\n".join(f"{metric.name} {metric.label}" for metric in METRICS)
    found = [
        (name, line)
        for name, text in texts.items()
        for line in text.splitlines()
        if re.search(r"\bbounds?\b|_bound\b", line, re.IGNORECASE) and not any(other in line for other in OTHER_SENSES)
    ]
    assert found == []
