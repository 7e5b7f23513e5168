"""Training of a gains head for the depths of a checkpoint, or for the branches of a router."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Union

import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.errors import InputError
from sr_deploy.core.gains import CELL_PX, GAINS, GainsSpec
from sr_deploy.core.routers import ROUTERS
from sr_deploy.core.shipped import shipped_checkpoints
from sr_deploy.nets.architecture import Weights
from sr_deploy.nets.checkpoint import Checkpoint, copy_checkpoint, load_checkpoint
from sr_deploy.nets.complexity import count
from sr_deploy.nets.fuse import fuse_network
from sr_deploy.nets.gains import Gains, GainsHead, load_gains, save_gains
from sr_deploy.nets.router import Router, load_router, save_router
from sr_deploy.train.data import Pair, fingerprint, image_pairs
from sr_deploy.train.gains_bank import GainsBank, GainsBatches, GainsImages, compute_gains_bank
from sr_deploy.train.gains_curve import default_price, gains_curve, gains_of, share_of
from sr_deploy.train.losses import Terms
from sr_deploy.train.options import TrainOptions
from sr_deploy.train.recipe import GainsRecipe
from sr_deploy.train.router_losses import DepthBranches, ParallelBranches
from sr_deploy.train.training import DatasetOf, Task, resolve, run_task, start_facts

CELL_HW = (CELL_PX, CELL_PX)
CHANGE_FLOOR = 1e-3
ERROR_FLOOR = 1e-2
"""Added to mean squares of Y, in 0..255, before their logarithm."""
ERROR_WEIGHT = 0.1
"""Weight of the predicted errors in the loss, which only make images comparable."""


def gains_from_images(recipe: Union[str, Path, GainsRecipe], options: TrainOptions) -> Path:
    """Train a gains head for the checkpoint or the router `options.init`; return the head's path.

    Writes to the output folder NAME.gains.safetensors with its card; for a router
    NAME.router.safetensors, a router of the same branches that predicts their gains. State, logs
    and errors are those of checkpoint_from_images.
    """
    started = time.monotonic()
    recipe, options, recipe_file = resolve(recipe, options, GainsRecipe)
    if options.init is None:
        trained = f", the result of {recipe.follows}" if recipe.follows else ""
        raise InputError(
            "this recipe trains a gains head for a checkpoint or a router",
            hint=f"give it with --init{trained}",
        )
    if options.lr_folders:
        raise InputError(
            "this recipe makes LR images of several sizes itself", hint="remove --lr-data"
        )
    task = _BranchGainsTask if ROUTERS.includes(str(options.init)) else _GainsTask
    return run_task(
        lambda run_options: task(recipe, run_options),
        recipe,
        options,
        recipe_file=recipe_file,
        started=started,
    )


def gains_terms(head: GainsHead, statistics: Tensor, targets: Tensor) -> Terms:
    """Return the loss of a head on cells.

    statistics: (N, 30, 1, 1); targets: (N, 2D + 1), the mean squared differences between each
    deeper depth and the smallest, then the errors of all depths.

    Differences and errors vary by five orders of magnitude: their logarithms are learnt. What part
    of a difference is gained is learnt from the gains relative to their spread, which grows with
    the difference and with the error: else a few crowded cells would decide.
    """
    depths = targets.shape[1] // 2
    change, errors = targets.split([depths, depths + 1], dim=1)
    seen = [part.flatten(1) for part in head.predict(statistics)]
    seen_error, seen_change, worth = seen[0], seen[1], seen[2]
    fixed_change, fixed_error = seen_change.detach(), seen_error.detach()
    spread = (fixed_change.square() + 0.3 * fixed_change * fixed_error + 1e-4).sqrt()
    gain = errors[:, :1] - errors[:, 1:]
    return {
        "change": F.huber_loss(seen_change.log(), (change + CHANGE_FLOOR).log()),
        "error": ERROR_WEIGHT * F.huber_loss(seen_error.log(), (errors[:, :1] + ERROR_FLOOR).log()),
        "worth": F.huber_loss(fixed_change * worth / spread, gain / spread, delta=2.0),
    }


class _GainsTask(Task):
    keeps_best = False
    suffix = GAINS.suffix
    bank: GainsBank
    net: GainsHead

    def __init__(self, recipe: GainsRecipe, options: TrainOptions) -> None:
        super().__init__(recipe, options)
        fused = [fuse_network(net)[0] for net in self._start_from(str(options.init))]
        self.macs = [count(net, CELL_HW, counter="fvcore").macs for net in fused]
        self.net = GainsHead(depths=len(recipe.depths) - 1, hidden=recipe.hidden)
        self.valid_bank: Optional[GainsBank] = None

    def _start_from(self, init: str) -> List[nn.Module]:
        """Load what the head chooses between; return its networks, smallest first."""
        self.checkpoint = load_checkpoint(init)
        self.facts.update(method="gains", **start_facts(self.checkpoint))
        self.depths = _all_depths(self.checkpoint, self.recipe)
        self.weights_sha256: Any = self.checkpoint.spec.weights_sha256
        return [self.checkpoint.network(name) for name in self.recipe.depths]

    def dataset(self, pairs: Sequence[Pair]) -> DatasetOf:
        recipe, options = self.recipe, self.options
        self.bank = bank = self._bank(pairs, recipe.resized)
        if bank.held_out().all() or not bank.held_out().any():
            raise InputError(
                f"{len(pairs)} images are too few: none is left to train or to hold out",
                hint="give more images",
            )
        if options.valid is not None:
            settings: Dict[str, Any] = {"scale": recipe.scale, "degradation": recipe.degradation}
            settings.update(min_hr=recipe.patch_hr, strict=options.strict, log=options.log)
            valid = image_pairs([options.valid], options.cache_folder, **settings)
            self.valid_bank = self._bank(valid, (1.0,))
        return lambda patches: GainsBatches(bank, patches)

    def _bank(self, pairs: Sequence[Pair], resized: Sequence[float]) -> GainsBank:
        recipe = self.recipe
        return compute_gains_bank(
            GainsImages(pairs, resized, recipe.degradation, recipe.scale),
            self.depths,
            cache=self.options.cache_folder,
            key=[self.weights_sha256, recipe.depths, fingerprint(pairs)],
            log=self.options.log,
        )

    def terms(self, lr: Tensor, hr: Tensor, step: int) -> Terms:
        return gains_terms(self.net, lr, hr)  # of GainsBatches: statistics and targets

    def _head(self, weights: Weights) -> GainsHead:
        head = copy.deepcopy(self.net).cpu().eval()
        head.load_state_dict({name: value.cpu() for name, value in weights.items()})
        return head

    def _price(self, head: GainsHead) -> float:
        held_out = self.bank.part(self.bank.held_out())
        return default_price(gains_of(head, held_out), self.macs, self.recipe.share)

    def write(self, stem: str, weights: Weights, card: Dict[str, Any]) -> Path:
        recipe, head = self.recipe, self._head(weights)
        spec = GainsSpec(
            model=self.checkpoint.name,
            model_sha256=self.checkpoint.spec.weights_sha256,
            scale=recipe.scale,
            variants=recipe.depths,
            price=self._price(head),
            config={"hidden": recipe.hidden},
            **card,
        )
        return save_gains(self.options.output, stem, spec, head.state_dict())

    def score(self, weights: Weights, valid: Path) -> float:
        """Return the mean PSNR at the default price, and log how the gains compare."""
        assert self.valid_bank is not None
        head, bank = self._head(weights), self.valid_bank
        gains, price = gains_of(head, bank), self._price(head)
        for line in gains_curve(gains, bank, self.macs).lines(self.recipe.depths):
            self.options.log(line)
        psnr_db = float(gains_curve(gains, bank, self.macs, [price]).db[0])
        share = share_of(gains, self.macs, price)
        self.options.log(f"valid {psnr_db:.3f} dB with {share:.1%} of the largest depth's work")
        return psnr_db

    def bicubic_score(self, valid: Path) -> None:
        """None: the score is of whole cells, not of whole images."""

    def load(self, path: Path) -> Union[Gains, Router]:
        return load_gains(path)


class _BranchGainsTask(_GainsTask):
    suffix = ROUTERS.suffix

    def _start_from(self, init: str) -> List[nn.Module]:
        self.router, recipe = load_router(init), self.recipe
        spec = self.router.spec
        if (spec.variants, spec.scale) != (recipe.depths, recipe.scale):
            raise InputError(
                f"'{init}' chooses between {', '.join(spec.variants)} at x{spec.scale}; "
                f"the recipe is for {', '.join(recipe.depths)} at x{recipe.scale}"
            )
        self.facts.update(method="gains", init=self.router.name, init_sha256=spec.weights_sha256)
        self.weights_sha256 = spec.weights_sha256s
        networks = self.router.branch_networks()
        self.depths = ParallelBranches(networks).eval()
        return networks

    def write(self, stem: str, weights: Weights, card: Dict[str, Any]) -> Path:
        head = self._head(weights)
        for checkpoint in self.router.checkpoints():
            assert checkpoint.path is not None
            if checkpoint.path not in shipped_checkpoints():
                copy_checkpoint(checkpoint, self.options.output)
        spec = replace(
            self.router.spec,
            macs=tuple(self.macs),
            router_macs=count(head, CELL_HW, counter="fvcore").macs,
            patch_hw=CELL_HW,
            overlap=0,
            blend="none",
            price=self._price(head),
            config={"hidden": self.recipe.hidden},
            **card,
        )
        return save_router(self.options.output, stem, spec, head.state_dict())

    def load(self, path: Path) -> Union[Gains, Router]:
        return load_router(path)


def _all_depths(checkpoint: Checkpoint, recipe: GainsRecipe) -> nn.Module:
    """Return the depths of a checkpoint as one module. Raises SrDeployError if it lacks them."""
    scale = checkpoint.spec.scale
    if scale != recipe.scale:
        raise InputError(f"'{checkpoint.name}' is x{scale}; the recipe is for x{recipe.scale}")
    sizes = [checkpoint.spec.variant(name).size for name in recipe.depths]
    network = checkpoint.network(recipe.depths[-1])
    if sizes != sorted(set(sizes)) or not hasattr(network, "forward_depths"):
        raise InputError(
            f"the depths {', '.join(recipe.depths)} of '{checkpoint.name}' cannot be chosen from",
            hint="name depths of one network that can be cut in depth, smallest first",
        )
    return DepthBranches(network, sizes).eval()
