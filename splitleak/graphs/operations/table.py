"""The operations that gradients pass through, by name."""

from splitleak.graphs.operations import elementwise, layers, reductions, resize, shapes
from splitleak.graphs.operations.node import Operation

OPERATIONS: dict[str, Operation] = {
    **elementwise.OPERATIONS,
    **layers.OPERATIONS,
    **reductions.OPERATIONS,
    **resize.OPERATIONS,
    **shapes.OPERATIONS,
}
