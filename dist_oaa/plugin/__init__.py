"""Attention accumulation in anybody's training loop: the public API, all of it.

    accumulator = AttentionAccumulator.create("store/", image_ids=ids, labels=labels_NC)
    logits, cam = OnlineCAM(model)(images)
    accumulator.update(cam, logits, ids, geometry)
    accumulator.commit()

| name | what it is |
| --- | --- |
| AttentionAccumulator | the cumulative maps: create, open, update, commit, maps, close |
| Outcome | what `update` answers: which pairs were accepted |
| OnlineCAM | logits and class activation maps of any classifier with a linear head |
| TokenMap | the patch tokens of a vision transformer as a feature map, for a head of your own |
| ExternalCAM | maps of another method, such as Grad-CAM, in the place of OnlineCAM |
| Geometry | where an augmented input lies in its image: crop, resize, flip, pad |
| OwnershipBatchSampler | batches for DDP: an image goes to the rank that keeps its maps |
| OwnershipSampler | the same for single images, in the place of torch's DistributedSampler |
| UserError | every mistake of yours, in one sentence |

They can also be imported from `dist_oaa` itself. The callback for Lightning is a module of its own,
`dist_oaa.plugin.lightning`, since it needs the extra `lightning`. docs/plugin.md tells it all.
"""

from dist_oaa.attention.batch import Outcome
from dist_oaa.config.errors import UserError
from dist_oaa.plugin.accumulator import AttentionAccumulator
from dist_oaa.plugin.external_cam import ExternalCAM
from dist_oaa.plugin.geometry import Geometry
from dist_oaa.plugin.online_cam import OnlineCAM
from dist_oaa.plugin.sampling import OwnershipBatchSampler, OwnershipSampler
from dist_oaa.plugin.tokens import TokenMap

__all__ = [
    "AttentionAccumulator",
    "ExternalCAM",
    "Geometry",
    "OnlineCAM",
    "Outcome",
    "OwnershipBatchSampler",
    "OwnershipSampler",
    "TokenMap",
    "UserError",
]
