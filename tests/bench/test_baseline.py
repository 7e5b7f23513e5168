from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed; it runs the baseline")
pytest.importorskip("cv2", reason="opencv is not installed; it reads and writes the images")

from sr_deploy.bench.baseline import measure_in_turns  # noqa: E402
from sr_deploy.bench.measure import MeasureOptions, rows_from_artifacts  # noqa: E402
from sr_deploy.bench.own_memory import request_of  # noqa: E402
from sr_deploy.bench.turns import PartnerTurns, baseline_networks  # noqa: E402
from sr_deploy.core.errors import InputError  # noqa: E402
from sr_deploy.core.images import write_png  # noqa: E402
from sr_deploy.nets.checkpoint import parse_untrained, save_checkpoint  # noqa: E402
from sr_deploy.results import protocols  # noqa: E402
from sr_deploy.results.protocols import time_ms  # noqa: E402
from sr_deploy.results.tables import ntire_table  # noqa: E402
from sr_deploy.runtime.opener import describe  # noqa: E402


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("Set")
    for i in range(2):
        rgb = np.random.default_rng(i).integers(0, 256, (48, 40, 3), dtype=np.uint8)
        write_png(folder / f"{i}.png", rgb)
    return str(folder)


@pytest.fixture()
def small_baseline(monkeypatch):
    """The baseline of 2026 is FSRCNN, which is small."""
    year = protocols.PROTOCOLS["ntire2026"]
    other = replace(year, baseline=replace(year.baseline, network="fsrcnn_x4"))
    monkeypatch.setitem(protocols.PROTOCOLS, "ntire2026", other)


def measure(networks, **options):
    return list(rows_from_artifacts(networks, MeasureOptions(protocols=["ntire2026"], **options)))


@pytest.fixture()
def no_memory_process(monkeypatch):
    monkeypatch.setattr("sr_deploy.bench.measure.peak_mib", lambda *given: None)


def test_a_network_with_random_weights_is_timed_and_not_scored(images, no_memory_process):
    (row,) = measure("fsrcnn_x4", data=images)
    assert (row.error, row.psnr_db, row.ssim, row.artifact_sha256) == ("", None, None, "")
    assert time_ms(row) > 0 and [i["psnr_db"] for i in row.images] == [None, None]
    assert row.params and row.macs_g and row.baseline is None
    assert row.warnings[0] == "its weights are random: its quality is not known"


@pytest.mark.parametrize(
    "changed, key, found",
    [
        ({}, "row", "fsrcnn_x4"),
        ({"source": "nonet_x4"}, "error", "there is no model 'nonet_x4'"),
        ({"identity": "other"}, "error", "fsrcnn_x4 changed while it was measured"),
        ({"device": "coreml"}, "row", "torch runs on cpu or cuda here, not on coreml"),
    ],
)
def test_the_child_answers_with_the_row_of_the_baseline(
    images, no_memory_process, changed, key, found
):
    (network,) = describe("fsrcnn_x4", untrained=True)
    request = {**request_of(network), "device": "cpu", **changed}
    request["options"] = {"data": images, "protocols": ["ntire2026"]}
    answers = io.StringIO()
    turns = PartnerTurns(io.StringIO("1.0\n2.0\n"), answers, cpu_s=0.0, place="cpu")
    measure_in_turns(request, turns)
    *times, answer = answers.getvalue().splitlines()
    assert len(times) == (0 if changed else 2) and found in str(json.loads(answer)[key])


def test_a_checkpoint_of_the_baseline_among_the_networks_is_the_baseline(small_baseline, tmp_path):
    year = [protocols.PROTOCOLS["ntire2026"]]
    trained = parse_untrained("fsrcnn_x4").checkpoint()
    path = save_checkpoint(tmp_path, "mine", trained.spec, trained.weights)
    networks = [*describe("fsrcnn-w16_x4"), *describe(path)]
    assert baseline_networks(networks, year)["ntire2026"].model == "mine"
    assert baseline_networks(networks[:1], year)["ntire2026"].model == "fsrcnn_x4"


@pytest.mark.slow
def test_the_baseline_is_measured_beside_the_network(images, small_baseline, no_memory_process):
    first, row = measure("asrn_x4.d1", data=images, test=images, score=True)
    assert (first.model, row.model) == ("fsrcnn_x4", "asrn_x4")
    for one in (first, row):
        assert one.baseline["ms"] == time_ms(first) and len(one.images) == 4
        assert one.baseline["macs_g"] == first.macs_g
    table = ntire_table([first, row])
    assert "Score here" in table and " 7.39 " in table
    assert "score here: by the baseline measured in turns with the network" in table


def test_another_scale_than_the_baseline_s(images, small_baseline):
    with pytest.raises(InputError, match=r"asrn_x2.d1 upscales by 2; the baseline of ntire2026"):
        measure("asrn_x2.d1", data=images, score=True)


def test_a_network_that_cannot_be_counted_is_measured_with_a_warning(
    images, no_memory_process, monkeypatch
):
    def refuse():
        raise InputError("it has two inputs")

    def describe_all(*given, **how):
        return [replace(network, counts=refuse)]

    (network,) = describe("fsrcnn_x4", untrained=True)
    monkeypatch.setattr("sr_deploy.bench.measure.describe_all", describe_all)
    (row,) = list(rows_from_artifacts("fsrcnn_x4", MeasureOptions(data=images, lr="8x8", runs=2)))
    assert "it cannot be counted: it has two inputs" in row.warnings
    assert (row.error, row.macs_g, row.params) == ("", None, None)
