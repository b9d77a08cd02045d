"""Settings of attention accumulation and of the store that keeps it."""

from dataclasses import dataclass
from typing import Literal

MapDtype = Literal["auto", "uint8", "float16", "float32"]


@dataclass(kw_only=True)
class AccumulateConfig:
    """How the attention of each epoch joins the cumulative maps."""

    gate: Literal["strict", "topk", "prob", "none"] = "strict"
    """When a class's attention is accepted: strict (its score beats every non-target class),
    topk (its rank is within the number of targets), prob (probability >= tau), none (always)."""
    tau: float = 0.5
    """Least class probability of the `prob` gate, 0 to 1."""
    fusion: Literal["max", "average"] = "max"
    """max (Eq. 5 of the papers) or average (Eq. 10) over the accepted updates."""
    start_epoch: int = 1
    """First epoch, counted from 0, whose attention is accumulated."""
    fallback: bool = True
    """Give a pair that no epoch accepted the attention of the last epoch, and count it."""
    map_size: int = 41
    """Cells along each side of a map, a count: a map covers the whole image whatever its aspect."""
    dtype: MapDtype = "auto"
    """Number format of the maps: uint8 (x = round(255 a)), float16, float32; auto is uint8, and
    float32 for average fusion."""

    def __post_init__(self) -> None:
        if not 0 <= self.tau <= 1:
            raise ValueError(f"accumulate.tau is {self.tau}, expected a probability 0 to 1")
        if not 1 <= self.map_size <= 1024:
            raise ValueError(f"accumulate.map_size is {self.map_size} cells, expected 1 to 1024")
        if self.start_epoch < 0:
            raise ValueError(f"accumulate.start_epoch is {self.start_epoch}, expected 0 or more")
        if self.fusion == "average" and self.dtype not in ("auto", "float32"):
            raise ValueError(
                f"accumulate.dtype is {self.dtype}, expected float32 (or auto) with "
                "accumulate.fusion average: rounding a running mean at each update biases it"
            )

    @property
    def stored_dtype(self) -> str:
        """The number format after `auto` is resolved."""
        if self.dtype != "auto":
            return self.dtype
        return "float32" if self.fusion == "average" else "uint8"


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
