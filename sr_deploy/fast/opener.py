"""Finds out what a text names, as `runtime.opener` does, in its fastest form on this machine.

A checkpoint becomes an engine or graph in the user's cache, which is made when it is first needed
(see `made.py`). With `run.runtime` "torch" or torch's settings it stays as it is, and so do graphs,
engines, code and adaptive networks.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple, Union

from sr_deploy.core.cache import key_of, read_cached, write_cached
from sr_deploy.core.errors import CheckpointError, SrDeployError
from sr_deploy.core.files import sha256_of
from sr_deploy.core.progress import Progress, as_progress
from sr_deploy.core.providers import TORCH
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.session import Session
from sr_deploy.core.shipped import find_checkpoint, read_card
from sr_deploy.core.spec import ModelSpec, listed_variants
from sr_deploy.fast.made import ModelVariant, find, make
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
    models = _models(str(text), variants, run)
    if models is None:
        return opener.describe(text, variants, trust=trust, untrained=untrained)
    networks = _in_their_fastest_form(models, run, as_progress(progress))
    if networks is None:
        names = [model.variant for model in models]
        source, _ = opener.split_variant(str(text))
        networks = opener.describe(source, names, trust=trust, untrained=untrained)
    return networks


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
    """Return the variants of the one model that `text` names, smallest first."""
    return opener.check_family(str(text), describe(text, run=run, progress=progress))


def describe_one(
    text: Union[str, Path],
    variant: Optional[str] = None,
    run: RunOptions = DEFAULT_RUN,
    *,
    progress: Log = _ignore,
) -> NetworkDescription:
    """Return a variant of the model that `text` names, the largest for None."""
    models = _models(str(text), [variant] if variant else None, run)
    if not models:
        return opener.describe_one(text, variant)
    largest = models[-1].variant
    source, _ = opener.split_variant(str(text))
    return describe(source, [largest], run, progress=progress)[0]


def not_prepared_for(
    text: Union[str, Path], variant: Optional[str] = None, run: RunOptions = DEFAULT_RUN
) -> str:
    """Return the runtime for which a model has to be prepared when it is described next.

    Empty if it is prepared, or if nothing is prepared for it. Makes nothing.
    """
    models = _models(str(text), [variant] if variant else None, run)
    way = next(usable_ways(run)) if models else None
    missing = models and way and way.target and find(models[-1], way) is None
    return way.runtime if way and missing else ""


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
) -> Optional[List[NetworkDescription]]:
    """Return the description of each model's engine or graph; None: torch runs them."""
    for way in usable_ways(run):
        if not way.target:
            break
        try:
            return [_described(model, way, path) for model, path in _files(models, way, progress)]
        except CheckpointError:
            break
        except SrDeployError as e:
            if run.runtime is not None:
                raise
            problem = f"{models[0].weights.stem} is not run by {way.runtime}: {e.message}"
            progress("; ".join(filter(None, [problem, e.hint])))
    return None


def _files(
    models: Sequence[ModelVariant], way: ModelWay, progress: Progress
) -> List[Tuple[ModelVariant, Path]]:
    """Return each model with its file, which is made if there is none. Raises an SrDeployError."""
    found = [(model, find(model, way)) for model in models]
    missing = [model for model, path in found if path is None]
    made: Dict[str, Path] = {}
    if missing:
        names = ", ".join(model.name for model in missing)
        progress(f"{names}: prepared for {way.runtime} on this machine, once")
        with progress.track("preparing", len(missing)) as advance:
            for model in missing:
                advance(model.name, steps=0)
                made[model.variant] = make(model, way)
                advance()
    return [(model, path or made[model.variant]) for model, path in found]


def _described(model: ModelVariant, way: ModelWay, path: Path) -> NetworkDescription:
    network = opener.describe(str(path))[0]
    if not way.builds:
        # Opened by the provider that `run` names.
        network = replace(network, backend=way.runtime)
    return replace(network, weights_sha256s=(model.card.weights_sha256,))
