"""Clients of a service. The table says how the output of a foreign classifier may be read."""

from typing import Annotated

from pydantic import AfterValidator

from splitleak.tables import Table

SCORES: Table[str] = Table(
    "reading of scores",
    {
        "auto": "logits if the output has 'logit' in its name, else probabilities",
        "probabilities": "taken as they come",
        "logits": "the client applies softmax",
    },
)

Scores = Annotated[str, AfterValidator(SCORES.known)]
"""What a service answers with, by name."""
