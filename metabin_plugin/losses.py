"""Losses of the base step (Eq. 2-4), of the meta step (Eq. 6-8 and 10) and of others' papers.

For any toolbox. Of BAU (Cho et al., "Generalizable Person Re-identification via Balancing Alignment
and Uniformity", NeurIPS 2024) and of interleaved learning (Tan et al., "Style Interleaved Learning
for Generalizable Person Re-identification", IEEE TMM 2023) the text was not at hand with its
equations' numbers: what is said to be so is of the abstracts and of the published code.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from metabin_plugin.precision import at_least_float32, product

SQUARED_FLOOR = 1e-12


def cross_entropy_loss(logits: Tensor, identities: Tensor, epsilon: float = 0.1) -> Tensor:
    """Cross-entropy against smoothed identity labels (Eq. 2).

    The right class has probability `1 - epsilon`, each of the `K - 1` wrong ones
    `epsilon / (K - 1)`, as in the authors' code and in fastreid; the paper's reference for the
    smoothing shares `epsilon` out among all K, the right one too (Szegedy et al., CVPR 2016). As in
    the authors' code, and unlike Eq. 2, the mean is over the samples whose loss is not exactly
    zero, which makes a difference only where `epsilon` is 0.

    Args:
        logits: classifier outputs (N, K).
        identities: class index of each sample (N,), in [0, K).
        epsilon: smoothing, in [0, 1).

    Returns:
        Scalar, in float32 at least.

    Raises:
        ValueError: shapes do not fit together.
    """
    check_rows("cross_entropy_loss", logits, identities=identities)
    log_probabilities = F.log_softmax(at_least_float32(logits), dim=1)
    right = log_probabilities.gather(1, identities[:, None]).squeeze(1)
    wrong = log_probabilities.sum(dim=1) - right
    # With one class there is no wrong one to share the smoothing.
    share = epsilon / max(logits.shape[1] - 1, 1)
    losses = -(1 - epsilon) * right - share * wrong
    return losses.sum() / losses.count_nonzero().clamp_min(1)


def triplet_loss(
    features: Tensor, identities: Tensor, margin: float = 0.3, *, distances: Tensor | None = None
) -> Tensor:
    """Pull the hardest positive of each anchor closer than its hardest negative (Eq. 3).

    Mean over the anchors of `max(0, d(anchor, positive) - d(anchor, negative) + margin)`, with
    the farthest sample of the anchor's identity (the anchor itself where it is the only one) and
    the nearest sample of another identity. With one identity there are no negatives, and the loss
    is a zero through which gradients still flow.

    Args:
        features: features (N, D), not normalized.
        identities: identity label of each sample (N,).
        margin: margin m, in units of the distance.
        distances: `pairwise_distance` of the features, where it is known already.

    Returns:
        Scalar, in float32 at least.

    Raises:
        ValueError: shapes do not fit together.

    Example:
        Two images of a person at 0 and 1, one of another at 3: only the second anchor, 1 from its
        positive and 2 from its negative, is within a margin of 1.5.

        >>> features, identities = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([0, 0, 1])
        >>> triplet_loss(features, identities, margin=1.5)
        tensor(0.1667)
    """
    check_rows("triplet_loss", features, identities=identities)
    distances = pairwise_distance(features) if distances is None else distances
    other = identities[:, None] != identities
    gaps = hardest_gaps(distances, not_far=other, near=other)
    # If one anchor has no negative, none has.
    return F.relu(gaps + margin).mean() * other.any()


def scatter_loss(features: Tensor, domains: Tensor, average: str = "sample") -> Tensor:
    """Spread the features of each domain: mean cosine to the centroid of their domain (Eq. 6).

    Rows are l2-normalized before the centroid is taken, as the authors do; the paper does not
    say. A row of zeros has cosine 0.

    Args:
        features: features (N, D).
        domains: domain label of each sample (N,).
        average: "sample" is the mean over all samples (Eq. 6); "domain" the mean over domains of
            the mean over their samples (the authors' code). They are equal where all domains have
            equally many samples.

    Returns:
        Scalar in [-1, 1], in float32 at least.

    Raises:
        ValueError: shapes do not fit together, or `average` is neither of the two.
    """
    check_rows("scatter_loss", features, domains=domains)
    if average not in ("sample", "domain"):
        raise ValueError(f"scatter_loss averages by 'sample' or 'domain', not by {average!r}")
    units = _unit_rows(at_least_float32(features))
    same_domain = domains[:, None] == domains
    shares = same_domain / same_domain.sum(dim=1, keepdim=True, dtype=units.dtype)
    # Unit rows have a mean cosine to the direction of their mean that is the length of the mean.
    cosines = torch.linalg.vector_norm(product(shares, units), dim=1)
    if average == "sample":
        return cosines.mean()
    weights = shares.diagonal()
    return (cosines * weights).sum() / weights.sum()


def _unit_rows(rows: Tensor) -> Tensor:
    squares = rows.square().sum(dim=1, keepdim=True)
    # A row of zeros is divided by 1. Of its norm PyTorch's second derivative is NaN.
    return rows * F.threshold(squares, 0, 1).rsqrt()


def shuffle_loss(
    features: Tensor, identities: Tensor, domains: Tensor, *, distances: Tensor | None = None
) -> Tensor:
    """Pull other domains towards each anchor and push its own domain's identities away (Eq. 7).

    Mean over the anchors of `softplus(d(anchor, inter) - d(anchor, intra))`, where `inter` is an
    inter-domain negative and `intra` an intra-domain one. The paper does not say which; as the
    authors do, `inter` is the farthest sample of another domain and `intra` the nearest sample of
    the same domain with another identity. The anchor itself counts among the candidates for
    `inter`, so that with one domain only the distance to it is (nearly) zero. Anchors without an
    intra-domain negative are left out of the mean; if no anchor has one, the loss is a zero
    through which gradients still flow.

    Args:
        features: features (N, D), not normalized.
        identities: identity label of each sample (N,).
        domains: domain label of each sample (N,).
        distances: `pairwise_distance` of the features, where it is known already.

    Returns:
        Scalar, in float32 at least.

    Raises:
        ValueError: shapes do not fit together.
    """
    check_rows("shuffle_loss", features, identities=identities, domains=domains)
    distances = pairwise_distance(features) if distances is None else distances
    same_domain = domains[:, None] == domains
    intra = same_domain & (identities[:, None] != identities)
    same_domain.fill_diagonal_(False)
    gaps = hardest_gaps(distances, not_far=same_domain, near=intra)
    return mean_over_anchors(F.softplus(gaps), intra.any(dim=1))


def pairwise_distance(features: Tensor) -> Tensor:
    """Euclidean distance d of every pair of features (paper Eq. 3 and 7).

    Squared distances are floored at 1e-12 before the root, so that no gradient is infinite: equal
    features are 1e-6 apart and pull nothing.

    Args:
        features: features (N, D).

    Returns:
        Distances (N, N), symmetric, in float32 at least.

    Raises:
        ValueError: `features` is not a matrix, or empty.
    """
    check_rows("pairwise_distance", features)
    features = at_least_float32(features)
    squared_norms = features.square().sum(dim=1)
    sums = squared_norms[:, None] + squared_norms
    # Half precision, which autocast would take, would let them cancel or overflow.
    with torch.autocast(features.device.type, enabled=False):
        squared = torch.addmm(sums, features, features.T, alpha=-2)
    # The gradient of a threshold is one operator, that of clamp_min three.
    return F.threshold(squared, SQUARED_FLOOR, SQUARED_FLOOR).sqrt()


def hardest_gaps(distances: Tensor, not_far: Tensor, near: Tensor) -> Tensor:
    """Distance of each anchor to its farthest candidate, less that to its nearest one.

    Equally hard samples share the gradient evenly.

    Args:
        distances: distances (N, N), anchors in rows; all positive.
        not_far: which samples are no candidates for the farthest, boolean (N, N).
        near: which samples are candidates for the nearest, boolean (N, N).

    Returns:
        Differences (N,); without a meaning, but finite, for an anchor that lacks candidates.
    """
    values = distances.detach()
    # On a GPU each operator is a launch: one maximum for both, and a gradient that is one product.
    # Divided by False, a distance is infinite.
    rows = torch.stack([values.masked_fill(not_far, -torch.inf), -values / near])
    hardest = rows == rows.amax(dim=2, keepdim=True)
    far, near = hardest / hardest.sum(dim=2, keepdim=True, dtype=values.dtype)
    return product(distances[:, None], (far - near)[:, :, None]).flatten()


def mean_over_anchors(values: Tensor, anchors: Tensor) -> Tensor:
    """Mean of the values of some anchors.

    Args:
        values: finite value of each sample (N,).
        anchors: which samples count as anchors, boolean (N,).

    Returns:
        Scalar; without any anchor a zero that still belongs to the graph of `values`.
    """
    return torch.dot(values, anchors / anchors.sum(dtype=values.dtype).clamp_min(1))


def check_rows(name: str, rows: Tensor, **labels: Tensor) -> None:
    """Refuse features that are not a matrix, and labels that do not fit its rows.

    Args:
        name: the loss, for the message.
        rows: features or logits, one row per sample.
        **labels: one label per sample, each 1-D, by argument name.

    Raises:
        ValueError: a shape is wrong, or there are no rows.
    """
    if rows.dim() != 2 or rows.shape[0] == 0:
        raise ValueError(f"{name} needs a matrix with one row per sample, got {tuple(rows.shape)}")
    for label, values in labels.items():
        if values.shape != rows.shape[:1]:
            raise ValueError(
                f"{name} needs one entry of {label} per sample: there are {rows.shape[0]} "
                f"samples, {label} has shape {tuple(values.shape)}"
            )


def reciprocal_similarity(first: Tensor, second: Tensor, neighbours: int = 10) -> Tensor:
    """How reliable each pair of two views is: Jaccard similarity of their reciprocal neighbours.

    The weight w of the alignment loss of BAU (Cho et al., NeurIPS 2024). Among the images of both
    views, j is a reciprocal neighbour of i if each is one of the k samples that are most similar
    to the other by cosine, which every sample is to itself. No gradient passes.

    Args:
        first: features of one view (N, D), not normalized.
        second: features of the other view (M, D).
        neighbours: k, at least 1; all samples where there are fewer.

    Returns:
        Shares in [0, 1] (N, M), in float32 at least: 1 for equal neighbourhoods, 0 for such that
        have no sample in common.

    Raises:
        ValueError: shapes do not fit together, or `neighbours` is below 1.
    """
    check_rows("reciprocal_similarity", first)
    check_rows("reciprocal_similarity", second)
    if neighbours < 1:
        raise ValueError(f"reciprocal_similarity needs at least 1 neighbour, got {neighbours}")
    units = _unit_rows(at_least_float32(torch.cat([first, second]).detach()))
    cosines = product(units, units.T)
    nearest = cosines.topk(min(neighbours, len(units)), dim=1).indices
    near = torch.zeros_like(cosines).scatter_(1, nearest, 1.0)
    reciprocal = near * near.T
    own, others = reciprocal.split([len(first), len(second)])
    common = product(own, others.T)
    union = own.sum(dim=1)[:, None] + others.sum(dim=1) - common
    # With copies of an image in the batch a sample may not be among its own nearest.
    return common / union.clamp_min(1)


def alignment_loss(
    first: Tensor, second: Tensor, identities: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Pull the views of each identity together: the alignment loss of BAU (Cho et al., 2024).

    Mean squared distance of the l2-normalized features over all pairs, one image of each view, that
    show the same identity, weighted.

    Args:
        first: features of one view (N, D), not normalized.
        second: features of the other view of the same images (N, D).
        identities: identity label of each image (N,).
        weights: weight of each pair (N, N), not negative, `reciprocal_similarity` in BAU; None
            weighs all alike.

    Returns:
        Scalar in [0, 4], in float32 at least; without a pair of positive weight a zero through
        which gradients still flow.

    Raises:
        ValueError: shapes do not fit together.

    Example:
        >>> first, second = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
        >>> alignment_loss(first, second, torch.tensor([5]))
        tensor(2.)
    """
    check_rows("alignment_loss", first, identities=identities)
    if first.shape != second.shape:
        raise ValueError(
            f"alignment_loss needs two views of one shape, got {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
    pairs = (identities[:, None] == identities).to(torch.promote_types(first.dtype, torch.float32))
    if weights is not None:
        pairs = pairs * weights
    total = pairs.sum()
    # A sum of 0 has no pair in its numerator either.
    return (_unit_distances(first, second) * pairs).sum() / torch.where(total > 0, total, 1)


def uniformity_loss(features: Tensor, temperature: float = 2.0) -> Tensor:
    """Spread features over the sphere (Wang and Isola, ICML 2020, as in BAU of Cho et al., 2024).

    Logarithm of the mean of `exp(-t d^2)` over all pairs of different samples, d the distance of
    their l2-normalized features.

    Args:
        features: features (N, D), not normalized.
        temperature: t, above 0.

    Returns:
        Scalar in [-4 t, 0], in float32 at least; of one sample a zero through which gradients still
        flow.

    Raises:
        ValueError: `features` is not a matrix, or empty.
    """
    check_rows("uniformity_loss", features)
    exponents = -temperature * _unit_distances(features, features)
    size = len(features)
    if size == 1:
        return exponents.sum() * 0
    itself = torch.eye(size, dtype=torch.bool, device=features.device)
    pairs = math.log(size * (size - 1))
    return exponents.masked_fill(itself, -torch.inf).flatten().logsumexp(0) - pairs


def prototype_uniformity_loss(
    features: Tensor,
    identities: Tensor,
    domains: Tensor,
    prototypes: Tensor,
    prototype_domains: Tensor,
    temperature: float = 2.0,
) -> Tensor:
    """Spread each domain's features away from its prototypes: the domain loss of BAU (2024).

    Logarithm of the mean of `exp(-t d^2)` over pairs of a sample and a prototype of its domain that
    is not its own identity's, d the distance of the l2-normalized rows. As in the authors' code,
    each sample counts its nearest prototypes alone, as many as there are samples.

    Args:
        features: features (N, D), not normalized.
        identities: identity of each sample (N,), its row among the prototypes.
        domains: domain of each sample (N,), not negative.
        prototypes: one row per identity (K, D); they get no gradient.
        prototype_domains: domain of each prototype (K,); negative for one that is not known yet
            and does not count.
        temperature: t, above 0.

    Returns:
        Scalar in [-4 t, 0], in float32 at least; without any pair a zero through which gradients
        still flow.

    Raises:
        ValueError: shapes do not fit together.
    """
    check_rows("prototype_uniformity_loss", features, identities=identities, domains=domains)
    check_rows("prototype_uniformity_loss", prototypes, prototype_domains=prototype_domains)
    distances = _unit_distances(features, prototypes.detach())
    is_pair = domains[:, None] == prototype_domains
    # Not in place of a value: a domain may lack this identity.
    is_pair = is_pair.scatter(1, identities[:, None], False)
    ranked = distances.detach().masked_fill(~is_pair, torch.inf)
    nearest = ranked.topk(min(len(features), len(prototypes)), dim=1, largest=False).indices
    is_pair = is_pair.gather(1, nearest)
    exponents = -temperature * distances.gather(1, nearest)
    count = is_pair.sum(dtype=distances.dtype)
    # Without any pair nothing is left out, for a logarithm of 0 has no gradient.
    left_out = ~is_pair & (count > 0)
    total = exponents.masked_fill(left_out, -torch.inf).flatten().logsumexp(0)
    return (total - count.clamp_min(1).log()) * (count > 0)


def memory_loss(
    features: Tensor,
    identities: Tensor,
    domains: Tensor,
    memory: Tensor,
    memory_domains: Tensor,
    temperature: float = 0.05,
) -> Tensor:
    """Classify each sample among the identities of its own domain, by a memory of their features.

    The domain-wise classifiers of interleaved learning (Tan et al., IEEE TMM 2023): cross-entropy
    of the cosines to the memory's rows, divided by a temperature. Rows of other domains are no
    classes of the sample. Mean over the samples whose identity the memory knows.

    Args:
        features: features (N, D), not normalized.
        identities: identity of each sample (N,), its row of the memory.
        domains: domain of each sample (N,), not negative.
        memory: one row per identity (K, D); it gets no gradient.
        memory_domains: domain of each row (K,); negative for one that is not known yet.
        temperature: above 0.

    Returns:
        Scalar, in float32 at least; without such a sample a zero through which gradients still
        flow.

    Raises:
        ValueError: shapes do not fit together.
    """
    check_rows("memory_loss", features, identities=identities, domains=domains)
    check_rows("memory_loss", memory, memory_domains=memory_domains)
    units, rows = (_unit_rows(at_least_float32(x)) for x in (features, memory.detach()))
    scores = product(units, rows.T) / temperature
    is_known = memory_domains[identities] == domains
    is_class = (domains[:, None] == memory_domains) | ~is_known[:, None]
    right = scores.gather(1, identities[:, None]).squeeze(1)
    losses = scores.masked_fill(~is_class, -torch.inf).logsumexp(1) - right
    return mean_over_anchors(losses, is_known)


def _unit_distances(rows: Tensor, columns: Tensor) -> Tensor:
    """Squared distance of each row's direction to each column's."""
    units, others = (_unit_rows(at_least_float32(x)) for x in (rows, columns))
    squares = units.square().sum(dim=1)[:, None] + others.square().sum(dim=1)
    # Rounding may leave equal directions below 0, where nothing pulls.
    return F.relu(squares.sub(product(units, others.T), alpha=2))
