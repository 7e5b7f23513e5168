"""Finds out what a text names, and opens it.

A text is the name of a shipped checkpoint, router or gains head, the path of one, of an ONNX graph,
engine or plan, a folder of graphs, engines and plans, a network's code (`mynet.py:Net`), or one of
these with a variant: `asrn_x4.d3`.
Each kind is a module here and a line in `KINDS`.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Callable, Container, Dict, List, Optional, Sequence, Tuple, Union

from sr_deploy.core.errors import InputError, VariantError, did_you_mean
from sr_deploy.core.network_code import is_code, parse_code
from sr_deploy.core.precisions import LOWEST_FIRST, lowest_precision
from sr_deploy.core.providers import BUILDERS, OPENVINO, PROVIDERS, TORCH
from sr_deploy.core.registry import Registry
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.session import Session
from sr_deploy.core.spec import listed_variants
from sr_deploy.runtime.opener.checkpoint import describe_untrained
from sr_deploy.runtime.opener.description import NetworkDescription, Variants
from sr_deploy.runtime.opener.folder import without_companions

KINDS = Registry(
    "kind of network",
    {
        "code": "sr_deploy.runtime.opener.code:CodeKind",
        "plan": "sr_deploy.runtime.opener.plan:PlanKind",
        "gains": "sr_deploy.runtime.opener.gains:GainsKind",
        "router": "sr_deploy.runtime.opener.router:RouterKind",
        "folder": "sr_deploy.runtime.opener.folder:FolderKind",
        "artifact": "sr_deploy.runtime.opener.artifact:ArtifactKind",
        "checkpoint": "sr_deploy.runtime.opener.checkpoint:CheckpointKind",
    },
)
"""In the order in which they are tried."""

_WITH_VARIANT = re.compile(r"(.+)\.([a-z][0-9]+(?:-[a-z]+)*)")


def kind_of(text: str) -> str:
    """Return the first kind in `KINDS` that matches `text`."""
    source, _ = split_variant(text)
    return next(name for name in KINDS if KINDS[name]().matches(source))


def split_variant(text: str) -> Tuple[str, Optional[str]]:
    """Split `asrn_x4.d3` into `asrn_x4` and `d3`; other texts and existing paths have none.

    Of a network's code, the source is the canonical text: `mynet.py:Net --weights w.pth`.
    """
    if is_code(text):
        code, variant = parse_code(text)
        return str(code), variant
    match = None if Path(text).exists() else _WITH_VARIANT.fullmatch(text)
    return (match[1], match[2]) if match else (text, None)


def require_kind(text: str, command: str, kinds: Container[str]) -> Tuple[str, Optional[str], str]:
    """Split the text of a network into source and variant; return both and its kind.

    Raises InputError unless it is one of `kinds`.
    """
    source, variant = split_variant(text)
    kind = kind_of(source)
    if kind not in kinds:
        article = "an" if kind == "artifact" else "a"
        raise InputError(
            f"'{text}' is {article} {kind}; {command} takes a checkpoint, an imported ONNX graph "
            "or code",
            hint="give a checkpoint's path, a shipped name (see srdeploy models), or a graph that "
            "srdeploy import-onnx wrote",
        )
    return source, variant, kind


def describe(
    text: Union[str, Path],
    variants: Variants = None,
    *,
    trust: bool = False,
    untrained: bool = False,
) -> List[NetworkDescription]:
    """Return the networks that `text` names, smallest first.

    variants: see `Variants`; those of a depth plan are desired depths. trust: accept artifacts that
    changed after their manifests were written. untrained: accept an architecture at a scale, such
    as `span_x4`, where no checkpoint of that name is shipped. Raises an SrDeployError on bad input.
    """
    source, variant = split_variant(str(text))
    if variant is not None:
        if variants not in (None, "all", variant, [variant], (variant,)):
            raise InputError(
                f"'{text}' names its variant, but variants are given too",
                hint=f"give '{source}', or omit the variants",
            )
        variants = [variant]
    name = kind_of(source)
    if untrained and name == "checkpoint":
        networks = describe_untrained(source, variants)
        if networks:
            return networks
    kind = KINDS[name]()
    if kind.has_variants or variants is None:
        return kind.describe(source, variants, trust)
    return _of_variants(source, kind.describe(source, None, trust), variants)


def describe_all(
    texts: Union[str, Path, Sequence[Union[str, Path]]],
    variants: Variants = "all",
    *,
    trust: bool = False,
    untrained: bool = False,
    describe_each: Optional[Callable[[str, Variants], List[NetworkDescription]]] = None,
) -> List[NetworkDescription]:
    """Return the networks of several texts; `variants` applies to those with variants to choose.

    Manifests of listed artifacts and graphs of listed plans are skipped, so that `folder/*` equals
    the folder. describe_each: describes one text; None: `describe`, with `trust` and `untrained`.
    Raises InputError for an empty list, or for variants that apply to no text.
    """
    items = [str(item) for item in ([texts] if isinstance(texts, (str, Path)) else texts)]
    if not items:
        raise InputError(
            "nothing to measure",
            hint="give a checkpoint, an ONNX graph, an engine or a folder of them",
        )
    if variants is not None and not variants:
        raise InputError("the list of variants is empty", hint="give some, or omit it for all")
    elastic = {item: KINDS[kind_of(item)]().has_variants for item in items}
    if variants not in (None, "all") and not any(elastic.values()):
        raise InputError(
            "variants are given, but no checkpoint: a graph or an engine is one variant",
            hint="omit --variants, or give the files of those variants",
        )
    each = describe_each or functools.partial(describe, trust=trust, untrained=untrained)
    return [
        network
        for item in without_companions(items)
        for network in each(item, variants if elastic[item] else None)
    ]


def describe_family(text: Union[str, Path]) -> List[NetworkDescription]:
    """Return the variants of the one model that `text` names, smallest first.

    A folder may have a variant in several precisions: the lowest is first. Raises InputError for a
    folder of several models, or with a variant more than once in the same precision.
    """
    return sorted_family(str(text), describe(text))


def describe_one(
    text: Union[str, Path], variant: Optional[str] = None, run: RunOptions = DEFAULT_RUN
) -> NetworkDescription:
    """Return a variant of the model that `text` names, the largest for None.

    Of a folder that has it in several precisions, it is in the highest, or in the lowest that has
    the PSNR against FP32 that `run` asks for. Of two plans of one AdaDSR it is the faster. Raises
    VariantError for an unknown variant.
    """
    if variant is not None and kind_of(str(text)) in ("plan", "router", "gains"):
        return describe(text, [variant])[0]
    networks = describe(text)
    networks = _one_precision(sorted_family(str(text), networks), run)
    return networks[-1] if variant is None else _of_variants(str(text), networks, variant)[0]


def open_session(
    text: Union[str, Path], variant: Optional[str] = None, run: RunOptions = DEFAULT_RUN
) -> Session:
    """Open a variant of the model that `text` names, the largest for None.

    >>> import numpy as np
    >>> with sr_deploy.session_of("fsrcnn-w16_x4") as session:
    ...     session.run(np.zeros((1, 3, 24, 32), np.float32)).shape
    (1, 3, 96, 128)

    Raises an SrDeployError on bad input, or if this machine cannot run it.
    """
    network = describe_one(text, variant, run)
    check_run_options([network], run)
    return network.open(run)


def check_run_options(networks: Sequence[NetworkDescription], run: RunOptions) -> str:
    """Raise InputError for options that apply to none of the networks.

    Returns a note on options that apply to some of them only; empty if there are none.
    """
    if run.torch_settings and not any(network.backend == "torch" for network in networks):
        raise InputError(
            f"--{run.torch_settings[0]} is for checkpoints, which torch runs; "
            "graphs and engines have their own settings",
            hint=f"omit --{run.torch_settings[0]}, or give a checkpoint",
        )
    others = [network for network in networks if not _runs_by(network, run.runtime)]
    if others and len(others) == len(networks):
        raise InputError(
            f"{others[0].artifact or others[0].name} is not run by {run.runtime}, but by "
            f"{others[0].backend}",
            hint="omit --runtime",
        )
    notes = []
    if run.torch_settings and not all(network.backend == "torch" for network in networks):
        options = ", ".join(f"--{name}" for name in run.torch_settings)
        notes.append(
            f"{options}: for the checkpoints only; graphs and engines run as they were made"
        )
    if others:
        names = [network.artifact or network.name for network in others]
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
        notes.append(f"--runtime {run.runtime}: not for {listed}, which have their own")
    if run.min_psnr_vs_fp32 is not None:
        notes += [f"{network.name}: in {network.how_exact}" for network in networks]
    return "; ".join(notes)


def _runs_by(network: NetworkDescription, runtime: Optional[str]) -> bool:
    """Return whether a runtime, if one is given, can run a network."""
    return (
        runtime in (None, network.backend)
        or network.kind == "graph"
        and runtime not in (TORCH, *BUILDERS)
        or network.kind == "plan"
        and network.plan is not None
        and network.plan.engine is None
        and (runtime in PROVIDERS or runtime in OPENVINO)
    )


def sorted_family(text: str, networks: List[NetworkDescription]) -> List[NetworkDescription]:
    """Return the variants of one model in their order, each from its lowest precision on.

    Raises InputError unless they are of one model, each once in a precision.
    """
    check_family(text, networks, several_precisions=True)
    names = list(dict.fromkeys(network.name for network in networks))
    precisions = [*LOWEST_FIRST, *(network.precision for network in networks)]
    return sorted(
        networks,
        key=lambda n: (names.index(n.name), precisions.index(lowest_precision(n.precision))),
    )


def check_family(
    text: str, networks: List[NetworkDescription], *, several_precisions: bool = False
) -> List[NetworkDescription]:
    """Return the networks. Raises InputError unless they are variants of one model.

    several_precisions: a variant may be there once in each precision.
    """
    names = set()
    for network in networks:
        if network.model != networks[0].model:
            raise InputError(
                f"{text} contains artifacts of several models, "
                f"{networks[0].model} and {network.model}",
                hint="give one file, or a folder of one",
            )
        name = network.name
        name += f" in {lowest_precision(network.precision)}" if several_precisions else ""
        if name in names:
            raise InputError(
                f"{text} contains {name} more than once; the second is {network.artifact}",
                hint="give that file itself",
            )
        names.add(name)
    return networks


def _one_precision(
    networks: Sequence[NetworkDescription], run: RunOptions
) -> List[NetworkDescription]:
    """Return each variant in one precision; given are those of each from its lowest on."""
    chosen: Dict[str, NetworkDescription] = {}
    for network in networks:
        lower = chosen.get(network.name)
        if lower is None or run.min_psnr_vs_fp32 is None or lower.why_below(run):
            chosen[network.name] = network
    return list(chosen.values())


def _of_variants(
    text: str, networks: Sequence[NetworkDescription], variants: Variants
) -> List[NetworkDescription]:
    """Return the networks of some variants. Raises VariantError for an unknown one."""
    names = listed_variants(variants)
    if names is None:
        return list(networks)
    chosen = []
    for name in names:
        found = [network for network in networks if network.variant == name]
        if not found:
            known = [network.variant for network in networks if network.variant]
            contained = ", ".join(known) or "one network without a named variant"
            raise VariantError(
                f"{text} contains no variant '{name}'; it contains {contained}",
                hint=did_you_mean(name, known),
            )
        chosen += found
    return chosen
