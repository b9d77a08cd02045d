"""Cumulative attention maps for a training loop of one's own.

The maps, the update and the store are those of the stages (attention/accumulator.py, store/); here
they learn who this process is, meet the user's names instead of positions, and tell mistakes.

Legend: N images of the data set, C classes, B images of a batch, P (image, target class) pairs,
HW feature cells, S cells along each side of a map; 23 a geometry.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from dist_oaa.attention import accumulator as resident
from dist_oaa.attention.batch import Observation, Outcome, Rules
from dist_oaa.config.errors import UserError
from dist_oaa.data.geometry import IDENTITY_23
from dist_oaa.plugin.checks import check_batch, check_world, make_rules
from dist_oaa.plugin.layout import make_manifest, new_store, old_store
from dist_oaa.plugin.sampling import SHARDS
from dist_oaa.plugin.world import find_world, given_back_on_error, leave
from dist_oaa.runtime.distributed import World
from dist_oaa.store.manifest import Manifest
from dist_oaa.store.writer import StoreWriter


class AttentionAccumulator:
    """The cumulative maps of this rank's images; make it with `create` or `open`.

    Every rank of a world keeps the maps of the images that it owns, in the memory of its device.
    `create`, `open` and `commit` are called by all ranks together, the rest by each for itself.
    Give the store back with `close`, or use the accumulator in a `with` statement.

    Attributes:
        generation: number of the last commit, 0 before the first.
    """

    def __init__(
        self, world: World, store: StoreWriter, generation: int, rules: Rules, softmax: bool
    ) -> None:
        """Not for users: see `create` and `open`."""
        self.generation = generation
        self._world, self._rules, self._softmax = world, rules, softmax
        self._resident = resident.AttentionAccumulator(store, world.device)
        self._manifest = store.manifest
        self._index = {name: n for n, name in enumerate(self._manifest.image_ids)}

    @classmethod
    def create(
        cls,
        folder: str | Path,
        image_ids: Sequence[str],
        labels: Tensor | np.ndarray | Sequence[Sequence[int]] | Sequence[int],
        map_size: int = 41,
        *,
        class_names: Sequence[str] | None = None,
        gate: str = "strict",
        tau: float = 0.5,
        rho: float = 0.5,
        fusion: str = "max",
        dtype: str = "auto",
        softmax: bool = False,
        shards: int = SHARDS,
        local_dir: str = "",
        device: torch.device | str | None = None,
    ) -> "AttentionAccumulator":
        """Makes a store for the maps of all (image, target class) pairs; all zero at first.

        Args:
            folder: the store, new, on storage that all ranks share.
            image_ids: a name for each image, relative as a path, each once; N of them in any
                order. A map belongs to a name, never to a position.
            labels: image-level labels, (N, C) of 0 and 1, or (N,) class indices of single labels.
            map_size: S, the cells along each side of a map, 1 to 1024.
            class_names: C names; "0", "1", ... by default.
            gate: which attention is accepted: strict, topk, prob, none or contest
                (config/accumulate.py); tau and rho, 0 to 1, belong to prob and contest.
            fusion: max, average, harmonic, ema, or module:NAME for one of your own.
            dtype: of the maps: uint8, float16, float32, or auto, which follows the fusion.
            softmax: the logits are those of a softmax, not of C sigmoids; only `prob` asks.
            shards: LMDB environments, fixed for the life of the store; at least the world size.
            local_dir: a node-local folder for the live shards, copied to `folder` at each commit.
            device: where the maps lie; by default the current CUDA device, or the CPU.

        Raises:
            UserError: on all ranks alike, when a setting, a name or a label is wrong, or the
                folder holds the maps of an earlier training.
        """
        folder, world = Path(folder), find_world(device)
        chosen = (class_names, map_size, fusion, dtype, shards)
        with given_back_on_error(world):
            rules = world.agree(lambda: make_rules(gate, tau, rho, fusion))
            manifest = world.only_first(
                lambda: new_store(folder, make_manifest(image_ids, labels, *chosen))
            )
            return cls._opened(world, folder, manifest, 0, rules, softmax, local_dir)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        generation: int | None = None,
        gate: str = "strict",
        tau: float = 0.5,
        rho: float = 0.5,
        softmax: bool = False,
        local_dir: str = "",
        device: torch.device | str | None = None,
    ) -> "AttentionAccumulator":
        """Opens a store to go on with it, at any world size up to its number of shards.

        Args:
            folder: the store; names, labels, fusion and map size are its own.
            generation: what `commit` returned when the weights were saved that now go on; the
                last two commits are kept. By default the last that all ranks have completed.

        The other arguments are those of `create`.

        Raises:
            UserError: on all ranks alike, when there is no such store or generation, it is
                damaged, or another process is writing it.
        """
        folder, world = Path(folder), find_world(device)
        with given_back_on_error(world):
            manifest, start = world.only_first(lambda: old_store(folder, generation))
            rules = world.agree(lambda: make_rules(gate, tau, rho, manifest.fusion))
            return cls._opened(world, folder, manifest, start, rules, softmax, local_dir)

    @classmethod
    def _opened(
        cls,
        world: World,
        folder: Path,
        manifest: Manifest,
        generation: int,
        rules: Rules,
        softmax: bool,
        local_dir: str,
    ) -> "AttentionAccumulator":
        check_world(world, folder, manifest)
        with ExitStack() as opened:

            def start() -> "AttentionAccumulator":
                store = StoreWriter(folder, manifest, world.rank, world.size, generation, local_dir)
                opened.callback(store.close)
                return cls(world, store, generation, rules, softmax)

            accumulator = world.agree(start)
            opened.pop_all()
        return accumulator

    @torch.no_grad()
    def update(
        self,
        cam: Tensor,
        logits: Tensor,
        image_ids: Sequence[str],
        geometry: Tensor | np.ndarray | None = None,
        *,
        fallback: bool = False,
    ) -> Outcome:
        """Accumulates the attention of a batch: gate, ReLU, normalise, un-warp, fuse, in one call.

        Args:
            cam: (B, C, H, W) class activation maps before their ReLU, any float type; they are
                detached. Maps of classes that an image does not have are not looked at (but by
                the gate `contest`).
            logits: (B, C) scores, which the gate compares.
            image_ids: the names of the B images, which must be this rank's, each once.
            geometry: (B, 2, 3) from the whole image to the input, both normalised
                (`Geometry.matrix`); None where the inputs are the whole images, resized or not.
            fallback: this is the last epoch: a pair that was never accepted takes this attention.

        Returns:
            What happened to each pair, image by image and by class index; on the maps' device.

        Raises:
            UserError: when a name is unknown or another rank's, or a shape does not fit.
        """
        image_ids = [image_ids] if isinstance(image_ids, str) else list(image_ids)
        index_B = np.array([self._position(name) for name in image_ids], dtype=np.int64)
        check_batch(cam, logits, image_ids, geometry, len(self.class_names))
        labels_BC = torch.zeros(tuple(logits.shape), dtype=torch.uint8)
        for image, n in enumerate(index_B.tolist()):
            labels_BC[image, list(self._manifest.classes[n])] = 1
        if geometry is None:
            geometry = np.broadcast_to(IDENTITY_23, (len(index_B), 2, 3)).copy()
        device = self._world.device
        cells_B2 = torch.tensor(cam.shape[-2:]).repeat(len(index_B), 1)
        pairs = self._resident.pairs(torch.from_numpy(index_B), labels_BC)
        if self._softmax and self._rules.gate == "prob":
            from dist_oaa.models.losses import log_odds  # brings timm, a second to import

            logits = log_odds(logits, "single")
        seen = Observation(
            cam.detach().to(device),
            logits.detach().to(device),
            labels_BC.to(device, non_blocking=True),
            torch.as_tensor(geometry).to(device, torch.float32),
            cells_B2.to(device, non_blocking=True),
            pairs.to(device),
        )
        return self._resident.update(seen, replace(self._rules, fallback=fallback))

    def commit(self) -> int:
        """Makes all that has changed since the last commit durable; all ranks call it together.

        Save the number with your weights: `open(generation=...)` then finds the maps that belong
        to them, also where the program ended after the commit and before the weights were saved.
        Where no map has changed on any rank, nothing is written and the number stays.

        Returns:
            the generation of the maps.

        Raises:
            UserError: on all ranks alike, when a disk is full or fails; the last commit stays, and
                the next one tries again.
        """
        changed = np.array([int(self._resident.bank.dirty_R.any())], dtype=np.int64)
        if self.generation == 0 or self._world.sum(changed)[0] > 0:
            # All have finished before any may begin the next: of each map two commits are kept.
            self._world.agree(lambda: self._resident.commit(self.generation + 1))
            self.generation += 1
        return self.generation

    def maps(self, image_id: str) -> dict[int, Tensor]:
        """The cumulative maps of one of this rank's images, as they are now.

        Returns:
            float32 (S, S) in [0, 1] on the CPU, over the whole image, by class index; all zero
            where nothing was accepted.

        Raises:
            UserError: when the name is unknown or another rank's.
        """
        n = self._position(image_id)
        classes = self._manifest.classes[n]
        first = int(self._resident.store.first_row(np.array([n]))[0])
        rows_P = torch.arange(first, first + len(classes), device=self._resident.device)
        maps_PSS = self._resident.bank.attention(rows_P).cpu()
        return dict(zip(classes, maps_PSS, strict=True))

    @property
    def image_ids(self) -> list[str]:
        """Names of the images whose maps this rank keeps, sorted."""
        owned = self._resident.store.offsets
        shards = self._manifest.shard_N.tolist()
        names = zip(self._manifest.image_ids, shards, strict=True)
        return [name for name, shard in names if shard in owned]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the C classes."""
        return self._manifest.class_names

    def close(self) -> None:
        """Gives the store back; what was not committed is lost."""
        self._resident.close()
        leave(self._world)

    def __enter__(self) -> "AttentionAccumulator":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _position(self, name: str) -> int:
        n = self._index.get(name)
        if n is None:
            raise UserError(
                f"the image {name!r} is not in the store, expected one of the "
                f"{len(self._index)} names that it was made with"
            )
        shard = int(self._manifest.shard_N[n])
        if shard not in self._resident.store.offsets:
            raise UserError(
                f"the image {name!r} belongs to rank {shard % self._world.size}, but is used by "
                f"rank {self._world.rank}; visit images with OwnershipBatchSampler or "
                f"OwnershipSampler, with shards={self._manifest.shards}"
            )
        return n
