import pytest
import torch
import torch.nn.functional as F

from sr_deploy.nets.layers import ESA, ESA_MIN_HW, OldESA

ATTENTIONS = {
    "srn": lambda: ESA(8, 4),
    "rlfn": lambda: ESA(8, 4, skip=True),
    "efdn": lambda: OldESA(8, 4),
}


def conv(layer, x, **how):
    return F.conv2d(x, layer.weight, layer.bias, **how)


@pytest.mark.parametrize("network", ATTENTIONS)
@pytest.mark.parametrize("hw", [(15, 15), (16, 23), (40, 31)])
def test_attention_by_its_definition(network, hw):
    esa = ATTENTIONS[network]().double()
    x = torch.randn(1, 8, *hw, dtype=torch.float64)
    c1 = conv(esa.conv1, x)
    small = F.max_pool2d(conv(esa.conv2, c1, stride=2), 7, 3)
    if network == "efdn":
        first, _, second, _, third = esa.group
        small = F.relu(conv(second, F.relu(conv(first, small, padding=1)), padding=1))
        small = conv(third, small, padding=1)
    else:
        small = conv(esa.conv3, small, padding=1)
    wide = F.interpolate(small, hw, mode="bilinear", align_corners=False)
    mask = torch.sigmoid(conv(esa.conv4, wide + (c1 if network == "srn" else conv(esa.conv_f, c1))))
    torch.testing.assert_close(esa(x), x * mask, rtol=0, atol=1e-12)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_pixel_less_is_too_few_for_its_pooling(axis):
    hw = list(ESA_MIN_HW)
    hw[axis] -= 1
    with pytest.raises(RuntimeError):
        ESA(8, 4)(torch.rand(1, 8, *hw))
