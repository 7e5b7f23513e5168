"""TensorRT for RTX, which needs no GPU to build, builds the graphs of tiles and branches."""

from __future__ import annotations

import pytest


def built(path, shapes, *, free_hw=False):
    """Return whether TensorRT for RTX builds the graph.

    shapes: of each input. The batch is 1 to 16 or, with `free_hw`, height and width are dynamic.
    """
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    if not trt.OnnxParser(network, logger).parse(path.read_bytes()):
        return False
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for name, shape in shapes.items():
        sizes = (
            [(1, shape[0], n, 2 * n) for n in (16, 32, 64)]
            if free_hw
            else [(n, *shape) for n in (1, 8, 16)]
        )
        profile.set_shape(name, *sizes)
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config) is not None


def test_a_router_and_its_branches_are_built_for_any_number_of_patches(small_router, tmp_path):
    export = pytest.importorskip("sr_deploy.export.plans", reason="needs torch and onnx")
    plan = export.plan_from_router(small_router, tmp_path)
    graphs = sorted(plan.parent.glob("*.onnx"))
    assert len(graphs) == 3 and all(built(graph, {"lr": (3, 16, 16)}) for graph in graphs)


def test_parts_of_an_adaedsr_are_built_for_any_size(depth_plan_path):
    folder = depth_plan_path.parent
    for group in (1, 2, 3):
        given = {"y": (8,), "depth_map": (1,)}
        assert built(folder / f"ada.b{group}.onnx", given, free_hw=True)
    assert built(folder / "ada.head.onnx", {"lr": (3,)}, free_hw=True)
    assert built(folder / "ada.whole.onnx", {"lr": (3,), "depth_map": (1,)}, free_hw=True)
    assert built(folder / "ada.end.onnx", {"y": (8,), "features": (8,)}, free_hw=True)


def test_parts_of_an_adarcan_are_built_for_any_size(adarcan_plan_path):
    folder = adarcan_plan_path.parent
    assert built(folder / "adar_x2.g1.b2.onnx", {"y": (16,), "depth_map": (1,)}, free_hw=True)
    assert built(folder / "adar_x2.g1.last.onnx", {"y": (16,), "start": (16,)}, free_hw=True)
