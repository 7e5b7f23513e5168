"""The ways to run a model: which are allowed, in what order, and why there is none."""

import pytest

from sr_deploy.core.errors import CannotRunHereError
from sr_deploy.core.run_options import RunOptions
from sr_deploy.fast import ways
from sr_deploy.fast.ways import ModelWay, usable_ways


@pytest.fixture()
def all_usable(monkeypatch):
    monkeypatch.setattr(ModelWay, "why_not", lambda self, index=0: "")


def names(**options):
    return [(way.runtime, way.target) for way in usable_ways(RunOptions(**options))]


ON_GPU = [
    ("tensorrt-rtx", "rtx"),
    ("tensorrt", "rtx-tensorrt"),
    ("tensorrt", "rtx-tensorrt8"),
    ("onnxruntime-cuda", "cuda"),
    ("torch", ""),
]
ON_CPU = [("onnxruntime", "cpu"), ("openvino", "cpu-openvino"), ("torch", "")]


def test_the_gpu_comes_first_where_there_is_one(all_usable, monkeypatch):
    monkeypatch.setattr(ways, "gpu_present", lambda: False)
    assert names() == ON_CPU
    monkeypatch.setattr(ways, "gpu_present", lambda: True)
    assert names() == ON_GPU + ON_CPU
    assert names(device="cpu") == ON_CPU and names(device="cuda:1") == ON_GPU


@pytest.mark.parametrize(
    ("features", "first"),
    [
        (["avx512_bf16", "avx512_vnni"], ["openvino in int8", "openvino in bf16"]),
        (["amx_bf16", "avx512_vnni"], ["openvino in bf16", "openvino in int8"]),
    ],
)
def test_where_a_loss_is_allowed_the_cpu_decides_what_is_fastest(
    all_usable, monkeypatch, features, first
):
    monkeypatch.setattr(ways, "cpu_features", lambda: features)
    found = [str(way) for way in usable_ways(RunOptions(device="cpu", min_psnr_vs_fp32=50))]
    assert found == [*first, "onnxruntime in int8", "onnxruntime", "openvino", "torch"]


def test_where_a_loss_is_allowed_fp32_follows_fp16_on_a_gpu(all_usable):
    found = [str(way) for way in usable_ways(RunOptions(device="cuda", min_psnr_vs_fp32=50))]
    assert found[:3] == ["tensorrt-rtx in int8", "tensorrt-rtx in fp16", "tensorrt in int8"]
    assert found[-4:] == ["tensorrt", "tensorrt", "onnxruntime-cuda", "torch"]


def test_a_gpu_of_intels_is_used_where_it_is_asked_for(all_usable):
    assert names(device="xpu") == names(runtime="openvino-gpu") == [("openvino-gpu", "intel-gpu")]


def test_the_precisions_of_ways_are_those_of_their_targets():
    for way in (*ways._ON_GPU, *ways._ON_CPU, *ways._ON_INTEL_GPU):
        assert not way.target or way.precision in way.profile.precisions, way
        assert way.target or not way.is_bounded


def test_a_runtime_that_is_asked_for_is_the_only_way(all_usable):
    assert names(runtime="onnxruntime") == [("onnxruntime", "cpu")]
    assert names(runtime="tensorrt-rtx") == [("tensorrt-rtx", "rtx")]


def test_a_provider_without_engines_runs_the_graph(all_usable):
    (way,) = usable_ways(RunOptions(runtime="onnxruntime-directml"))
    assert (way.runtime, way.target, way.builds) == ("onnxruntime-directml", "cpu", False)
    (way,) = usable_ways(RunOptions(device="directml"))
    assert (way.runtime, way.builds) == ("onnxruntime-directml", False)


def test_no_way_names_every_reason(monkeypatch):
    reasons = {"tensorrt-rtx": "no GPU of SM 7.5 or newer"}
    monkeypatch.setattr(ModelWay, "why_not", lambda self, index=0: reasons[self.runtime])
    with pytest.raises(CannotRunHereError) as e:
        list(usable_ways(RunOptions(runtime="tensorrt-rtx")))
    assert "models cannot be run by tensorrt-rtx here: no GPU of SM 7.5" in e.value.message
    assert "omit --runtime" in e.value.hint


def test_a_way_is_looked_at_only_when_it_is_asked_for(monkeypatch):
    looked = []
    monkeypatch.setattr(ways, "gpu_present", lambda: False)
    monkeypatch.setattr(ModelWay, "why_not", lambda self, index=0: looked.append(self.runtime))
    next(usable_ways(RunOptions()))
    assert looked == ["onnxruntime"]
