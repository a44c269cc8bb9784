"""Values that are no numbers are found wherever they hide, in every floating type."""

import pytest
import torch

from kineograph.temporal.finite import not_finite


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_value_in_any_place_is_found(dtype, value):
    for place in (0, 500, 999):
        tensor = torch.randn(1000)
        assert not not_finite(tensor.to(dtype))
        tensor[place] = value
        found = not_finite(tensor.to(dtype))
        assert found or (dtype == torch.float8_e4m3fn and value == value)  # this type has NaN but no infinity


def test_what_holds_no_numbers_is_finite():
    assert not not_finite(torch.empty(0))
    assert not not_finite(torch.tensor([3]))
    assert not not_finite(torch.empty(3, device="meta"))
    assert not not_finite(torch.full((4,), 65504.0, dtype=torch.float16))
