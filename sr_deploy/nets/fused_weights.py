"""The weights of the fused network as functions of a network's own, for training what is deployed.

`fuse_network` computes them once, in float64 and without gradients. These are differentiable.
"""

from __future__ import annotations

from typing import Dict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.nets.asrn import ASRN
from sr_deploy.nets.edsr import EDSRBase
from sr_deploy.nets.fuse import collapsed_weights, shuffled_blocks
from sr_deploy.nets.reparameterised import ReparameterisedConv


def fused_weights(net: nn.Module) -> Dict[str, Tensor]:
    """Return the parameters and buffers of `fuse_network(net)[0]` by their names, float32."""
    weights = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    for name, module in net.named_modules():
        if isinstance(module, ReparameterisedConv):
            kernel, bias = module.merged()
            _replace(weights, name, {f"{name}.weight": kernel})
            if bias is not None:
                weights[f"{name}.bias"] = bias
    if isinstance(net, ASRN) and net.collapses:
        _replace(weights, "head", {})
        _replace(weights, "upsampler", collapsed_weights(net))
    for name, (_, order) in shuffled_blocks(net).items():
        key = f"{name}.reduce.weight"
        weights[key] = weights[key].index_select(1, order.argsort())
    if isinstance(net, EDSRBase) and isinstance(net.tail, nn.Sequential):
        tail = {k: v for k, v in weights.items() if k.startswith("tail.")}
        border = {k.replace("tail.", "tail.tail.", 1): v for k, v in tail.items()}
        _replace(weights, "tail", {**border, **_collapsed_tail(net.tail, net.scale)})
    return weights


def _replace(weights: Dict[str, Tensor], module: str, tensors: Dict[str, Tensor]) -> None:
    """Replace the tensors of a module."""
    for name in [n for n in weights if n.startswith(module + ".")]:
        del weights[name]
    weights.update(tensors)


def _collapsed_tail(tail: nn.Sequential, scale: int) -> Dict[str, Tensor]:
    """Return EDSR's tail as a 5x5: its response to one impulse per channel, and to none."""
    like = next(tail.parameters())
    channel = torch.arange(like.shape[1])
    impulses = like.new_zeros(len(channel) + 1, len(channel), 7, 7)
    impulses[channel, channel, 3, 3] = 1
    response = F.pixel_unshuffle(tail(impulses), scale)  # (channels + 1, 3 * scale**2, 7, 7)
    kernel = (response[:-1] - response[-1:])[:, :, 1:-1, 1:-1].transpose(0, 1).flip(2, 3)
    return {"tail.conv.weight": kernel, "tail.conv.bias": response[-1, :, 3, 3]}
