"""Domain-level sampling (Algorithm 1, line 8)."""

from __future__ import annotations

import numpy as np


def split_domains(
    num_domains: int, num_meta_train: int, seed: int, iteration: int
) -> tuple[list[int], list[int]]:
    """Split the source domains at random into meta-train and meta-test domains.

    The split is a function of its arguments alone, so all processes of a run draw the same one and
    a resumed run draws the one it would have drawn.

    Args:
        num_domains: K, the number of source domains.
        num_meta_train: K_S, how many of them are meta-train domains, in [1, K - 1].
        seed: seed of the run, not negative.
        iteration: number of the iteration, not negative.

    Returns:
        The meta-train and the meta-test domains, as sorted indices in [0, K).

    Raises:
        ValueError: one side of the split would be empty.
    """
    if not 1 <= num_meta_train < num_domains:
        raise ValueError(
            f"num_meta_train must be in [1, {num_domains - 1}] for {num_domains} domains, "
            f"got {num_meta_train}"
        )
    order = np.random.default_rng([seed, iteration]).permutation(num_domains).tolist()
    return sorted(order[:num_meta_train]), sorted(order[num_meta_train:])
