import pytest
import torch
import torch.nn.functional as F

from sr_deploy.nets.srn import ESA, SRN


@pytest.mark.parametrize("hw", [(15, 15), (16, 23), (40, 31)])
def test_attention_by_its_definition(hw):
    esa = ESA().double()
    x = torch.randn(1, 64, *hw, dtype=torch.float64)
    c1 = F.conv2d(x, esa.conv1.weight, esa.conv1.bias)
    small = F.max_pool2d(F.conv2d(c1, esa.conv2.weight, esa.conv2.bias, stride=2), 7, 3)
    small = F.conv2d(small, esa.conv3.weight, esa.conv3.bias, padding=1)
    wide = F.interpolate(small, hw, mode="bilinear", align_corners=False)
    mask = torch.sigmoid(F.conv2d(wide + c1, esa.conv4.weight, esa.conv4.bias))
    torch.testing.assert_close(esa(x), x * mask, rtol=0, atol=1e-12)


@pytest.mark.parametrize("last_conv, extra", [(True, 64 * 64 * 9 + 64), (False, 0)])
def test_the_s_variant_lacks_the_convolution_before_the_skip(last_conv, extra):
    small = sum(p.numel() for p in SRN(scale=4, blocks=4, last_conv=False).parameters())
    assert (
        sum(p.numel() for p in SRN(scale=4, blocks=4, last_conv=last_conv).parameters())
        == small + extra
    )


def test_fourteen_pixels_are_too_few_for_its_pooling():
    with pytest.raises(RuntimeError):
        SRN(scale=2, blocks=1)(torch.rand(1, 3, 14, 14))
