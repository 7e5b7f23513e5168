"""Networks of the package spandrel, which recognises some forty architectures by their weights.

Such a network is made from its state dict alone.
"""

from __future__ import annotations

import contextlib
import math
import sys
import types
import warnings
from dataclasses import dataclass, replace
from typing import Any, Callable, Iterator, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.errors import CheckpointError, MissingPackageError, VariantError, one_line
from sr_deploy.core.interface import LUMA
from sr_deploy.core.spec import WHOLE, ModelSpec, Variant
from sr_deploy.nets.architecture import Architecture, Weights

_GRIDS = ("padder_size", "pad_size", "pad", "scaled_size", "downscale_factor")
"""Attributes of networks that pad images to multiples of them, as those with a window_size do."""
_PADDED_TO = {"FBCNN": 8, "MixDehazeNet": 4, "RealCUGAN": 4, "SCUNet": 64}
"""What else networks pad images to multiples of."""


@dataclass(frozen=True)
class SpandrelModel:
    """A network, and what spandrel knows about it."""

    network: nn.Module
    """(N, 3, H, W) RGB in 0..1 to (N, 3, sH, sW)."""
    architecture: str
    scale: int
    min_hw: Tuple[int, int]
    multiple: int
    """The LR height and width must be multiples of this."""
    notes: str
    """What else spandrel knows, as text for the card."""

    def spec(self, **card: object) -> ModelSpec:
        """Return the card of the weights."""
        return ModelSpec(
            arch=SPANDREL_ARCHITECTURE.name,
            scale=self.scale,
            variants=("",),
            config={"architecture": self.architecture},
            min_hw=self.min_hw,
            multiple=self.multiple,
            **card,  # type: ignore[arg-type]
        )


def model_from_weights(weights: Weights, *, source: str) -> Optional[SpandrelModel]:
    """Return the network that spandrel recognises by names and shapes; None if there is none.

    source: the file, for messages. Raises CheckpointError where spandrel cannot load the weights,
    or the network does not upscale or restore a single picture; MissingPackageError.
    """
    spandrel = import_spandrel()
    registry, extra = spandrel.MAIN_REGISTRY.copy(), _extra_registry()
    registry.add(*extra, ignore_duplicates=True)
    failed: Optional[CheckpointError] = None
    for support in registry.architectures("detection"):
        name = support.architecture.id
        if not support.detect(dict(weights)):
            continue
        try:
            # It copies the tensors, and renames entries of the dict.
            with warnings.catch_warnings():  # about its own use of torch
                warnings.simplefilter("ignore")
                descriptor = support.architecture.load(dict(weights))
        except Exception as e:  # KeyError, RuntimeError and others: unexpected names or shapes
            reason = one_line(e)
            failed = failed or CheckpointError(
                f"{source} has tensors of {name}, but spandrel cannot load it: {reason}",
                hint="give the complete state dict of one network",
            )
            continue
        model = _described(descriptor, source)
        if any(name == s.architecture.id for s in extra):
            licence = "an architecture of spandrel_extra_arches, whose licences restrict its use"
            model = replace(model, notes=f"{model.notes}; {licence}")
        return model
    if failed is not None:
        raise failed
    return None


def _described(descriptor: Any, source: str) -> SpandrelModel:
    """Return a network of spandrel with what we need to know. Raises CheckpointError."""
    name, size = descriptor.architecture.id, descriptor.size_requirements
    channels = descriptor.input_channels, descriptor.output_channels
    for refused, reason in (
        (descriptor.purpose == "Inpainting", "needs a mask beside the picture"),
        (descriptor.purpose == "FaceSR", "restores one aligned face, not pictures"),
        (size.square, "takes square pictures only"),
        (
            channels not in ((3, 3), (1, 1)),
            f"has {channels[0]} input and {channels[1]} output channels; expected 3 or 1 of both",
        ),
    ):
        if refused:
            raise CheckpointError(
                f"{source} is a network of {name}, which {reason}",
                hint="give a network that upscales or restores a picture of any shape",
            )
    notes = [", ".join([name, *descriptor.tags, descriptor.purpose])]
    if channels == (1, 1):
        notes.append("runs on luma; chroma is resized bicubically")
    if descriptor.tiling.name != "SUPPORTED":
        notes.append(f"according to spandrel, tiling is {descriptor.tiling.name.lower()}")
    if not descriptor.supports_half:
        notes.append("spandrel does not run it in FP16")
    return SpandrelModel(
        network=SpandrelNetwork(descriptor).eval(),
        architecture=name,
        scale=descriptor.scale,
        min_hw=(max(size.minimum, 1),) * 2,
        multiple=_multiple(descriptor),
        notes="; ".join(notes),
    )


def _multiple(descriptor: Any) -> int:
    """Return what LR sides must be multiples of, so that the network does not pad the image itself.

    A graph of any size cannot follow its padding, which depends on the size.
    """
    model = descriptor.model
    grids = [getattr(model, name, 1) for name in _GRIDS]
    grids += [getattr(module, "window_size", 1) for module in model.modules()]
    grids += [descriptor.size_requirements.multiple_of, _PADDED_TO.get(descriptor.architecture.id)]
    return math.lcm(*(n for n in grids if type(n) is int and n > 0))


