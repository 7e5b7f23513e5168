import pytest
import torch
import torch.nn.functional as F
from doubles.networks import SIZES, agree, network

from sr_deploy.nets.fsrcnn_tiles import SubpixelFSRCNN, TileFSRCNN


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_form_by_convolutions_is_the_same_function(scale):
    net = network("fsrcnn", scale, "w4").double()
    for block in (1, 8, 16):
        other = SubpixelFSRCNN(net, block)
        for hw in SIZES:
            agree(net, other, hw, torch.float64, 1e-9)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_tiles_with_their_margins_are_the_whole_image(scale):
    net = network("fsrcnn", scale, "w4").double()
    tile = TileFSRCNN(net)
    m = tile.margin
    assert m == (7 if scale == 4 else 8)
    x = torch.rand(1, 3, 21, 30, dtype=torch.float64)
    with torch.no_grad():
        whole = net(x)
        padded, inside = (F.pad(y, (m, m, m, m)) for y in (x, torch.ones_like(x[:, :1])))
        for top, left, h, w in ((0, 0, 21, 30), (0, 8, 5, 9), (16, 24, 5, 6), (8, 9, 4, 4)):
            rows, columns = slice(top, top + h + 2 * m), slice(left, left + w + 2 * m)
            sr = tile(padded[:, :, rows, columns], inside[:, :, rows, columns])
            s = scale
            expected = whole[:, :, s * top : s * (top + h), s * left : s * (left + w)]
            torch.testing.assert_close(sr, expected, rtol=0, atol=1e-9)
