"""The list of the shipped models, and the details of one: from their cards and measured numbers."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from sr_deploy.core.errors import InputError, did_you_mean
from sr_deploy.core.gains import GAINS
from sr_deploy.core.routers import ROUTERS
from sr_deploy.core.shipped import DEFAULT_MODELS, read_card, shipped_checkpoints
from sr_deploy.core.spec import network_name
from sr_deploy.results.columns import number, over
from sr_deploy.results.render import Table, make_table
from sr_deploy.results.screen import fps_text
from sr_deploy.results.shipped_numbers import shipped_numbers, shipped_precisions

Facts = Mapping[str, Any]


def shipped_models() -> List[Dict[str, Any]]:
    """Return the facts of each shipped checkpoint, then of routers and gains heads, for JSON.

    `measured` has the numbers of variants that were measured, by variant, and `precisions` those
    in each precision.
    """
    models: List[Dict[str, Any]] = []
    for path in shipped_checkpoints():
        spec = read_card(path)
        facts = {"arch": spec.arch, "scale": spec.scale, "variants": list(spec.variants)}
        models.append({"name": path.stem, **facts, **_origin(spec), "path": str(path)})
    for path in ROUTERS.shipped():
        card = ROUTERS.read_card(path)
        branches = [f"{b.model}:{b.variant}" for b in card.branches]
        facts = {"scale": card.scale, "branches": branches}
        models.append({"name": ROUTERS.name_of(path), **facts, **_origin(card), "path": str(path)})
    for path in GAINS.shipped():
        head = GAINS.read_card(path)
        branches = [f"{head.model}:{variant}" for variant in head.variants]
        facts = {"scale": head.scale, "branches": branches}
        models.append({"name": GAINS.name_of(path), **facts, **_origin(head), "path": str(path)})
    conditions, numbers = shipped_numbers()
    precisions = shipped_precisions()
    for model in models:
        variants = model.get("variants", [""])
        named = {variant: network_name(model["name"], variant) for variant in variants}
        model["measured"] = {
            v: dataclasses.asdict(numbers[name]) for v, name in named.items() if name in numbers
        }
        model["conditions"] = None if conditions is None else dataclasses.asdict(conditions)
        of_model = (
            [n for n in precisions.networks if n.network in named.values()] if precisions else []
        )
        model["precisions"] = list(map(dataclasses.asdict, of_model))
        model["precision_conditions"] = precisions.conditions if precisions and of_model else ""
    return models


def _origin(card: Any) -> Dict[str, str]:
    return {"licence": card.licence, "trained_on": card.trained_on, "notes": card.notes}


def shipped_model(name: str) -> Dict[str, Any]:
    """Return the facts of one shipped model. Raises InputError when there is none of that name."""
    models = {model["name"]: model for model in shipped_models()}
    if name not in models:
        raise InputError(
            f"there is no shipped model '{name}'",
            hint=did_you_mean(name, models) or f"there are {', '.join(models)}",
        )
    return models[name]


def models_table(models: Sequence[Facts], *, full: bool) -> Table:
    """Return a line for each model, by scale; numbers are of its first and last variant measured.

    full: also architecture, licence, path and notes. Otherwise what all share is in the notes.
    """
    ordered = sorted(models, key=lambda m: m["scale"])
    columns: Dict[str, Callable[[Facts], str]] = {
        "model": lambda m: str(m["name"]),
        "scale": lambda m: f"x{m['scale']}",
        "variants": _variants,
        "PSNR [dB]": lambda m: _ends(m, "psnr_db", lambda v: number(v, 2)),
        "params [K]": lambda m: _ends(m, "params", lambda v: number(over(v, 1e3), 0)),
        "fps": lambda m: _ends(m, "fps", fps_text),
        "licence": lambda m: m["licence"] if full else short_licence(m["licence"]),
    }
    notes = []
    licences = {m["licence"] for m in models}
    if full:
        columns["arch"] = lambda m: m.get("arch", "adaptive")
        columns["path"] = lambda m: m["path"]
        notes += [f"{m['name']}: {m['notes']}" for m in ordered if m["notes"]]
    elif len(licences) == 1:
        del columns["licence"]
        notes.append(f"licence of all: {licences.pop()}")
    default = ", ".join(DEFAULT_MODELS.values())
    notes += [*_conditions(), f"used where no model is given: {default}"]
    notes.append(
        "one model: srdeploy models NAME" if full else "one model: srdeploy models asrn_x4"
    )
    cells = [[text(m) for text in columns.values()] for m in ordered]
    return make_table(list(columns), cells, notes)


def variants_table(model: Facts) -> Table:
    """Return a line for each variant of a shipped model, and in the notes what its card says."""
    numbers: Dict[str, Callable[[Facts], str]] = {
        "PSNR [dB]": lambda n: number(n["psnr_db"], 3),
        "SSIM": lambda n: number(n["ssim"], 4),
        "time [ms]": lambda n: number(n["time_ms"], 2),
        "fps": lambda n: fps_text(n["fps"]),
        "params [K]": lambda n: number(over(n["params"], 1e3), 1),
        "FLOPs [G]": lambda n: number(n["macs_g"], 2),
        "memory [MiB]": lambda n: number(n["memory_mib"], 0),
    }
    measured = model["measured"]
    cells = [
        [
            network_name(model["name"], variant),
            *(text(measured[variant]) if variant in measured else "" for text in numbers.values()),
        ]
        for variant in model.get("variants", [""])
    ]
    branches = ", ".join(model.get("branches", []))
    facts = [
        ("chooses for each patch among", branches),
        ("licence", model["licence"]),
        ("trained on", model["trained_on"]),
        ("note", model["notes"]),
        ("file", model["path"]),
    ]
    notes = [*_conditions(), *(f"{name}: {text}" for name, text in facts if text)]
    return make_table([f"x{model['scale']}", *numbers], cells, notes)


def precisions_table(model: Facts) -> Optional[Table]:
    """Return a line for each precision of each variant of a shipped model; None without any."""
    columns: Dict[str, Callable[[Facts], str]] = {
        "runtime": lambda n: n["runtime"],
        "precision": lambda n: n["precision"],
        "PSNR [dB]": lambda n: number(n["psnr_db"], 3),
        "loss [dB]": lambda n: number(n["loss_db"], 3),
        "time [ms]": lambda n: number(n["time_ms"], 2),
        "fps": lambda n: fps_text(n["fps"]),
    }
    numbers = model["precisions"]
    if not numbers:
        return None
    cells = [[n["network"], *(text(n) for text in columns.values())] for n in numbers]
    return make_table(["in each precision", *columns], cells, [model["precision_conditions"]])


def short_licence(text: str) -> str:
    """Return the first clause of a card's licence, without what it is of.

    >>> short_licence("weights: research and education only, as their training images")
    'research and education only'
    """
    clause = text.split(",")[0]
    return clause.partition(": ")[2] or clause


def _conditions() -> List[str]:
    conditions, _ = shipped_numbers()
    return [] if conditions is None else [str(conditions)]


def _variants(model: Facts) -> str:
    if "branches" in model:
        return f"{len(model['branches'])} per patch"
    first, *others = model["variants"]
    return f"{first} to {others[-1]}" if others else str(first)


def _ends(model: Facts, key: str, text: Callable[[Optional[float]], str]) -> str:
    """Return a number of the first and of the last variant that was measured."""
    texts = [text(numbers[key]) for numbers in model["measured"].values()]
    known = list(filter(None, texts))
    return "-".join(dict.fromkeys([known[0], known[-1]])) if known else ""
