import pytest
import torch

from sr_deploy.nets.asrn import ASRN
from sr_deploy.nets.linear import run_collapsed


def _chain(part, scale):
    net = ASRN(scale=scale, blocks=1).double()
    return (net.head, 3, 1) if part == "head" else (net.upsampler, 96, scale)


@pytest.mark.parametrize(
    "part, scale", [("head", 2), ("upsampler", 2), ("upsampler", 3), ("upsampler", 4)]
)
@pytest.mark.parametrize("hw", [(1, 1), (3, 5), (2, 1), (8, 7)])
def test_collapsed_chain_is_the_chain_borders_and_gradients_included(part, scale, hw):
    chain, channels, factor = _chain(part, scale)
    x = torch.randn(2, channels, *hw, dtype=torch.float64, requires_grad=True)
    wanted, got = chain(x), run_collapsed(chain, x, factor)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)
    probe = torch.randn_like(wanted)
    inputs = [x, *chain.parameters()]
    for a, b in zip(
        torch.autograd.grad(got, inputs, probe), torch.autograd.grad(wanted, inputs, probe)
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
