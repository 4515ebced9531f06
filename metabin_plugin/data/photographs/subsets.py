"""Which photographs are trained on and which are kept to test with."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence

from metabin_plugin.data.photographs.photograph import Photograph
from metabin_plugin.errors import DatasetError

Person = tuple[str, str]


def hold_out(photographs: Sequence[Photograph], share: float, seed: int) -> set[Person]:
    """Draw people to test with from each domain.

    Those are drawn whom a test can find: seen by two cameras, or twice in a domain of one camera.
    At least two people of each domain are left to train on. Distractors are not people.

    Args:
        photographs: all of them.
        share: of the people of each domain, in [0, 1].
        seed: the same one draws the same people from the same photographs.

    Raises:
        DatasetError: a share is asked for, but nobody can be held out.
    """
    drawn: set[Person] = set()
    can_be_found = can_be_drawn = False
    by_domain: dict[str, list[Photograph]] = defaultdict(list)
    for photograph in photographs:
        if not photograph.is_distractor:
            by_domain[photograph.domain].append(photograph)
    for domain, shots in sorted(by_domain.items()):
        people, cameras = _people(shots), {shot.camera for shot in shots}
        found = sorted(person for person, images in people.items() if _testable(images, cameras))
        most = min(len(found), max(len(people) - 2, 0))
        count = min(round(share * len(people)), most)
        drawn |= set(random.Random(f"{seed}:{domain}").sample(found, count))
        can_be_found |= bool(found)
        can_be_drawn |= most > 0
    if share and not drawn:
        raise _nobody_held_out(share, can_be_found=can_be_found, can_be_drawn=can_be_drawn)
    return drawn


def _nobody_held_out(share: float, *, can_be_found: bool, can_be_drawn: bool) -> DatasetError:
    if can_be_drawn:
        why, remedy = "of the people of each domain is nobody", "raise it"
    elif can_be_found:
        why = "leaves nobody, as domains have at most 2 people, who are left to train on"
        remedy = "add photographs of others"
    else:
        why = "leaves nobody, as nobody was seen by two cameras (or twice by the only one)"
        remedy = "add photographs"
    return DatasetError(f"--hold-out {share} {why}; {remedy}, or train on all by --hold-out 0")


def assign_subsets(
    photographs: Sequence[Photograph], tested: Collection[Person], splits: int, seed: int
) -> list[Photograph]:
    """Give each photograph its subset.

    With one split, a photograph of each person from each camera that took several is a query, or
    just one if none did; the others, and all of people whom a test cannot find, are the gallery.
    Distractors of the domains that are tested are in their gallery; those of others are left out.

    Args:
        photographs: all of them.
        tested: domains and identities of the people to test with; the others are trained on.
        splits: 1 for a query and a gallery, 10 to leave it to the plugin (subset ``test``).
        seed: of the choice of queries.

    Raises:
        DatasetError: there are people to test with, but a test can find none of them.
    """
    people = [p for p in photographs if not p.is_distractor]
    domains = {domain for domain, _ in tested}
    train = [p._replace(subset="train") for p in people if p.person not in tested]
    chosen = [p for p in people if p.person in tested]
    aside = [p for p in photographs if p.is_distractor and p.domain in domains]
    cameras = _cameras(chosen)
    queries: set[Photograph] = set()
    for person, images in sorted(_people(chosen).items()):
        if _testable(images, cameras[person[0]]):
            queries.update(_queries(images, random.Random(":".join((str(seed), *person)))))
    if tested and not queries:
        raise DatasetError(
            "Nobody to test with was seen by two cameras (nor twice by the only one); choose other "
            "--test-domains or add photographs"
        )
    if splits > 1:
        return sorted([*train, *(p._replace(subset="test") for p in [*chosen, *aside])])
    gallery = [p._replace(subset="gallery") for p in [*chosen, *aside] if p not in queries]
    test = set_queries_apart([*(p._replace(subset="query") for p in queries), *gallery])
    return sorted([*train, *test])


def set_queries_apart(photographs: Sequence[Photograph]) -> list[Photograph]:
    """Give queries a camera of their own, ``query``, where a domain's test images have but one.

    Evaluation compares images of different cameras only.

    Args:
        photographs: with their subsets.
    """
    cameras = _cameras(p for p in photographs if p.subset in ("query", "gallery"))
    return [
        p._replace(camera="query") if p.subset == "query" and len(cameras[p.domain]) == 1 else p
        for p in photographs
    ]


def check_testable(photographs: Sequence[Photograph]) -> None:
    """Refuse subsets with which nobody can be tested.

    Args:
        photographs: with their subsets, queries set apart.

    Raises:
        DatasetError: there are images to test with, but none can be a query that has a match.
    """
    test = [p for p in photographs if p.subset == "test" and not p.is_distractor]
    cameras = _cameras(test)
    gallery: dict[Person, set[str]] = defaultdict(set)
    for p in photographs:
        if p.subset == "gallery":
            gallery[p.person].add(p.camera)
    found = [p for p in photographs if p.subset == "query" and gallery[p.person] - {p.camera}]
    drawn = [some for who, some in _people(test).items() if _testable(some, cameras[who[0]])]
    if not found and not drawn and any(p.subset != "train" for p in photographs):
        raise DatasetError(
            "Nobody can be tested: no query has an image of its person from another camera in the "
            "gallery, and nobody in test images was seen by two cameras (nor twice by the only "
            "one); say the right cameras by --layout, or leave these folders out by --exclude"
        )


def _queries(images: Sequence[Photograph], drawn: random.Random) -> Iterator[Photograph]:
    by_camera: dict[str, list[Photograph]] = defaultdict(list)
    for photograph in sorted(images):
        by_camera[photograph.camera].append(photograph)
    several = [some for some in by_camera.values() if len(some) > 1]
    for some in several or [sorted(images)]:
        yield drawn.choice(some)


def _people(photographs: Iterable[Photograph]) -> dict[Person, list[Photograph]]:
    people: dict[Person, list[Photograph]] = defaultdict(list)
    for photograph in photographs:
        people[photograph.person].append(photograph)
    return people


def _testable(images: Sequence[Photograph], cameras: Collection[str]) -> bool:
    """Whether a test can find a person: images of the person, cameras of the domain."""
    if len(cameras) == 1:
        return len(images) > 1
    return len({photograph.camera for photograph in images}) > 1


def _cameras(photographs: Iterable[Photograph]) -> dict[str, set[str]]:
    """Cameras of each domain that saw people."""
    cameras: dict[str, set[str]] = defaultdict(set)
    for photograph in photographs:
        if not photograph.is_distractor:
            cameras[photograph.domain].add(photograph.camera)
    return cameras
