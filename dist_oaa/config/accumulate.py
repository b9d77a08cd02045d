"""Settings of attention accumulation and of the store that keeps it."""

import re
from dataclasses import dataclass, field
from typing import Literal, get_args

Gate = Literal["strict", "topk", "prob", "none", "contest"]
MapDtype = Literal["auto", "uint8", "float16", "float32"]


@dataclass(kw_only=True)
class AccumulateConfig:
    """How the attention of each epoch joins the cumulative maps."""

    gate: Gate = "strict"
    """When a class's attention is accepted: strict (its score beats every non-target class),
    topk (its rank is within the number of targets), prob (probability >= tau), none (always);
    contest (ours, not the papers'): strict, and cell by cell at least rho of every other class."""
    tau: float = 0.5
    """Least class probability of the `prob` gate, 0 to 1."""
    rho: float = 0.5
    """Least share of another class's attention with which a class keeps a cell under the
    `contest` gate, 0 to 1."""
    fusion: str = "max"
    """How accepted attention joins the map: max (Eq. 5 of the papers), average (Eq. 10), harmonic,
    ema, or `module:NAME` for a Fusion of your own."""
    compare: list[str] = field(default_factory=list)
    """Further rules that accumulate the same attention beside, as `fusion` or `gate+fusion`, such
    as [average, topk+max]; each has a store of its own and its own figures."""
    start_epoch: int = 1
    """First epoch, counted from 0, whose attention is accumulated."""
    fallback: bool = True
    """Give a pair that no epoch accepted the attention of the last epoch, and count it."""
    map_size: int = 41
    """Cells along each side of a map, a count: a map covers the whole image whatever its aspect."""
    dtype: MapDtype = "auto"
    """Number format of the maps: uint8 (x = round(255 a)), float16, float32; auto is uint8, and
    float32 for a fusion whose maps rounding would bias (average, harmonic, ema)."""

    def __post_init__(self) -> None:
        if not 0 <= self.tau <= 1:
            raise ValueError(f"accumulate.tau is {self.tau}, expected a probability 0 to 1")
        if not 0 <= self.rho <= 1:
            raise ValueError(f"accumulate.rho is {self.rho}, expected a share 0 to 1")
        if not 1 <= self.map_size <= 1024:
            raise ValueError(f"accumulate.map_size is {self.map_size} cells, expected 1 to 1024")
        if self.start_epoch < 0:
            raise ValueError(f"accumulate.start_epoch is {self.start_epoch}, expected 0 or more")
        unknown = [g for _, g, _ in self.compared if g not in get_args(Gate)]
        if unknown:
            raise ValueError(
                f"accumulate.compare names the gate {unknown[0]!r}, expected one of "
                f"{', '.join(get_args(Gate))}"
            )
        names = [name for name, _, _ in self.compared]
        if len(set(names)) < len(names):
            raise ValueError(f"accumulate.compare is {self.compare}, expected each rule once")

    @property
    def compared(self) -> list[tuple[str, str, str]]:
        """(name, gate, fusion) of each rule of `compare`; the name can be part of a file name."""
        rules = []
        for rule in self.compare:
            gate, plus, fusion = rule.rpartition("+")
            name = re.sub(r"[^\w]+", "_", rule)
            rules.append((name, gate if plus else self.gate, fusion))
        return rules


@dataclass(kw_only=True)
class StoreConfig:
    """Where the cumulative maps live on disk."""

    shards: int = 24
    """Number of LMDB environments, fixed for the life of the store, a count; a multiple of the
    number of ranks balances them."""
    local_dir: str = ""
    """Node-local folder for the live shards; each checkpoint then copies the changed ones to the
    run directory. Empty keeps the shards in the run directory (a local disk)."""

    def __post_init__(self) -> None:
        if not 1 <= self.shards <= 4096:
            raise ValueError(f"store.shards is {self.shards}, expected 1 to 4096")
