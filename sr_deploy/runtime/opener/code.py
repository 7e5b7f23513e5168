"""Networks of a user's own code, run by torch: `mynet.py:Net --weights w.pth`."""

from __future__ import annotations

import contextlib
import functools
from typing import Any, Dict, Iterator, List, Optional

from sr_deploy.core.counts import NTIRE_HW
from sr_deploy.core.errors import CannotRunHereError, InputError
from sr_deploy.core.network_code import NetworkCode, is_code, parse_code
from sr_deploy.core.run_options import RunOptions
from sr_deploy.core.session import SizeContract, TimedOutput
from sr_deploy.core.sizes import HW, hw_text, up_to_multiple
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
        scales = sorted({network.scale or 0 for network in networks})
        if len(scales) > 1:
            raise InputError(f"{code.label}: its variants upscale by {scales}; expected one scale")
        return networks


def _describe_variant(code: NetworkCode, loaded: Any, variant: str) -> NetworkDescription:
    from sr_deploy.runtime.module_probe import network_fit, network_notes

    fit = network_fit(loaded, variant)
    return NetworkDescription(
        kind="code",
        source=str(code),
        model=loaded.name(fit.scale),
        variant=variant,
        identity=loaded.identity(variant),
        sha256=loaded.weights_sha256,
        backend="torch",
        opener=lambda run: CodeSession(loaded, variant, fit, run),
        scale=fit.scale,
        sizes=fit.sizes,
        notes=network_notes(loaded, variant),
        precision_asked="fp32",
        weights_sha256s=(loaded.weights_sha256,),
        counts=functools.lru_cache(maxsize=None)(
            functools.partial(_counts, loaded, variant, fit.sizes)
        ),
    )


class CodeSession(TorchSession):
    """A network of a user's code, whose exceptions become errors with its line.

    Its receptive field is measured when `halo_px` or `align_px` is first asked for: by tiles.
    """

    def __init__(self, loaded: Any, variant: str, fit: Any, run: RunOptions) -> None:
        self._loaded, self._variant = loaded, variant
        super().__init__(
            loaded.network(variant),
            scale=fit.scale,
            min_hw=fit.sizes.min_hw,
            multiple=fit.sizes.multiple,
            run=run,
        )
        self.max_hw = fit.sizes.max_hw
        del self.halo_px, self.align_px  # until they are asked for

    @functools.cached_property
    def halo_px(self) -> Optional[int]:  # type: ignore[override]
        return self._field.halo_px

    @functools.cached_property
    def align_px(self) -> int:  # type: ignore[override]
        return self._field.align_px

    @property
    def _field(self) -> Any:
        from sr_deploy.runtime.module_probe import network_field

        return network_field(self._loaded, self._variant)

    def run_tensor(self, x: Any) -> Any:
        with self._errors(x):
            return super().run_tensor(x)

    def _run_timed(self, x_nchw: Any) -> TimedOutput:
        with self._errors(x_nchw):
            return super()._run_timed(x_nchw)

    @contextlib.contextmanager
    def _errors(self, x: Any) -> Iterator[None]:
        try:
            with self._loaded.running(f"running it at {hw_text(x.shape[2:])}"):
                yield
        except InputError as e:  # one that cannot run is listed, and the others are run
            raise CannotRunHereError(e.message, hint=e.hint) from e


def _counts(loaded: Any, variant: str, sizes: SizeContract, hw: HW = NTIRE_HW) -> Dict[str, Any]:
    from sr_deploy.nets.complexity import count_record

    if sizes.max_hw == sizes.min_hw:
        hw = sizes.min_hw[0], sizes.min_hw[1]
    check_min_hw(hw, sizes.min_hw, what=loaded.label)
    hw = up_to_multiple(hw, sizes.multiple)
    with loaded.running(f"counting it at {hw_text(hw)}"):
        record: Dict[str, Any] = count_record(loaded.network(variant), hw)
    return record
