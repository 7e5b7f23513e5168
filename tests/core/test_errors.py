from __future__ import annotations

import sys

import pytest

from sr_deploy.core import errors
from sr_deploy.core.errors import MissingPackageError, SrDeployError, did_you_mean


@pytest.mark.parametrize(
    "wanted, found", [("xavir", "xavier"), ("RTX", ""), ("qqqq", ""), ("ctp", "cpu")]
)
def test_nearest_suggests_a_known_name_or_nothing(wanted, found):
    suggestion = did_you_mean(wanted, ["cpu", "rtx", "xavier"])
    assert suggestion == (f"did you mean '{found}'?" if found else "")


@pytest.mark.parametrize("name", [n for n in vars(errors) if n.endswith("Error")])
def test_every_error_is_one_the_command_line_catches(name):
    assert issubclass(getattr(errors, name), SrDeployError)


def test_a_missing_package_names_package_purpose_cause_and_pip_line():
    error = MissingPackageError(
        "onnxslim", needed_for="export", cause=ImportError("libfoo.so is absent")
    )
    assert (
        "'onnxslim'" in error.message
        and "export needs" in error.message
        and "libfoo.so" in error.message
    )
    assert error.hint == "pip install 'onnxslim>=0.1.50'"


@pytest.mark.skipif(sys.version_info < (3, 10), reason="torch needs Python 3.10")
def test_one_command_installs_all_that_is_used_together(monkeypatch):
    for module in ("onnx", "onnxscript", "safetensors", "jinja2"):
        monkeypatch.setitem(sys.modules, module, None)
    for module in ("torch", "matplotlib"):
        monkeypatch.setitem(sys.modules, module, sys)
    assert MissingPackageError("onnx", needed_for="export").hint == (
        "pip install 'onnx>=1.19' 'onnxscript>=0.5' 'safetensors>=0.4'"
    )
    assert MissingPackageError("jinja2", needed_for="a page").hint == "pip install jinja2"
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert MissingPackageError("matplotlib", needed_for="a page").hint == (
        "pip install 'matplotlib>=3.7' jinja2"
    )
