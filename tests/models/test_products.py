"""Bfloat16 products in float32: the numbers of one rounding, whole or in pieces, and only where they are wanted."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F

from kineograph.models import products
from kineograph.models.products import InFloat32, products_in_float32


def random(*shape):
    return torch.randn(shape).bfloat16()


CASES = {
    "linear": lambda: (F.linear, (random(3, 5, 24), random(17, 24), random(17)), {}),
    "linear of one row, no bias": lambda: (F.linear, (random(24), random(17, 24)), {}),
    "linear, named": lambda: (F.linear, (random(7, 24),), {"weight": random(17, 24), "bias": random(17)}),
    "linear of nothing": lambda: (F.linear, (random(0, 24), random(17, 24)), {}),
    "conv1d": lambda: (F.conv1d, (random(2, 6, 9), random(5, 6, 3), random(5), 2, 1), {}),
    "conv2d": lambda: (F.conv2d, (random(3, 6, 9, 8), random(5, 6, 3, 3), random(5)), {"padding": 1, "stride": 2}),
    "conv2d in groups": lambda: (F.conv2d, (random(3, 6, 9, 8), random(6, 2, 3, 3), None, 1, 1, 1, 3), {}),
    "conv2d, groups named": lambda: (F.conv2d, (random(3, 6, 9, 8), random(6, 1, 3, 3)), {"groups": 6}),
    "conv2d without a batch": lambda: (F.conv2d, (random(6, 9, 8), random(5, 6, 3, 3), random(5)), {}),
    "conv3d": lambda: (F.conv3d, (random(1, 6, 4, 5, 5), random(7, 6, 3, 1, 1), random(7), 1, (1, 0, 0)), {}),
    "matmul": lambda: (torch.matmul, (random(4, 5, 8), random(4, 8, 3)), {}),
    "operator": lambda: (lambda a, b: a @ b, (random(4, 5, 8), random(8, 3)), {}),
    "baddbmm": lambda: (torch.baddbmm, (random(2, 4, 3), random(2, 4, 8), random(2, 8, 3)), {"beta": 0.5}),
}


@pytest.mark.parametrize("piece", [2**22, 40])
@pytest.mark.parametrize("name", CASES)
def test_products_are_those_of_the_same_numbers_rounded_once(name, piece, monkeypatch):
    monkeypatch.setattr(products, "PIECE", piece)
    torch.manual_seed(0)
    function, args, named = CASES[name]()
    wide = lambda value: value.float() if isinstance(value, torch.Tensor) else value
    with torch.no_grad():
        exact = function(*map(wide, args), **{key: wide(value) for key, value in named.items()})
        with InFloat32():
            found = function(*args, **named)
    assert found.dtype is torch.bfloat16
    assert found.shape == exact.shape
    torch.testing.assert_close(found.float(), exact, rtol=2**-8, atol=1e-5)  # half a unit in the last of 8 bits


def test_large_operands_are_cast_in_pieces(monkeypatch):
    monkeypatch.setattr(products, "PIECE", 2**10)
    seen, original = [], F.conv2d
    monkeypatch.setitem(
        products.PRODUCTS,
        F.conv2d,
        products._convolution(lambda x, w, *more, **named: seen.append((len(x), len(w))) or original(x, w, *more)),
    )
    with torch.no_grad(), InFloat32():
        F.conv2d(random(4, 16, 8, 8), random(32, 16, 3, 3))
    assert max(seen) == (1, 7)  # 1024 numbers of x, 1008 of the weight
    assert sum(w for _, w in seen) == 4 * 32


def test_other_types_are_left_alone():
    x, weight = torch.randn(3, 8), torch.randn(5, 8)
    with InFloat32():
        assert torch.equal(F.linear(x, weight), F.linear(x, weight))
        assert F.linear(x.double(), weight.double()).dtype is torch.float64


@pytest.mark.parametrize(
    ("dtype", "grad", "hardware", "wanted"),
    [
        (torch.bfloat16, False, False, True),
        (torch.bfloat16, False, True, False),
        (torch.bfloat16, True, False, False),
        (torch.float32, False, False, False),
    ],
)
def test_wanted_in_inference_where_the_processor_cannot(dtype, grad, hardware, wanted, monkeypatch):
    monkeypatch.setattr(products, "has_bf16", lambda: hardware)
    with torch.set_grad_enabled(grad):
        context = products_in_float32(torch.zeros(1, dtype=dtype))
    assert isinstance(context, InFloat32 if wanted else nullcontext)
