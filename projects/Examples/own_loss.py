"""A meta-train loss of one's own: pulls the mean features of the domains together.

python projects/Examples/own_loss.py --config-file configs/MetaBIN.yml
    METABIN.META_TRAIN_LOSSES '("domain_means", "TripletLoss")' [KEY VALUE ...]
"""

from __future__ import annotations

import metabin_plugin

metabin_plugin.let_waiting_threads_sleep()
metabin_plugin.register()

from torch import Tensor
from torch.nn import functional

from metabin_plugin.engine import run_command_line
from metabin_plugin.modeling import MetaRows
from metabin_plugin.registries import META_LOSS_REGISTRY


@META_LOSS_REGISTRY.register()
def domain_means(rows: MetaRows) -> Tensor:
    """Squared distance between the mean unit features of two images' domains, over all pairs.

    Args:
        rows: of one side, any number of images of each domain.

    Returns:
        Scalar in [0, 4].
    """
    features = functional.normalize(rows.features.float())
    same_domain = (rows.domains[:, None] == rows.domains[None, :]).float()
    means = same_domain @ features / same_domain.sum(dim=1, keepdim=True)
    # The mean squared distance of all pairs of points is twice their variance.
    return 2 * (means - means.mean(dim=0)).square().sum(dim=1).mean()


if __name__ == "__main__":
    run_command_line()
