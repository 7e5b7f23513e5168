import torch

from sr_deploy.nets.complexity import count
from sr_deploy.nets.mobilenetv2 import MobileNetV2


def test_its_flops_as_a_router_are_those_printed():
    """CDNSR's Table III counts batch normalisation twice for each element, and no ReLU6."""
    with torch.device("meta"):
        net = MobileNetV2()
    counts = count(net, (32, 32), counter="hooks")
    activations = []
    for module in net.modules():
        if isinstance(module, torch.nn.ReLU6):
            module.register_forward_hook(lambda m, inputs, y: activations.append(y.numel()))
    net.eval()(torch.empty(1, 3, 32, 32, device="meta"))
    assert round((counts.macs - sum(activations)) / 1e6, 3) == 6.389
    assert (counts.params, counts.convs, len(activations)) == (2_227_715, 52, 35)


def test_the_features_are_those_of_its_paper():
    with torch.device("meta"):
        net = MobileNetV2(classes=1000)
    assert sum(p.numel() for p in net.parameters()) == 3_504_872  # "3.4M"; 300 M at 224x224
    macs = count(net, (224, 224), counter="fvcore").macs
    assert 300e6 < macs < 320e6


def test_it_tells_classes_of_patches_of_any_size_from_4x4():
    net = MobileNetV2(classes=2).eval()
    for h, w in ((4, 4), (32, 32), (7, 9)):
        assert net(torch.rand(2, 3, h, w)).shape == (2, 2)
