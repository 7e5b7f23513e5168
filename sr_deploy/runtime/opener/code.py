"""Networks of a user's own code, run by torch: `mynet.py:Net --weights w.pth`."""

from __future__ import annotations

import functools
from typing import Any, Callable, Dict, List, Optional

from sr_deploy.core.counts import NTIRE_HW
from sr_deploy.core.errors import InputError
from sr_deploy.core.network_code import NetworkCode, is_code, parse_code
from sr_deploy.core.run_options import RunOptions
from sr_deploy.core.session import Session, TimedOutput
from sr_deploy.core.sizes import HW, hw_text
from sr_deploy.core.spec import check_min_hw
from sr_deploy.runtime.opener.description import Kind, NetworkDescription, Variants
from sr_deploy.runtime.torch_module import TorchSession


class CodeKind(Kind):
    def matches(self, text: str) -> bool:
        return is_code(text)

    def describe(self, text: str, variants: Variants, trust: bool) -> List[NetworkDescription]:
        from sr_deploy.nets.code import load_code

        code, _ = parse_code(text)
        loaded = load_code(code)
        networks = [_describe_variant(code, loaded, name) for name in loaded.chosen(variants)]
        scales = {network.scale for network in networks}
        if len(scales) > 1:
            raise InputError(
                f"{code.label}: its variants upscale by {sorted(scales)}; expected one scale"
            )
        return networks