class SpandrelNetwork(nn.Module):
    """A network of spandrel on RGB pictures. It does not clip its output."""

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.model: nn.Module = _traceable(descriptor.model.eval())
        self.call: Callable[[nn.Module, Tensor], Tensor] = descriptor._call_fn
        self.scale: int = descriptor.scale
        self.is_grey = descriptor.input_channels == 1
        self.luma: Tensor
        self.register_buffer("luma", torch.tensor(LUMA).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x, (N, 3, H, W) float 0..1 RGB, to (N, 3, scale*H, scale*W)."""
        if not self.is_grey:
            return self.call(self.model, x.clone())  # RCAN's scales its input in place
        y = (x * self.luma).sum(1, keepdim=True)  # (N, 1, H, W)
        chroma = x - y  # differences to luma: linear in Cb and Cr
        if self.scale > 1:
            chroma = F.interpolate(chroma, scale_factor=self.scale, mode="bicubic")
        return self.call(self.model, y) + chroma


class AllExperts(nn.Module):
    """SeemoRe's mixture of experts, run in full: those that are not selected count zero."""

    def __init__(self, mixture: Any) -> None:
        super().__init__()
        self.experts: nn.ModuleList = mixture.experts
        self.gate: nn.Module = mixture.gate
        self.selected: int = mixture.num_expert

    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        """Return the mixture of x, (N, C, H, W), and its calibration k of the same shape."""
        weights = F.softmax(self.gate(x), dim=1)  # (N, experts)
        top = weights.topk(self.selected)
        weights = torch.zeros_like(weights).scatter(1, top.indices, top.values)
        y = x
        for i, expert in enumerate(self.experts):
            y = y + expert(x, k) * weights[:, i : i + 1, None, None]
        return y


def _traceable(model: nn.Module) -> nn.Module:
    """Replace what exporters cannot trace by the same functions.

    SPAN's convolutions write their merged kernels on every run, and SeemoRe chooses its experts by
    their indices.
    """
    for name, module in list(model.named_modules()):
        part: Any = module
        if hasattr(part, "update_params") and hasattr(part, "eval_conv"):
            part.update_params()
            layers = [part.eval_conv, *([nn.LeakyReLU(0.05)] if part.has_relu else [])]
            model.set_submodule(name, nn.Sequential(*layers))
        elif all(hasattr(part, attribute) for attribute in ("experts", "gate", "num_expert")):
            model.set_submodule(name, AllExperts(part))
    return model


def import_spandrel() -> Any:
    """Import the package spandrel. Raises MissingPackageError."""
    needed_for = "recognising an architecture by its weights"
    with _usable_torchvision():
        try:
            import spandrel
        except ImportError as e:
            raise MissingPackageError("spandrel", needed_for=needed_for, cause=e) from e
    return spandrel


def _extra_registry() -> Any:
    """Return the architectures of spandrel_extra_arches; none if it is not installed."""
    try:
        from spandrel_extra_arches import EXTRA_REGISTRY
    except ImportError:
        return ()
    return EXTRA_REGISTRY


@contextlib.contextmanager
def _usable_torchvision() -> Iterator[None]:
    """Let spandrel be imported where torchvision cannot be: it was built for another torch.

    spandrel takes three functions from it, for networks of faces and masks, which are refused.
    """
    names = ["torchvision", "torchvision.transforms", "torchvision.transforms.functional"]
    if "spandrel" in sys.modules:
        yield
        return
    try:
        import torchvision.transforms.functional  # noqa: F401
    except Exception:  # ImportError, or RuntimeError: operator torchvision::nms does not exist
        stand_ins = {name: types.ModuleType(name) for name in names}
    else:
        yield
        return
    for name in ("InterpolationMode", "normalize", "rotate"):
        setattr(stand_ins[names[-1]], name, types.SimpleNamespace(BILINEAR=None))
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def _network_from_weights(weights: Weights, spec: ModelSpec) -> nn.Module:
    """Return the network of a checkpoint. Raises CheckpointError unless its card fits it."""
    model = model_from_weights(weights, source="its weights")
    if model is None:
        raise CheckpointError("spandrel does not recognise its weights")
    expected = model.spec()
    for name in ("scale", "variants", "config", "min_hw", "multiple"):
        found, known = getattr(spec, name), getattr(expected, name)
        if type(known)(found) != known:
            raise CheckpointError(f"its {name} is {found}; expected {known}")
    return model.network


def _check(variant: Variant) -> None:
    if variant != WHOLE:
        raise VariantError(f"networks of spandrel have no variants, got '{variant}'")


def _no_untrained(**_: object) -> nn.Module:
    raise CheckpointError(
        "networks of spandrel are made from their weights",
        hint="import a state dict: srdeploy import-checkpoint FILE -o DIR",
    )


SPANDREL_ARCHITECTURE = Architecture(
    name="spandrel",
    default_variant="",
    network=_no_untrained,
    check=_check,
    size_of=lambda weights: WHOLE,
    scales=tuple(range(1, 17)),
    from_weights=_network_from_weights,
)
