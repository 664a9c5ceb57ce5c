"""Flags: machine-made doubts about a number that may flatter a defense."""

from typing import Any

_STILL_FALLING = 0.02  # relative fall of the held-out error over the last tenth of the epochs


def flags(record: dict[str, Any]) -> list[str]:
    """What a reader should doubt in a cell's record, each with what to do; empty if nothing.

    ``mean image``: the attack is hardly better than always answering the mean of its public images.
    ``not converged``: its held-out error was still falling when training ended.
    """
    findings, found = record["attack"]["findings"], []
    if "mean_image_mse" in findings and findings["held_out_mse"] > 0.95 * findings["mean_image_mse"]:
        found.append("mean image: the attack is hardly better than a constant picture; try a stronger one")
    errors = [figures["held_out_mse"] for figures in findings.get("history", ()) if "held_out_mse" in figures]
    tenth = max(1, len(errors) // 10)
    if len(errors) > tenth and min(errors[-tenth:]) < (1 - _STILL_FALLING) * min(errors[:-tenth]):
        found.append("not converged: the attack was still getting better when it ended; train it longer")
    return found
