"""Linear layers on a CPU, over blocks of rows that stay in the cache.

For a product with a bias torch first writes the bias to all of the output and then reads it again, which halves the
speed of products as narrow as this family's. The file imports nothing of the package, because it travels with saved
weights.
"""

import torch
from torch.autograd.function import once_differentiable

_ROWS = 4096


class _BlockedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, weight, bias):
        ctx.save_for_backward(values, weight)
        output = values.new_empty(*values.shape[:-1], len(weight))
        for rows, output_rows in _rows(values, output):
            torch.mm(rows, weight.t(), out=output_rows).add_(bias)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        values, weight = ctx.saved_tensors
        value_gradient = torch.empty_like(values)
        weight_gradient, bias_gradient = torch.zeros_like(weight), weight.new_zeros(len(weight))
        for gradient_rows, rows, value_gradient_rows in _rows(gradient.contiguous(), values, value_gradient):
            torch.mm(gradient_rows, weight, out=value_gradient_rows)
            weight_gradient.addmm_(gradient_rows.t(), rows)
            bias_gradient.add_(gradient_rows.sum(0))
        return value_gradient, weight_gradient, bias_gradient


def _rows(*tensors: torch.Tensor):
    """Blocks of rows of all the tensors, side by side."""
    return zip(*(tensor.view(-1, tensor.shape[-1]).split(_ROWS) for tensor in tensors), strict=True)


def blocked_linear(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """What `torch.nn.functional.linear` gives.

    Args:
        values: (..., features) float32 on a CPU, contiguous.
        weight: (outputs, features) float32.
        bias: (outputs,) float32.
    """
    return _BlockedLinear.apply(values, weight, bias)
