"""Feed-forward networks in pieces: the same numbers, no piece larger than said, whole where gradients are needed."""

import pytest
import torch
from diffusers.models.attention import FeedForward as Theirs

from kineograph.temporal.attention import FeedForward
from kineograph.temporal.rows import ROWS, FeedForwardByRows, by_rows, work_by_rows


class Counting:
    def __init__(self, function):
        self.function, self.tokens = function, []

    def __call__(self, x):
        self.tokens.append(x.numel() // x.shape[-1])
        return self.function(x)


@pytest.mark.parametrize(("shape", "pieces"), [((2, 600, 8), [ROWS, 176]), ((4, 256, 8), [ROWS]), ((3, 5, 8), [15])])
def test_pieces(shape, pieces):
    x, double = torch.randn(shape), Counting(lambda piece: 2 * piece)
    with torch.no_grad():
        assert torch.equal(by_rows(double, x), 2 * x)
    assert double.tokens == pieces
    whole = Counting(lambda piece: 2 * piece)
    by_rows(whole, x)
    assert whole.tokens == [x[..., 0].numel()]


@pytest.mark.parametrize(("hardware", "pieces"), [("0", [ROWS, 176]), ("1", [1200])])
def test_products_of_bfloat16_hardware_are_whole(hardware, pieces, monkeypatch):
    monkeypatch.setenv("KINEOGRAPH_BF16", hardware)
    x, same = torch.randn(2, 600, 8).bfloat16(), Counting(lambda piece: piece)
    with torch.no_grad():
        by_rows(same, x)
    assert same.tokens == pieces


def test_our_network_gives_the_same_with_and_without_gradients():
    network, x = FeedForward(16), torch.randn(3, 700, 16)
    with torch.inference_mode():
        found = network(x)
    torch.testing.assert_close(found, network(x), rtol=1e-6, atol=1e-6)


def test_the_image_networks_class_changes_and_nothing_else():
    theirs = torch.nn.Sequential(Theirs(16, activation_fn="geglu"))
    x, names = torch.randn(2, 900, 16), list(theirs.state_dict())
    expected = theirs(x)
    work_by_rows(theirs)
    work_by_rows(theirs)
    assert type(theirs[0]) is FeedForwardByRows
    assert list(theirs.state_dict()) == names
    with torch.inference_mode():
        found = theirs(x)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_any_type_under_autocast():
    network, x = FeedForward(16), torch.randn(2, 900, 16)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = network(x)
    assert found.dtype == torch.bfloat16
    assert found.shape == x.shape
