import pytest
import torch

from sr_deploy.nets.srn import SRN


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
