"""The one place that says what a text names and how it is opened.

A text is the name of a shipped checkpoint or router, the path of a checkpoint, router, ONNX graph, engine or plan, a folder of
graphs, engines and plans, or one of these with a variant: `asrn_x4.d3`. Each kind is a module here and a line in `KINDS`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import List, Optional, Sequence, Tuple, Union

from sr_deploy.core.depth_plan import DepthPlan
from sr_deploy.core.errors import InputError, VariantError, did_you_mean
from sr_deploy.core.registry import Registry
from sr_deploy.core.session import Session
from sr_deploy.runtime.opener.description import NetworkDescription, Variants
from sr_deploy.runtime.opener.folder import without_companions

KINDS = Registry(
    "kind of network",
    {
        "plan": "sr_deploy.runtime.opener.plan:PlanKind",
        "router": "sr_deploy.runtime.opener.router:RouterKind",
        "folder": "sr_deploy.runtime.opener.folder:FolderKind",
        "artifact": "sr_deploy.runtime.opener.artifact:ArtifactKind",
        "checkpoint": "sr_deploy.runtime.opener.checkpoint:CheckpointKind",
    },
)
"""In the order in which they are asked whether a text names one of them."""

_WITH_VARIANT = re.compile(r"(.+)\.([a-z][0-9]+(?:-[a-z]+)*)")


def kind_of(text: str) -> str:
    """Return the name of the first kind in `KINDS` that `text` matches."""
    source, _ = split_variant(text)
    return next(name for name in KINDS if KINDS[name]().matches(source))


def split_variant(text: str) -> Tuple[str, Optional[str]]:
    """Split `asrn_x4.d3` into `asrn_x4` and `d3`; a text without a variant, or an existing path, into itself and None."""
    match = None if Path(text).exists() else _WITH_VARIANT.fullmatch(text)
    return (match[1], match[2]) if match else (text, None)


def require_checkpoint(text: str, command: str) -> Tuple[str, Optional[str]]:
    """Split the text of a checkpoint into its source and its variant, for commands that take checkpoints only.

    Raises InputError for the other kinds.
    """
    source, variant = split_variant(text)
    kind = kind_of(source)
    if kind != "checkpoint":
        raise InputError(
            f"'{text}' is a{'n' if kind[0] in 'aeiou' else ''} {kind}; {command} takes a checkpoint",
            hint="give a checkpoint's path, or a shipped name (see srdeploy models)",
        )
    return source, variant


def describe(
    text: Union[str, Path], variants: Variants = None, *, trust: bool = False
) -> List[NetworkDescription]:
    """Return the networks that `text` names, smallest first.

    variants: which of a checkpoint's or a depth plan's. trust: accept artifacts that changed after their manifests were written.
    Raises an SrDeployError on bad input.
    """
    source, variant = split_variant(str(text))
    if variant is not None:
        if variants not in (None, "all", variant, [variant], (variant,)):
            raise InputError(
                f"'{text}' names its variant, and variants are given too",
                hint=f"give '{source}', or leave the variants out",
            )
        variants = [variant]
    kind = KINDS[kind_of(source)]()
    if kind.has_variants or variants is None:
        return kind.describe(source, variants, trust)
    return _of_variants(source, kind.describe(source, None, trust), variants)


def describe_all(
    texts: Union[str, Path, Sequence[Union[str, Path]]],
    variants: Variants = "all",
    *,
    trust: bool = False,
) -> List[NetworkDescription]:
    """Return the networks of several texts; `variants` applies to those that have variants to choose from.

    A manifest beside its artifact in the list, and the graphs of a plan in the list, are skipped: `folder/*` means the folder.
    Raises InputError for an empty list, or for variants where no text has any; else as `describe`.
    """
    items = [str(item) for item in ([texts] if isinstance(texts, (str, Path)) else texts)]
    if not items:
        raise InputError(
            "nothing to measure",
            hint="give a checkpoint, an ONNX graph, an engine or a folder of them",
        )
    if variants is not None and not variants:
        raise InputError("an empty list of variants", hint="give some, or leave it out for all")
    elastic = {item: KINDS[kind_of(item)]().has_variants for item in items}
    if variants not in (None, "all") and not any(elastic.values()):
        raise InputError(
            "variants are given, but no checkpoint: a graph or an engine is one variant",
            hint="leave --variants out, or give the files of those variants",
        )
    return [
        network
        for item in without_companions(items)
        for network in describe(item, variants if elastic[item] else None, trust=trust)
    ]


def describe_family(text: Union[str, Path]) -> List[NetworkDescription]:
    """Return the variants of the one model that `text` names, smallest first.

    Raises InputError for a folder that holds several models, or one variant more than once; else as `describe`.
    """
    networks = describe(text)
    by_name = {}
    for network in networks:
        if network.model != networks[0].model:
            raise InputError(
                f"{text} holds artifacts of several models, {networks[0].model} and {network.model}",
                hint="give one file, or a folder of one",
            )
        if network.name in by_name:
            raise InputError(
                f"{text} holds {network.name} more than once; the second is {network.artifact}",
                hint="give that file itself",
            )
        by_name[network.name] = network
    return networks


def describe_one(text: Union[str, Path], variant: Optional[str] = None) -> NetworkDescription:
    """Return the named variant of what `text` names, the largest for None; of two plans of one AdaEDSR the faster.

    Raises VariantError when there is no such variant; else as `describe_family`.
    """
    if variant is not None and kind_of(str(text)) in ("plan", "router"):
        return describe(text, [variant])[0]
    networks = _fastest_plan(describe(text)) or describe_family(text)
    return networks[-1] if variant is None else _of_variants(str(text), networks, variant)[0]


def open_session(text: Union[str, Path], variant: Optional[str] = None) -> Session:
    """Open the named variant, the largest for None, of a checkpoint, graph, engine, plan, router or folder of one model.

    Raises an SrDeployError on bad input, or where this machine cannot run it.
    """
    return describe_one(text, variant).open()


def _fastest_plan(networks: Sequence[NetworkDescription]) -> List[NetworkDescription]:
    """Return the plan that was faster where it was exported, in a list, where all are depth plans of one model; else none."""
    plans = [
        (network.plan.timed_ms or float("inf"), i)
        for i, network in enumerate(networks)
        if isinstance(network.plan, DepthPlan)
    ]
    if len(plans) < len(networks) or len({network.model for network in networks}) > 1:
        return []
    return [networks[min(plans)[1]]]


def _of_variants(
    text: str, networks: Sequence[NetworkDescription], variants: Variants
) -> List[NetworkDescription]:
    """Return the networks of some variants. Raises VariantError when one is not there."""
    if variants in (None, "all"):
        return list(networks)
    chosen = []
    for name in variants.split(",") if isinstance(variants, str) else variants or ():
        found = [network for network in networks if network.variant == name]
        if not found:
            known = [network.variant for network in networks if network.variant]
            raise VariantError(
                f"{text} holds no variant '{name}'; it holds {', '.join(known) or 'one network without a named variant'}",
                hint=did_you_mean(name, known),
            )
        chosen += found
    return chosen
