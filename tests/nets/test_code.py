import os
import sys
from pathlib import Path

import pytest
import torch

from sr_deploy.core.errors import CheckpointError, InputError, VariantError
from sr_deploy.core.network_code import parse_code
from sr_deploy.nets.code import load_code, network_from_module

OWN = Path(__file__).parents[1] / "doubles" / "own_networks.py"


def load(text):
    return load_code(parse_code(text)[0])


@pytest.fixture()
def folder(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "text, scale",
    [
        (f"{OWN}:Net", 2),
        (f"{OWN}:Net --scale 3", 3),
        (f"{OWN}:function --scale 4", 4),
        (f"{OWN}:instance", 3),
    ],
)
def test_a_class_a_function_and_a_module_are_networks(text, scale):
    net = load(text).network()
    assert net(torch.zeros(1, 3, 4, 5)).shape == (1, 3, 4 * scale, 5 * scale)
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    assert dict(net.named_buffers())["mean"].shape == (1, 3, 1, 1)  # moves with the module


def test_random_weights_are_the_same_in_every_process():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert load(f"{OWN}:Net").weights_sha256 == load(f"{OWN}:function --scale 2").weights_sha256
    assert torch.equal(torch.get_rng_state(), state)


def test_unchanged_files_are_run_once(folder):
    Path("net.py").write_text(
        "from torch import nn\nfrom part import WIDTH\n"
        "def net():\n    return nn.Conv2d(3, WIDTH, 1)\n"
    )
    Path("part.py").write_text("WIDTH = 3\n")
    first = load("net.py:net")
    assert load("net.py:net") is first
    Path("part.py").write_text("WIDTH =  6\n")
    changed = load("net.py:net")
    assert changed.module.out_channels == 6
    assert changed.source_sha256 != first.source_sha256
    assert changed.identity("") != first.identity("")
    assert changed.files == (folder / "net.py", folder / "part.py")


def test_two_folders_may_have_modules_of_the_same_name(folder):
    for name, width in (("a", 3), ("b", 6)):
        Path(name).mkdir()
        Path(name, "net.py").write_text(
            "from torch import nn\nfrom part import WIDTH\nnet = nn.Conv2d(3, WIDTH, 1)\n"
        )
        Path(name, "part.py").write_text(f"WIDTH = {width}\n")
    assert [load(f"{name}/net.py:net").module.out_channels for name in "aba"] == [3, 6, 3]


def test_a_file_in_a_package_imports_relatively(folder):
    Path("pkg/sub").mkdir(parents=True)
    for path in ("pkg/__init__.py", "pkg/sub/__init__.py"):
        Path(path).write_text("")
    Path("pkg/part.py").write_text("WIDTH = 5\n")
    Path("pkg/sub/net.py").write_text(
        "from torch import nn\nfrom ..part import WIDTH\nnet = nn.Conv2d(3, WIDTH, 1)\n"
    )
    for text in ("pkg/sub/net.py:net", "pkg.sub.net:net"):
        network = load(text)
        assert network.module.out_channels == 5
        assert folder / "pkg" / "part.py" in network.files


def test_what_a_file_changes_for_the_process_is_restored(folder):
    Path("net.py").write_text(
        "import os, sys, torch\nfrom torch import nn\nassert sys.argv[1:] == []\n"
        "os.chdir('/')\ntorch.set_default_dtype(torch.float64)\ntorch.set_grad_enabled(False)\n"
        "net = nn.Conv2d(3, 3, 1)\n"
    )
    argv, threads = sys.argv, torch.get_num_threads()
    network = load("net.py:net")
    assert Path(os.getcwd()) == folder and sys.argv is argv
    assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
    assert torch.get_num_threads() == threads
    assert network.module.weight.dtype == torch.float32


def test_weights_of_files_are_loaded(folder):
    other = load(f"{OWN}:Net --scale 3").module
    state = {name: value + 1 for name, value in load(f"{OWN}:Net").module.state_dict().items()}
    torch.save({"params_ema": {f"module.{n}": v.half() for n, v in state.items()}}, "w.pth")
    torch.save(other.state_dict(), "other.pth")
    loaded = load(f"{OWN}:Net --weights w.pth")
    torch.testing.assert_close(loaded.module.state_dict(), state, atol=1e-3, rtol=1e-3)
    assert loaded.name(2) == "w_x2" and load(f"{OWN}:Net").name(2) == "Net_x2"
    with pytest.raises(
        CheckpointError,
        match=r"other.pth does not fit its network: 2 tensors have the wrong shape, "
        r"the first is 'tail.0.weight': \(27, 4, 3, 3\), expected \(12, 4, 3, 3\)",
    ):
        load(f"{OWN}:Net --weights other.pth")
    with pytest.raises(InputError, match=r"there is no file none.pth"):
        load(f"{OWN}:Net --weights none.pth")


