"""The audit: a fixed list of attacks on a target, for a threat model and a budget."""

from splitleak.tables import Table

THREATS: Table[str] = Table(
    "threat model",
    {
        "black-box": "reads the wire, and may send images of its own through the edge",
        "white-box": "has the edge's weights, too",
        "predictions": "reads the scores that victims share, and may ask the service with images of its own",
        "no-queries": "reads the wire and may send nothing; has the cloud's half, and labels of its own images",
    },
)
