"""`NetworkDescription`, a network before it is opened, and `Kind`, what can name one."""

from __future__ import annotations

import abc
import hashlib
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

from sr_deploy.core.counts import NTIRE_HW
from sr_deploy.core.errors import ArtifactError, MissingPackageError
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.manifest import Manifest
from sr_deploy.core.parts import AdaptivePlan
from sr_deploy.core.run_options import CPU_RUN, DEFAULT_RUN, RunOptions
from sr_deploy.core.session import Session, SizeContract
from sr_deploy.core.sizes import HW
from sr_deploy.core.spec import network_name

Variants = Union[str, Sequence[str], None]
"""None: all variants. "all": those of the paper's table. Else a list, or a comma-separated list."""


def _no_counts(hw: HW = NTIRE_HW) -> Dict[str, Any]:
    return {}


@dataclass(frozen=True)
class NetworkDescription:
    """One network: everything known before it is opened, and how to open it."""

    kind: str
    """checkpoint, code, graph, engine, plan, router or gains."""
    source: str
    """The text that names it, without a variant."""
    model: str
    variant: str
    """Empty for a network without named variants."""
    identity: str
    """Decides the output: checksums of all its files, with the variant, budget or depth."""
    sha256: str
    """Of the checkpoint's weights or the artifact's file."""
    backend: str
    opener: Callable[[RunOptions], Session] = field(repr=False, compare=False)
    scale: Optional[int] = None
    """None for a graph without a manifest, until it is probed (see `find_scale`)."""
    sizes: Optional[SizeContract] = None
    """None where only the opened session knows them."""
    precision: str = ""
    """As the manifest has it; empty: known once it is open."""
    precision_asked: str = ""
    target: str = ""
    artifact: str = ""
    """The file's name; empty for checkpoints and routers."""
    degradation: str = "bi"
    """How the LR images are made that it is trained for, as in `core/degradation.py`."""
    weights_sha256s: Tuple[str, ...] = ()
    """Of all checkpoints that it consists of."""
    untrained: bool = False
    """Whether its weights are random: its time and counts mean something, its output does not."""
    manifest: Optional[Manifest] = None
    plan: Optional[AdaptivePlan] = None
    notes: Tuple[str, ...] = ()
    """What whoever measures or uses it should know."""
    counts: Callable[..., Dict[str, Any]] = field(default=_no_counts, repr=False, compare=False)
    """`counts(hw=(256, 256))` returns the counts at an LR size as in a manifest: as trained and as
    deployed, by both counters. `hw` of the result says where they are of another size, the next
    that the network takes, or by default the only one. Empty: not known. Raises SrDeployErrors for
    what cannot be counted there."""

    @property
    def name(self) -> str:
        return network_name(self.model, self.variant)

    def open(self, run: RunOptions = DEFAULT_RUN) -> Session:
        """Open it on the device of `run`.

        Raises CannotRunHereError or MissingPackageError if this machine cannot run it,
        ArtifactError if a file is damaged, or loses more than `run` allows.
        """
        self._refuse_below(run, self.precision)
        session = self.opener(run)
        if (
            self.manifest or self.plan
        ):  # OpenVINO runs an FP32 graph in BF16 that is for such engines
            try:
                self._refuse_below(run, session.precision)
            except ArtifactError:
                session.close()
                raise
        session.name, session.psnr_db_vs_fp32 = self.name, self.psnr_db_vs_fp32
        return session

    @property
    def psnr_db_vs_fp32(self) -> Optional[float]:
        """The PSNR of its output against FP32, in dB, by its manifest or plan; None: it has
        none."""
        made = self.plan if self.manifest is None else self.manifest
        return None if made is None else made.psnr_db_vs_fp32

    @property
    def how_exact(self) -> str:
        """Its precision and what that loses: `bf16 by openvino, 55.0 dB against FP32`."""
        by = f"{self.precision or 'fp32'} by {self.backend}"
        if self.precision in ("", "fp32") or self.psnr_db_vs_fp32 is None:
            return by
        return f"{by}, {self.psnr_db_vs_fp32:.1f} dB against FP32"

    def why_below(self, run: RunOptions) -> str:
        """Return why it does not have the PSNR against FP32 that `run` asks for; empty if it has.

        What computes in FP32 has it, and what has no manifest: nothing else is known of it.
        """
        return self._why_below(run, self.precision)

    def _refuse_below(self, run: RunOptions, precision: str) -> None:
        problem = self._why_below(run, precision)
        if problem:
            raise ArtifactError(
                f"{self.artifact or self.name}: {problem}",
                hint="give less dB with --min-psnr-vs-fp32, or omit it",
            )

    def _why_below(self, run: RunOptions, precision: str) -> str:
        least = run.min_psnr_vs_fp32
        if least is None or precision in ("", "fp32"):
            return ""
        if self.psnr_db_vs_fp32 is None:
            return f"its PSNR against FP32 was not measured, expected at least {least:g} dB"
        if self.psnr_db_vs_fp32 < least:
            return f"{self.psnr_db_vs_fp32:.1f} dB against FP32, expected at least {least:g}"
        return ""

    def find_scale(self) -> Optional[int]:
        """Return the scale; a graph without a manifest is probed for it. None if that fails."""
        try:
            if self.scale is not None:
                return self.scale
            with self.open(CPU_RUN) as session:
                return session.scale
        except (ArtifactError, MissingPackageError):
            return None


class Kind(abc.ABC):
    """A kind of network source. A new kind is a module and a line in `opener/__init__.py`."""

    has_variants = True
    """Whether variants can be chosen; a graph or an engine is one variant."""

    @abc.abstractmethod
    def matches(self, text: str) -> bool:
        """Return whether `text` names this kind. Reads no file."""

    @abc.abstractmethod
    def describe(self, text: str, variants: Variants, trust: bool) -> List[NetworkDescription]:
        """Return the networks that `text` names, smallest first. Raises SrDeployErrors."""


def describe_plan(
    kind: str,
    source: str,
    plan: AdaptivePlan,
    opener: Callable[[RunOptions], Session],
    *,
    limit: str,
    **fields: Any,
) -> NetworkDescription:
    """Describe an adaptive network.

    limit: its budget or desired depth, which decides the output together with the plan.
    """
    backend = plan.runtime if kind == "plan" else "torch"
    engine = plan.engine
    digest = hashlib.sha256(to_json(plan).encode("utf-8")).hexdigest()
    defaults = {
        "variant": "",
        "sha256": plan.parent_sha256,
        "weights_sha256s": (plan.parent_sha256,),
    }
    return NetworkDescription(
        kind=kind,
        source=source,
        model=plan.model,
        identity=f"{digest} {backend} {limit}",
        backend=backend,
        opener=opener,
        scale=plan.scale,
        precision=engine.precision_obtained if engine else plan.graph_precision,
        precision_asked=plan.precision,
        target=plan.target if engine is None else engine.target,
        plan=plan,
        **{**defaults, **fields},
    )