def test_a_network_of_another_range_takes_0_to_1():
    x = torch.rand(1, 3, 4, 4)
    y = load(f"{OWN}:Range255 --value-range 255").network()(x)
    torch.testing.assert_close(y[:, :, ::2, ::2], (x * 255).round() / 255)


def test_an_elastic_network_is_sliced():
    network = load(f"{OWN}:Elastic")
    assert network.variants == ("b1", "b3")
    assert network.chosen("all") == network.chosen(None) == ["b1", "b3"]
    assert network.chosen("b3,b1") == ["b3", "b1"]
    assert [len(network.network(v).body) for v in network.variants] == [1, 3]
    with pytest.raises(VariantError, match=r"Elastic has no variant 'b2'; it has b1, b3"):
        network.chosen("b2")
    with pytest.raises(VariantError, match="Net has no variant 'b2'; it has no variants"):
        load(f"{OWN}:Net").chosen("b2")
    with pytest.raises(InputError, match=r"variants\(\) returns \['small', 'large'\]; expected"):
        load(f"{OWN}:BadNames").variants  # noqa: B018 - computed
    with pytest.raises(InputError, match=r"slice\('b1'\) returns an int; expected a torch.nn.Mod"):
        load(f"{OWN}:BadSlices").network("b1")


@pytest.mark.parametrize(
    "name, match",
    [
        ("Nett", r"own_networks.py has no 'Nett'; it has Net, Elastic"),
        ("NUMBER", "NUMBER is an int; expected a class or a function that makes a torch.nn.Module"),
        ("none", "none makes a NoneType; expected a torch.nn.Module"),
        ("function", "function needs its upscale"),
        ("Arguments", "Arguments needs width, depth: a network is made without arguments, or with"),
        ("Lazy", "Lazy has lazy layers, whose shapes are unknown before a first run"),
        ("exits", r"exits cannot be made: it exits with 3 \(own_networks.py, line \d+\)"),
        ("recurses", "recurses cannot be made: it calls itself without an end"),
    ],
)
def test_what_makes_no_network_is_refused(name, match):
    with pytest.raises(InputError, match=match):
        load(f"{OWN}:{name}")


@pytest.mark.parametrize(
    "source, match, hint",
    [
        ("import sys\nsys.exit(0)\n", r"it exits with 0 \(net.py, line 2\)", "__main__"),
        ("x = 1\ndef f(:\n", r"SyntaxError: invalid syntax \(net.py, line 2\)", ""),
        (
            "import no_such_thing.at_all\n",
            r"no module 'no_such_thing' \(net.py, line 1\)",
            "pip in",
        ),
        ("\n\n1 / 0\n", r"ZeroDivisionError: division by zero \(net.py, line 3\)", ""),
        ("raise KeyError\n", r"a KeyError \(net.py, line 1\)", ""),
        (
            "def make(): return 1\nclass Block: pass\n",
            "net.py has no 'net'; it has make, Block",
            "",
        ),
        ("", "net.py has no 'net'; it has no network", ""),
    ],
)
def test_files_that_fail_are_reported_with_their_line(source, match, hint, folder):
    Path("net.py").write_text(source)
    with pytest.raises(InputError, match=match) as caught:
        load("net.py:net")
    assert hint in caught.value.hint


def test_names_that_lead_nowhere_are_refused(folder):
    Path("net.py").write_text("class A: pass\ndef f(): pass\n")
    with pytest.raises(InputError, match="'net.py' names no network") as caught:
        load("net.py")
    assert caught.value.hint == "it defines A, f"
    with pytest.raises(InputError, match="there is no file other.py"):
        load("other.py:Net")
    with pytest.raises(InputError, match="nowhere.at cannot be imported: there is no module"):
        load("nowhere.at:all")


def test_a_module_of_the_program_is_copied():
    module = torch.nn.Conv2d(3, 3, 1)
    network = network_from_module(module, "", None)
    with torch.no_grad():
        module.weight += 1
    assert module.training and module.weight.requires_grad
    assert not torch.equal(network.network().weight, module.weight)
    assert network.name(1) == "Conv2d_x1"
    with pytest.raises(InputError, match="expected a torch.nn.Module, got a function"):
        network_from_module(load, "", None)
