"""Every operation against the cases by which ONNX itself tests a backend."""

import warnings
from functools import cache

import numpy as np
import pytest
import torch

from splitleak.graphs.module import GraphModule, missing_operations
from splitleak.graphs.operations.table import OPERATIONS

ELEMENTS = (np.float64, np.float32, np.float16, np.int64, np.int32, np.int8, np.uint8, np.bool_)

# Cases of our operations that are not reached, by what `missing_operations` says of them.
UNREACHED = frozenset(
    {
        "Attention with is_causal=1 with a mask",
        "Attention with left_window_size",
        "Attention with left_window_size, right_window_size",
        "Attention with output 2",  # a cache of keys, or the scores
        "Attention with past keys",
        "Attention with softcap",
        "AveragePool with dilations=[2, 2, 2]",
        "AveragePool with dilations=[2, 2]",
        "BatchNormalization with output 2",  # its statistics, which are updated in training mode instead
        "DequantizeLinear with block_size=2",
        "Dropout with a computed ratio",
        "Dropout with output 2",  # the mask
        "MaxPool with output 2",  # places in the whole tensor, batch included
        "QuantizeLinear with block_size=2",
        "Resize with coordinate_transformation_mode=tf_crop_and_resize",
        "ScatterND with reduction=max",
        "ScatterND with reduction=min",
        "ScatterND with reduction=mul",
    }
)

# Cases whose answer differs, with the reason.
DIFFERENT = {
    "test_reduce_max_empty_set": "torch has no maximum of nothing",
    "test_reduce_max_empty_set_bool": "torch has no maximum of nothing",
    "test_reduce_min_empty_set": "torch has no minimum of nothing",
    "test_resize_downsample_scales_cubic_align_corners": "by whole sizes, as ONNX Runtime does",
    "test_resize_downsample_scales_linear_align_corners": "by whole sizes, as ONNX Runtime does",
    "test_top_k_same_values": "torch leaves the order of equal values open",
    "test_top_k_same_values_2d": "torch leaves the order of equal values open",
    "test_top_k_same_values_largest": "torch leaves the order of equal values open",
}

# Operations whose cases do not hold arrays; `test_elementwise` has them.
OF_NO_CASE = {"Cast", "CastLike"}


def is_ours(case):
    arrays = [array for inputs, outputs in case.data_sets for array in (*inputs, *outputs)]
    return (
        all(node.op_type in OPERATIONS and not node.domain for node in case.model.graph.node)
        and all(isinstance(array, np.ndarray | np.generic) and array.dtype in ELEMENTS for array in arrays)
        and "_expanded" not in case.name  # an operation's definition by others, which have cases of their own
    )


@cache
def cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        return [case for case in collect_testcases(None) if is_ours(case)]


def answer(case, inputs):
    with torch.no_grad():
        outputs = GraphModule(case.model).eval()(*(torch.from_numpy(np.array(array)) for array in inputs))
    return outputs if isinstance(outputs, tuple) else (outputs,)


def unlike(case):
    """How the answer to a case differs from ONNX's own; None where it does not."""
    for inputs, expected in case.data_sets:
        outputs = answer(case, inputs)
        for output, array in zip(outputs, expected, strict=True):
            if tuple(output.shape) != array.shape:
                return f"expected shape {array.shape}, got {tuple(output.shape)}"
            if output.numpy().dtype != array.dtype and case.model.graph.node[0].op_type != "QuantizeLinear":
                return f"expected {array.dtype}, got {output.dtype}"
            tolerance = 1e-2 if array.dtype == np.float16 else 1e-3
            if not np.allclose(output.numpy(), array, rtol=tolerance, atol=1e-5, equal_nan=True):
                return f"expected {array}, got {output}"
    return None


@pytest.mark.slow
def test_every_operation_gives_what_onnx_says_it_does():
    checked = [case for case in cases() if not missing_operations(case.model) and case.name not in DIFFERENT]
    assert len(checked) > 500
    wrong = {case.name: difference for case in checked if (difference := unlike(case))}
    assert not wrong


@pytest.mark.slow
def test_the_modes_that_are_not_reached_are_the_listed_ones():
    assert {name for case in cases() for name in missing_operations(case.model)} == UNREACHED


@pytest.mark.slow
def test_every_operation_has_a_case():
    assert OPERATIONS.keys() - {node.op_type for case in cases() for node in case.model.graph.node} == OF_NO_CASE


@pytest.mark.slow
@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_from_onnx_still_does(name):
    (case,) = [case for case in cases() if case.name == name]
    try:
        difference = unlike(case)
    except IndexError as error:
        difference = str(error)
    assert difference
