"""Imported graphs as sources of graphs."""

from __future__ import annotations

import hashlib
from typing import Dict, List, Sequence, Tuple, Union

import numpy as np
import onnx
from onnx import numpy_helper

from sr_deploy.core.errors import ArtifactError, InputError, VariantError
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.manifest import Manifest, manifest_path, read_manifest
from sr_deploy.core.metrics import psnr_unit
from sr_deploy.core.samples import sample_lr
from sr_deploy.core.sizes import HW, Sizes, hw_text
from sr_deploy.core.spec import Variant
from sr_deploy.export.graph_opset import in_opset
from sr_deploy.export.half import folded, fp32_graph
from sr_deploy.export.source import Source, SourceFacts, SourceGraph
from sr_deploy.runtime.graph_probe import is_quantised
from sr_deploy.runtime.graph_types import opset_of
from sr_deploy.runtime.onnx_view import load_graph
from sr_deploy.runtime.opener.artifact import artifact_path
from sr_deploy.runtime.ort import raw_session
from sr_deploy.runtime.standard_graph import INPUT, OUTPUT, standard_graph

_IMPORT = "import it first: srdeploy import-onnx FILE -o DIR"


class GraphSource(Source):
    """A graph that `import-onnx` wrote, with standard ends."""

    reference_name = "the imported file"
    check_name = "graph_vs_imported"

    def __init__(self, text: str) -> None:
        path = artifact_path(text)
        if path.is_file() and not manifest_path(path).is_file():
            raise ArtifactError(f"{path} has no manifest", hint=_IMPORT)
        manifest = read_manifest(path)
        if manifest.kind != "onnx" or manifest.interface is None:
            what = "an engine" if manifest.kind == "engine" else "a graph that srdeploy exported"
            raise InputError(
                f"{path} is {what}; export takes a checkpoint, an imported ONNX graph or code",
                hint=f"it was made by: {manifest.command}",
            )
        self.text, self.name, self.manifest = text, manifest.model, manifest
        self.scale, self.min_hw = manifest.scale, _hw(manifest.min_shape)
        self.parent_sha256 = manifest.sha256
        self.digest = hashlib.sha256(to_json(manifest.interface).encode()).hexdigest()[:12]
        self.sizes = None if manifest.dynamic else hw_text(manifest.opt_shape)
        file = load_graph(path)
        self._standard = standard_graph(file, manifest.interface, manifest.scale)
        self._fp32 = folded(fp32_graph(self._standard))

    @classmethod
    def from_text(cls, text: str) -> GraphSource:
        return cls(text)

    def variants(self, names: Union[str, Sequence[str], None]) -> List[Variant]:
        own = self.manifest.variant
        if names not in (None, "all", own, [own], (own,)):
            found = f"it is variant '{own}'" if own else "it has no variants"
            raise VariantError(f"{self.text} is one network: {found}", hint="omit --variants")
        return [Variant.parse(own)]

    def facts(self, variant: Variant) -> SourceFacts:
        manifest = self.manifest
        return SourceFacts(
            arch=manifest.arch,
            structure="",
            halo_px=manifest.halo_px,
            align_px=manifest.align_px,
            multiple=manifest.multiple,
            min_px=_hw(manifest.min_px),
            quantised=manifest.precision_obtained if self._is_quantised else "",
        )

    @property
    def _is_quantised(self) -> bool:
        return is_quantised(self.manifest.precision_obtained)

    def graph(self, variant: Variant, sizes: Sizes, form: str, opset: int) -> SourceGraph:
        check_sizes_taken(sizes, self.manifest, self.text)
        session = raw_session(self._fp32.SerializeToString())
        model = in_opset(_with_sizes(self._fp32, sizes, self.scale), opset)

        def reference(x: np.ndarray) -> np.ndarray:
            y: np.ndarray = session.run([OUTPUT], {INPUT: x})[0]
            return y

        return SourceGraph(model, reference, self._rewrites(sizes.opt), self.manifest.counts)

    def _rewrites(self, hw: HW) -> List[Dict[str, object]]:
        """Return what differs from the file beside its ends and opset."""
        own = opset_of(self._standard)
        rewrites: List[Dict[str, object]] = [{"rewrite": "standard ends", "from_opset": own}]
        if not self._is_quantised and self.manifest.precision_obtained != "fp32":
            x = nchw_from_rgb(sample_lr(hw, count=1)[0])
            y, exact = (
                raw_session(model.SerializeToString()).run([OUTPUT], {INPUT: x})[0]
                for model in (self._standard, self._fp32)
            )
            psnr_db = round(psnr_unit(y, exact), 2)
            kind = self.manifest.precision_obtained
            rewrites.append({"rewrite": f"{kind} weights, as FP32", "psnr_db_vs_file": psnr_db})
        return rewrites


def check_sizes_taken(sizes: Sizes, manifest: Manifest, what: str) -> None:
    """Raise InputError unless an imported graph takes all LR sizes of a range."""
    low, high = _hw(manifest.min_shape), _hw(manifest.max_shape)
    for axis, side in enumerate(("height", "width")):
        least, most = low[axis], high[axis]
        if least == most and (sizes.min[axis], sizes.max[axis]) != (least, least):
            raise InputError(
                f"{what} takes a {side} of {least} only",
                hint=f"export it with --shape {hw_text(_hw(manifest.opt_shape))}",
            )
        if sizes.max[axis] > most:
            raise InputError(
                f"{what} takes a {side} of at most {most}, not {sizes.max[axis]}",
                hint=f"give sizes up to {hw_text(high)}",
            )


def _hw(pair: Sequence[int]) -> Tuple[int, int]:
    return pair[0], pair[1]


def _with_sizes(model: onnx.ModelProto, sizes: Sizes, scale: int) -> onnx.ModelProto:
    """Return a standard graph for these LR sizes; of one size, what depends on it is constant."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    ends = ((copy.graph.input[0], 1), (copy.graph.output[0], scale))
    for value, factor in ends:
        free = [f"{value.name}_h", f"{value.name}_w"]
        dims = value.type.tensor_type.shape.dim
        for dim, name, low, high in zip(dims[2:], free, sizes.min, sizes.max):
            dim.Clear()
            if low == high:
                dim.dim_value = factor * low
            else:
                dim.dim_param = name
    del copy.graph.value_info[:]
    return copy if sizes.dynamic else _constant_shapes(copy)


def _constant_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace sizes that a graph computes by constants, where they are known."""
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
