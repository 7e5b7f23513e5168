"""The graphs for engines of dense tensors, read and built by the one real TensorRT that needs no GPU."""

from __future__ import annotations

import pytest


def built(path, shapes):
    """Whether TensorRT for RTX builds the graph, its inputs' batch from 1 to 16. shapes: by input, without the batch."""
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    if not trt.OnnxParser(network, logger).parse(path.read_bytes()):
        return False
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for name, shape in shapes.items():
        profile.set_shape(name, *((n, *shape) for n in (1, 8, 16)))
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config) is not None


def test_a_router_and_its_branches_are_built_for_any_number_of_patches(small_router, tmp_path):
    export = pytest.importorskip("sr_deploy.export.routed", reason="needs torch and onnx")
    plan = export.plan_from_router(small_router, tmp_path)
    graphs = sorted(plan.parent.glob("*.onnx"))
    assert len(graphs) == 3 and all(built(graph, {"lr": (3, 16, 16)}) for graph in graphs)


def test_tiles_of_an_adaedsr_are_built(plans):
    graphs = sorted(plans["tiles"].parent.glob("*.k*.onnx"))
    sides = {1: 7 + 2 * 6, 3: 7 + 2 * 10}
    assert len(graphs) == 2
    for graph in graphs:
        side = sides[int(graph.name.split(".")[1][1:])]
        assert built(graph, {"lr": (3, side, side), "depth_map": (1, side, side)})
