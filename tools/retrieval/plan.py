"""Which index fits a gallery: its kind and parameters, from the number of vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass

from retrieval.faults import SearchError

KINDS = ("flat", "ivf", "ivf-pq")
FLAT_UP_TO = 200_000
IVF_UP_TO = 2_000_000
# Faiss warns of fewer vectors for a k-means centre.
VECTORS_PER_LIST = 39
TRAINING_PER_LIST = 64
CODES = 256  # centres of one byte of a code
FEWEST_PROBES = 8
DIMENSIONS_PER_BYTE = 8


@dataclass(frozen=True)
class Plan:
    """How an index is built.

    Attributes:
        kind: "flat", all vectors compared with a query, which is exact; "ivf", inverted lists of
            whole vectors; "ivf-pq", inverted lists of codes of product quantization.
        lists: number of inverted lists; 0 for flat.
        probes: lists that a query is compared with.
        code_bytes: size of a vector's code; 0 for whole vectors.
        training: vectors that lists and codes are learned from.
    """

    kind: str
    lists: int = 0
    probes: int = 0
    code_bytes: int = 0
    training: int = 0

    @property
    def factory(self) -> str:
        """What Faiss calls it."""
        if self.kind == "flat":
            return "Flat"
        # "np" leaves out polysemous training: 20 times as long, for a search that is not used.
        return f"IVF{self.lists},{f'PQ{self.code_bytes}np' if self.code_bytes else 'Flat'}"

    def __str__(self) -> str:
        if self.kind == "flat":
            return "flat (exact)"
        codes = f" of {self.code_bytes}-byte codes" if self.code_bytes else ""
        return (
            f"{self.kind}, {self.lists:,} lists{codes}, {self.probes} of them searched, "
            f"trained on {self.training:,} vectors"
        )


def plan_index(
    count: int,
    dimension: int,
    kind: str = "auto",
    *,
    lists: int | None = None,
    probes: int | None = None,
    code_bytes: int | None = None,
    training: int | None = None,
) -> Plan:
    """Choose what is left open.

    "auto" is flat up to 200,000 vectors, ivf up to 2,000,000 and ivf-pq above. Lists are the power
    of two nearest to 4 times the square root of the number of vectors, at most one for 39 vectors;
    a query is compared with the square root of their number, at least 8. A code has a byte for 8
    dimensions, or for more where 8 do not divide them. Training takes 64 vectors for each list.

    Args:
        count: number of vectors.
        dimension: length of a vector.
        kind: one of ``KINDS``, or "auto".
        lists: number of inverted lists.
        probes: lists that a query is compared with.
        code_bytes: size of a vector's code; it divides the dimension.
        training: vectors to train on.

    Raises:
        SearchError: the parameters do not fit each other or the vectors.
    """
    if kind == "auto":
        kind = "flat" if count <= FLAT_UP_TO else "ivf" if count <= IVF_UP_TO else "ivf-pq"
    given = {"--lists": lists, "--probes": probes, "--bytes": code_bytes, "--training": training}
    _check_use(kind, given)
    if kind == "flat":
        return Plan("flat")
    if lists is None:
        lists = max(1, min(2 ** round(math.log2(4 * math.sqrt(count))), count // VECTORS_PER_LIST))
    if training is None:
        training = min(count, max(TRAINING_PER_LIST * lists, VECTORS_PER_LIST * CODES))
    if probes is None:
        probes = min(lists, max(FEWEST_PROBES, round(math.sqrt(lists))))
    if kind == "ivf-pq" and code_bytes is None:
        code_bytes = _code_bytes(dimension)
    plan = Plan(kind, lists, probes, code_bytes or 0, training)
    _check_fit(plan, count, dimension)
    return plan


def _code_bytes(dimension: int) -> int:
    most = max(1, dimension // DIMENSIONS_PER_BYTE)
    return next(size for size in range(most, 0, -1) if dimension % size == 0)


def _check_use(kind: str, given: dict[str, int | None]) -> None:
    unused = list(given) if kind == "flat" else ["--bytes"] if kind == "ivf" else []
    for option, value in given.items():
        if value is None:
            continue
        if option in unused:
            raise SearchError(
                f"{option} is {value}, but an index of kind {kind} has no use for it; "
                "leave it out or choose another --kind"
            )
        if value < 1:
            raise SearchError(f"{option} is {value}; give at least 1")


def _check_fit(plan: Plan, count: int, dimension: int) -> None:
    needed = max(plan.lists, CODES if plan.code_bytes else 1)
    if plan.code_bytes and dimension % plan.code_bytes:
        fault = f"--bytes is {plan.code_bytes}, which does not divide the dimension {dimension}"
    elif plan.probes > plan.lists:
        fault = f"--probes is {plan.probes}, but there are {plan.lists} lists"
    elif plan.training > count:
        fault = f"--training is {plan.training}, but there are {count} vectors"
    elif plan.training < needed:
        fault = f"{plan.training} vectors to train on are too few for {plan}: it takes {needed}"
    else:
        return
    raise SearchError(f"{fault}; change it, or take --kind flat")
