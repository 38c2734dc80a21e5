"""A small builder for ONNX graphs, which knows how weights are stored."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

Weights = Literal["fp32", "fp16", "int8"]
OPSET, IR_VERSION = 20, 9  # the first opset with GELU, and the format version that came with it


class GraphBuilder:
    """Collects nodes and constants. Names count up, so equal calls give equal bytes.

    Args:
        weights: how weight matrices are stored. fp16: the runtime converts them to float32 when it loads the file.
            int8: with a scale per column; activations are quantised too, for each matrix product.
    """

    def __init__(self, weights: Weights):
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def op(self, op_type: str, *inputs: str, output: str = "", **attributes) -> str:
        """Add a node; returns the name of its output."""
        return self._node(op_type, inputs, [output or f"{op_type}_{len(self._nodes)}"], **attributes)[0]

    def _node(self, op_type: str, inputs: Sequence[str], outputs: list[str], **attributes) -> list[str]:
        self._nodes.append(helper.make_node(op_type, inputs, outputs, name=f"node_{len(self._nodes)}", **attributes))
        return outputs

    def constant(self, values: np.ndarray | list[int]) -> str:
        """Add a constant: an array, or int64 for a list."""
        name = f"constant_{len(self._constants)}"
        array = np.array(values, np.int64) if isinstance(values, list) else np.ascontiguousarray(values)
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def number(self, value: float) -> str:
        """Add a constant that is one number."""
        return self.constant(np.array(value, np.float32))

    def split(self, x: str, sizes: list[int], axis: int) -> list[str]:
        """Parts of the given sizes along an axis."""
        outputs = [f"Split_{len(self._nodes)}_{part}" for part in range(len(sizes))]
        return self._node("Split", [x, self.constant(sizes)], outputs, axis=axis)

    def reshape(self, x: str, *shape: int) -> str:
        """Another shape; -1 stands for what is left."""
        return self.op("Reshape", x, self.constant([*shape]))

    def transpose(self, x: str, *axes: int) -> str:
        """Another order of the axes."""
        return self.op("Transpose", x, perm=axes)

    def linear(self, x: str, linear: nn.Linear, exact: bool = False) -> str:
        """(rows, in) -> (rows, out); if `exact`, never in int8."""
        return self.matmul(x, array(linear.weight).T, None if linear.bias is None else array(linear.bias), exact)

    def matmul(self, x: str, weight: np.ndarray, bias: np.ndarray | None = None, exact: bool = False) -> str:
        """(rows, in) times a weight matrix (in, out), plus a bias (out,)."""
        if self._weights == "int8" and not exact:
            product = self._int8_matmul(x, weight)
        elif self._weights == "fp32":
            product = self.op("MatMul", x, self.constant(weight))
        else:
            half = self.constant(weight.astype(np.float16))
            product = self.op("MatMul", x, self.op("Cast", half, to=TensorProto.FLOAT))
        return product if bias is None else self.op("Add", product, self.constant(bias))

    def _int8_matmul(self, x: str, weight: np.ndarray) -> str:
        """Symmetric int8 weights with a scale per column, and uint8 activations with one scale."""
        scale = np.maximum(np.abs(weight).max(axis=0), 1e-12) / 127.0
        names = [f"Quantized_{len(self._nodes)}_{name}" for name in ("x", "scale", "zero")]
        quantized, x_scale, x_zero = self._node("DynamicQuantizeLinear", [x], names)
        integers = self.constant(np.rint(weight / scale).astype(np.int8))
        zero = self.constant(np.zeros((), np.int8))
        product = self.op("Cast", self.op("MatMulInteger", quantized, integers, x_zero, zero), to=TensorProto.FLOAT)
        return self.op("Mul", product, self.op("Mul", x_scale, self.constant(scale.astype(np.float32))))

    def model(self, name: str, inputs: dict[str, tuple], outputs: dict[str, tuple]) -> onnx.ModelProto:
        """The finished model. Inputs and outputs: name -> shape and description; all float32."""
        input_infos, output_infos = (
            [helper.make_tensor_value_info(value, TensorProto.FLOAT, *shape_and_text) for value, shape_and_text in part]
            for part in (inputs.items(), outputs.items())
        )
        graph = helper.make_graph(self._nodes, name, input_infos, output_infos, initializer=self._constants)
        model = helper.make_model(
            graph, producer_name="dreamrun", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        onnx.checker.check_model(model)
        return model


def array(tensor: Tensor) -> np.ndarray:
    """A weight as float32."""
    return tensor.detach().float().numpy()
