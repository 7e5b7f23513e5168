import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.core.run_options import Device, RunOptions, parse_device


@pytest.mark.parametrize(
    ("text", "device", "name"),
    [
        ("cpu", Device("cpu"), "cpu"),
        ("cuda", Device("cuda", 0), "cuda:0"),
        ("cuda:1", Device("cuda", 1), "cuda:1"),
        ("directml:2", Device("directml", 2), "directml:2"),
        ("coreml", Device("coreml"), "coreml"),
    ],
)
def test_devices_are_parsed_and_named(text, device, name):
    assert parse_device(text) == device
    assert str(device) == name


@pytest.mark.parametrize("text", ["gpu", "cuda:", "cuda:x", "CUDA", "cpu:1", "", "cuda:-1", "0"])
def test_another_device_is_an_error(text):
    with pytest.raises(InputError, match="unknown device"):
        RunOptions(device=text)


def test_a_cuda_graph_needs_a_gpu():
    with pytest.raises(InputError, match="--cuda-graph needs an NVIDIA GPU"):
        RunOptions(device="cpu", cuda_graph=True)


def test_an_unknown_precision_is_an_error():
    with pytest.raises(InputError, match="unknown precision 'int8'"):
        RunOptions(precision="int8")


@pytest.mark.parametrize("least", [0, -1.0, float("nan"), float("inf")])
def test_a_bound_on_the_loss_is_a_number_of_db(least):
    with pytest.raises(InputError, match="expected dB above 0, such as 50"):
        RunOptions(min_psnr_vs_fp32=least)


def test_a_bound_on_the_loss_does_not_go_with_a_lower_precision_of_torch():
    with pytest.raises(
        InputError, match="--precision bf16 is for torch, whose loss is not measured"
    ):
        RunOptions(precision="bf16", min_psnr_vs_fp32=50)
    RunOptions(precision="fp32", min_psnr_vs_fp32=50)


def test_the_settings_that_only_torch_has():
    assert RunOptions(device="cuda", runtime="onnxruntime-cuda").torch_settings == []
    options = RunOptions(precision="fp16", channels_last=True, compile=True)
    assert options.torch_settings == ["precision", "channels-last", "compile"]
