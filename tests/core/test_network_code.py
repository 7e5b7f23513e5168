import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.core.network_code import NetworkCode, is_code, parse_code


@pytest.mark.parametrize(
    "text, code, variant",
    [
        ("mynet.py:Net", NetworkCode("mynet.py", "Net"), None),
        ("my nets/a-b.py:Net.d3", NetworkCode("my nets/a-b.py", "Net"), "d3"),
        ("C:\\nets\\a.py:Net", NetworkCode("C:\\nets\\a.py", "Net"), None),
        ("pkg.models.span:SPAN", NetworkCode("pkg.models.span", "SPAN"), None),
        ("mynet.py", NetworkCode("mynet.py", ""), None),
        (
            "mynet.py:Net.c8-nla --weights 'my w.pth' --scale 4 --value-range 255",
            NetworkCode("mynet.py", "Net", "my w.pth", 4, 255.0),
            "c8-nla",
        ),
    ],
)
def test_texts_are_parsed_and_written(text, code, variant):
    assert is_code(text)
    assert parse_code(text) == (code, variant)
    assert parse_code(str(code)) == (code, None)


def test_options_are_written_as_on_the_command_line():
    code = NetworkCode("a b.py", "Net", "w.pth", 2, 255.0)
    assert str(code) == "'a b.py:Net' --weights w.pth --scale 2 --value-range 255"


@pytest.mark.parametrize(
    "text",
    [
        "asrn_x4",
        "asrn_x4.d3",
        "models/net.onnx",
        "C:\\models\\net.onnx",
        "a:b:c",
        "net.py:3",
        "",
        "'",
    ],
)
def test_other_texts_are_no_code(text):
    assert not is_code(text)
    with pytest.raises(InputError, match="is not the code of a network; expected FILE.py:NAME"):
        parse_code(text)


@pytest.mark.parametrize(
    "options, match",
    [
        ("--depth 3", "unknown option '--depth'; expected --weights, --scale, --value-range"),
        ("--weights my w.pth", "unknown option 'w.pth'"),
        ("--scale", "--scale has no value"),
        ("--scale 2.5", "the scale '2.5' is not a whole number from 1 to 16"),
        ("--scale 0", "the scale '0' is not"),
        ("--value-range much", "the value range 'much' is not a positive number"),
        ("--value-range -1", "the value range '-1' is not"),
        ("--value-range nan", "the value range 'nan' is not"),
    ],
)
def test_bad_options_are_refused(options, match):
    with pytest.raises(InputError, match=match):
        parse_code(f"net.py:Net {options}")
