"""Finds out what a text names, as `runtime.opener` does, in its fastest form on this machine.

A checkpoint becomes an engine or graph in the user's cache, which is made when it is first needed
(see `made.py`); a router or a gains head becomes a plan there (see `plans.py`). Where
`run.min_psnr_vs_fp32` allows a loss, each variant runs in the fastest precision whose engine
reaches it. With `run.runtime` "torch" or torch's settings a checkpoint stays as it is, and so do
graphs, engines, code and plans.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Union

from sr_deploy.core.cache import key_of, read_cached, write_cached
from sr_deploy.core.errors import (
    BuildError,
    CannotRunHereError,
    CheckpointError,
    ExportError,
    SrDeployError,
)
from sr_deploy.core.files import sha256_of
from sr_deploy.core.progress import Progress, as_progress
from sr_deploy.core.providers import TORCH
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.session import Session
from sr_deploy.core.shipped import find_checkpoint, read_card
from sr_deploy.core.spec import ModelSpec, listed_variants
from sr_deploy.fast.made import ModelVariant, find, make, why_refused
from sr_deploy.fast.plans import by_plan, is_adaptive
from sr_deploy.fast.ways import ModelWay, usable_ways
from sr_deploy.runtime import opener
from sr_deploy.runtime.opener import NetworkDescription, Variants, check_run_options

Texts = Union[str, Path, Sequence[Union[str, Path]]]
Log = Callable[[str], None]


def _ignore(line: str) -> None:
    pass


def describe(
    text: Union[str, Path],
    variants: Variants = None,
    run: RunOptions = DEFAULT_RUN,
    *,
    trust: bool = False,
    untrained: bool = False,
    progress: Log = _ignore,
) -> List[NetworkDescription]:
    """Return the networks that `text` names, smallest first.

    variants, trust, untrained: as in `runtime.opener.describe`. progress: receives what is made.
    Raises an SrDeployError on bad input, CannotRunHereError if the runtime or device that `run`
    asks for cannot be used.
    """
    if is_adaptive(str(text)):
        return by_plan(str(text), run, lambda t: opener.describe(t, variants), progress=progress)
    models = _models(str(text), variants, run)
    if models is None:
        return opener.describe(text, variants, trust=trust, untrained=untrained)
    networks = _in_their_fastest_form(models, run, as_progress(progress))
    left = [model.variant for model in models if model.variant not in networks]
    if left:
        source, _ = opener.split_variant(str(text))
        by_torch = opener.describe(source, left, trust=trust, untrained=untrained)
        networks.update(zip(left, by_torch))
    return [networks[model.variant] for model in models]


def describe_all(
    texts: Texts,
    variants: Variants = "all",
    run: RunOptions = DEFAULT_RUN,
    *,
    trust: bool = False,
    untrained: bool = False,
    progress: Log = _ignore,
) -> List[NetworkDescription]:
    """Return the networks of several texts, see `runtime.opener.describe_all`."""

    def one(text: str, names: Variants) -> List[NetworkDescription]:
        return describe(text, names, run, trust=trust, untrained=untrained, progress=progress)

    return opener.describe_all(texts, variants, describe_each=one)


def describe_family(
    text: Union[str, Path], run: RunOptions = DEFAULT_RUN, *, progress: Log = _ignore
) -> List[NetworkDescription]:
    """Return the variants of the one model that `text` names, as `runtime.opener` does.

    Those of a folder that lose more than `run` allows are left out.
    """
    networks = opener.sorted_family(str(text), describe(text, run=run, progress=progress))
    for network in networks:
        problem = network.why_below(run)
        if problem:
            progress(f"left out: {network.artifact or network.name}: {problem}")
    return [network for network in networks if not network.why_below(run)] or networks


def describe_one(
    text: Union[str, Path],
    variant: Optional[str] = None,
    run: RunOptions = DEFAULT_RUN,
    *,
    progress: Log = _ignore,
) -> NetworkDescription:
    """Return a variant of the model that `text` names, the largest for None."""
    if is_adaptive(str(text)):
        return describe(text, variant, run, progress=progress)[0]
    models = _models(str(text), [variant] if variant else None, run)
    if not models:
        return opener.describe_one(text, variant, run)
    largest = models[-1].variant
    source, _ = opener.split_variant(str(text))
    return describe(source, [largest], run, progress=progress)[0]


def not_prepared_for(
    text: Union[str, Path], variant: Optional[str] = None, run: RunOptions = DEFAULT_RUN
) -> str:
    """Return what a model has to be prepared for when it is described next: `openvino in bf16`.

    Empty if it is prepared, or if nothing is prepared for it. Makes nothing.
    """
    models = _models(str(text), [variant] if variant else None, run)
    if not models:
        return ""
    model = models[-1]
    for way in usable_ways(run):
        if not way.target:
            break
        if not _suits(model, way):
            continue
        path = find(model, way)
        if path is None and not (_allows_loss(way, run) and why_refused(model, way)):
            return str(way)
        if path is not None and not _described(model, way, path).why_below(run):
            break
    return ""


def open_session(
    text: Union[str, Path],
    variant: Optional[str] = None,
    run: RunOptions = DEFAULT_RUN,
    *,
    progress: Log = _ignore,
) -> Session:
    """Open a variant of the model that `text` names, the largest for None, in its fastest form.

    Raises an SrDeployError on bad input, or if this machine cannot run it.

    >>> import numpy as np
    >>> with sr_deploy.session_of("fsrcnn-w16_x4") as session:
    ...     session.run(np.zeros((1, 3, 24, 32), np.float32)).shape
    (1, 3, 96, 128)
    """
    network = describe_one(text, variant, run, progress=progress)
    check_run_options([network], run)
    return network.open(run)


def _models(text: str, variants: Variants, run: RunOptions) -> Optional[List[ModelVariant]]:
    """Return the variants of the checkpoint that a text names, smallest first.

    None for other texts, for a checkpoint that is damaged or whose variants contradict the text,
    and where torch runs checkpoints.
    """
    if run.runtime == TORCH or run.torch_settings:
        return None
    source, variant = opener.split_variant(text)
    weights = find_checkpoint(source) if opener.kind_of(source) == "checkpoint" else None
    if weights is None or (variant is not None and variants not in (None, "all", [variant])):
        return None
    try:
        card = read_card(weights)
        if card.weights_sha256 != sha256_of(weights):
            return None
        names = [variant] if variant is not None else listed_variants(variants)
        if names is None:
            names = list(card.variants) if variants is None else _published(weights, card)
        return [ModelVariant(weights, card, str(card.variant(name))) for name in names]
    except SrDeployError:  # the opener says what is wrong
        return None


def _published(weights: Path, card: ModelSpec) -> List[str]:
    """Return the variants of the paper's table. Only the architecture knows them, which is torch's:
    so they are kept in the cache."""
    key = key_of(card.weights_sha256, card.digest, *card.variants)
    kept = read_cached("variants", key) or {}
    if set(kept.get("published", ())) - set(card.variants) or not kept.get("published"):
        from sr_deploy.nets.checkpoint import load_checkpoint

        names = [str(variant) for variant in load_checkpoint(weights).variants("all")]
        kept = {"published": names}
        write_cached("variants", key, kept)
    return list(kept["published"])


def _in_their_fastest_form(
    models: Sequence[ModelVariant], run: RunOptions, progress: Progress
) -> Dict[str, NetworkDescription]:
    """Return the description of the engine or graph of each variant; torch runs those left out."""
    found: Dict[str, NetworkDescription] = {}
    for way in usable_ways(run):
        left = [model for model in models if model.variant not in found]
        if not left or not way.target:
            break
        try:
            suited = [model for model in left if _suits(model, way)]
            found.update(_described_all(suited, way, run, progress))
        except CheckpointError:
            break
        except SrDeployError as e:
            if run.runtime is not None:
                raise
            problem = f"{models[0].weights.stem} is not run by {way}: {e.message}"
            progress("; ".join(filter(None, [problem, e.hint])))
    else:
        left = [model for model in models if model.variant not in found]
        if left and run.runtime is not None:
            raise CannotRunHereError(
                f"{', '.join(model.name for model in left)}: no precision of {run.runtime} has "
                f"{run.min_psnr_vs_fp32:g} dB against FP32",
                hint="give less dB, or omit --runtime",
            )
    return found


def _described_all(
    models: Sequence[ModelVariant], way: ModelWay, run: RunOptions, progress: Progress
) -> Dict[str, NetworkDescription]:
    """Return the description of each variant's file, which is made if there is none.

    Where `run` allows a loss, those that lose more are left out, with a line that says so. Raises
    an SrDeployError.
    """
    described: Dict[str, NetworkDescription] = {}
    problems: Dict[str, str] = {}
    missing = []
    for model in models:
        path = find(model, way)
        reason = why_refused(model, way) if path is None and _allows_loss(way, run) else ""
        if path is not None:
            described[model.variant] = _described(model, way, path)
        elif reason:
            problems[model.variant] = reason
        else:
            missing.append(model)
    if missing:
        names = ", ".join(model.name for model in missing)
        progress(f"{names}: prepared for {way} on this machine, once")
        with progress.track("preparing", len(missing)) as advance:
            for model in missing:
                advance(model.name, steps=0)
                try:
                    described[model.variant] = _described(model, way, make(model, way))
                except (BuildError, ExportError) as e:
                    if not _allows_loss(way, run):
                        raise
                    problems[model.variant] = e.message
                advance()
    problems.update({name: network.why_below(run) for name, network in described.items()})
    for model in models:
        if problems[model.variant]:
            progress(f"{model.name} is not run by {way}: {problems[model.variant]}")
    return {name: network for name, network in described.items() if not problems[name]}


def _suits(model: ModelVariant, way: ModelWay) -> bool:
    """Return whether a model can be made for a way: INT8 needs what training for it has learnt."""
    return way.precision != "int8" or model.is_trained_for_int8


def _allows_loss(way: ModelWay, run: RunOptions) -> bool:
    """Return whether a way is one of those that run only where they lose little enough."""
    return way.is_bounded and run.min_psnr_vs_fp32 is not None


def _described(model: ModelVariant, way: ModelWay, path: Path) -> NetworkDescription:
    network = opener.describe(str(path))[0]
    if not way.builds:
        # Opened by the provider that `run` names.
        network = replace(network, backend=way.runtime)
    return replace(network, weights_sha256s=(model.card.weights_sha256,))
