"""Imported ONNX graphs as sources of graphs: with standard ends, in FP32, for other sizes."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Union

import numpy as np
import onnx
from onnx import numpy_helper

from sr_deploy.core.errors import InputError, VariantError
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.manifest import Manifest, read_manifest
from sr_deploy.core.metrics import psnr_unit
from sr_deploy.core.precisions import is_quantised
from sr_deploy.core.samples import sample_lr
from sr_deploy.core.sizes import HW, Sizes, hw_text
from sr_deploy.core.spec import Variant, listed_variants
from sr_deploy.core.target import TargetProfile
from sr_deploy.export.graph_opset import in_opset
from sr_deploy.export.half import folded, fp32_graph
from sr_deploy.export.source import Source, SourceFacts, SourceGraph
from sr_deploy.runtime.onnx_view import load_graph
from sr_deploy.runtime.opener.artifact import artifact_path
from sr_deploy.runtime.ort import raw_session
from sr_deploy.runtime.standard_graph import INPUT, OUTPUT, standard_graph


class GraphSource(Source):
    """A graph that `import-onnx` wrote.

    Its exports have the standard ends and the sizes of their targets. Nothing in it is rewritten
    beyond that, but what the target's opset demands. A graph in FP16 is computed in FP32 again,
    with the same weights, which precision and target then convert anew.
    """

    reference_name = "the imported graph"
    check_name = "onnxruntime_vs_imported_graph"

    def __init__(self, path: Path, manifest: Manifest) -> None:
        assert manifest.interface is not None
        self.path, self.manifest, self.interface = path, manifest, manifest.interface
        self.name, self.text, self.scale = manifest.model, path.name, manifest.scale
        self.min_hw = manifest.min_px
        self.parent_sha256 = manifest.sha256
        self.digest = hashlib.sha256(to_json(manifest.interface).encode()).hexdigest()[:12]
        self._is_quantised = is_quantised(manifest.precision_obtained)

    @classmethod
    def from_text(cls, text: str) -> GraphSource:
        """Return the source of an imported graph.

        Raises ArtifactError without a manifest, InputError for any other artifact.
        """
        path = artifact_path(text)
        manifest = read_manifest(path)
        if manifest.interface is None:
            what = "was exported already" if manifest.kind == "onnx" else "is an engine"
            raise InputError(f"{path} {what}", hint="export what it was made from")
        return cls(path, manifest)

    def variants(self, names: Union[str, Sequence[str], None]) -> List[Variant]:
        own = self.manifest.variant
        for name in listed_variants(names) or ():
            if name != own:
                has = f"is the variant {own}" if own else "has no variants"
                raise VariantError(f"{self.text} {has}, not '{name}'", hint="omit --variants")
        return [Variant.parse(own)]

    def facts(self, variant: Variant) -> SourceFacts:
        m = self.manifest
        return SourceFacts(
            arch=m.arch,
            structure="",
            halo_px=m.halo_px,
            align_px=m.align_px,
            multiple=m.multiple,
            min_px=m.min_px,
            degradation=m.degradation,
            quantised=m.precision_obtained if self._is_quantised else "",
        )

    def default_sizes(self, target: Optional[TargetProfile]) -> Sequence[str]:
        """Return the only size of a fixed graph, else the target's own sizes."""
        m = self.manifest
        return super().default_sizes(target) if m.dynamic else [hw_text(m.opt_shape)]

    def crop_hw(self, variant: Variant, asked: HW) -> HW:
        """Return the nearest size that the graph takes: of a fixed graph, its only one."""
        m = self.manifest
        h, w = super().crop_hw(variant, asked)
        (least_h, least_w), (most_h, most_w) = m.min_shape, m.max_shape
        return min(max(h, least_h), most_h), min(max(w, least_w), most_w)

    def opset(self, asked: int) -> int:
        """Return the graph's own opset, or the asked one if that is older."""
        return min(asked, self.manifest.opset or asked)

    def graph(self, variant: Variant, sizes: Sizes, form: str, opset: int) -> SourceGraph:
        self._check_sizes(sizes)
        session = raw_session(self._fp32.SerializeToString())
        model = in_opset(_resized(self._fp32, sizes, self.scale), opset)
        return SourceGraph(
            model,
            reference=lambda x: session.run(None, {INPUT: x})[0],
            rewrites=self._rewrites(session, sizes.opt),
            counts=self.manifest.counts,
        )

    @cached_property
    def _standard(self) -> onnx.ModelProto:
        return standard_graph(load_graph(self.path), self.interface, self.scale)

    @cached_property
    def _fp32(self) -> onnx.ModelProto:
        return folded(fp32_graph(self._standard))

    def _rewrites(self, session: Any, hw: HW) -> List[Dict[str, object]]:
        """Return how far the FP32 graph differs from a file of another type, in dB."""
        kind = self.manifest.precision_obtained
        if self._is_quantised or kind == "fp32":
            return []
        x = nchw_from_rgb(sample_lr(hw, count=1)[0])
        y = raw_session(self._standard.SerializeToString()).run(None, {INPUT: x})[0]
        psnr_db = psnr_unit(y, session.run(None, {INPUT: x})[0])
        return [{"rewrite": f"{kind} weights, computed in FP32", "psnr_db": round(psnr_db, 2)}]

    def _check_sizes(self, sizes: Sizes) -> None:
        m = self.manifest
        for axis, side in enumerate(("height", "width")):
            least, most = m.min_shape[axis], m.max_shape[axis]
            if not least <= sizes.min[axis] <= sizes.max[axis] <= most:
                asked = sorted({sizes.min[axis], sizes.max[axis]})
                allowed = f"{least} only" if least == most else f"{least} to {most}"
                raise InputError(
                    f"{self.text} takes a {side} of {allowed}, not {' to '.join(map(str, asked))}",
                    hint="give a size that it takes with --size HxW",
                )


def _resized(model: onnx.ModelProto, sizes: Sizes, scale: int) -> onnx.ModelProto:
    """Return a copy of a standard graph that declares other sizes at its ends."""
    resized = onnx.ModelProto()
    resized.CopyFrom(model)
    del resized.graph.value_info[:]
    free = [low != high for low, high in zip(sizes.min, sizes.max)]
    for end, name, factor in (
        (resized.graph.input[0], INPUT, 1),
        (resized.graph.output[0], OUTPUT, scale),
    ):
        dims = end.type.tensor_type.shape.dim[2:]
        for dim, n, is_free, side in zip(dims, sizes.opt, free, "hw"):
            dim.Clear()
            if is_free:
                dim.dim_param = side if factor == 1 else f"{name}_{side}"
            else:
                dim.dim_value = factor * n
    return resized if any(free) else _with_constant_shapes(resized)


def _with_constant_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace what a graph of one size computes from sizes by constants, where they are known."""
    while True:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        shapes = {
            value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in (*inferred.input, *inferred.value_info, *inferred.output)
            if value.type.tensor_type.HasField("shape")
            and all(d.HasField("dim_value") for d in value.type.tensor_type.shape.dim)
        }
        known = [n for n in model.graph.node if n.op_type == "Shape" and n.input[0] in shapes]
        if not known:
            return model
        for node in known:
            attributes = {a.name: a.i for a in node.attribute}
            part = slice(attributes.get("start", 0), attributes.get("end"))
            value = np.array(shapes[node.input[0]][part], np.int64)
            model.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
            model.graph.node.remove(node)
        model = folded(model)
