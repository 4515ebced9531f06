"""Which photographs are trained on and which are kept to test with."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from metabin_plugin.errors import DatasetError
from photographs.photograph import Photograph

Person = tuple[str, str]


def hold_out(photographs: Sequence[Photograph], share: float, seed: int) -> set[Person]:
    """Draw people to test with from each domain.

    Those are drawn whom a test can find: seen by two cameras, or twice in a domain of one camera.
    At least two people of each domain are left to train on.

    Args:
        photographs: all of them.
        share: of the people of each domain, in [0, 1].
        seed: the same one draws the same people from the same photographs.

    Raises:
        DatasetError: a share is asked for, but nobody can be held out.
    """
    drawn: set[Person] = set()
    for domain, cameras in sorted(_cameras(photographs).items()):
        people = _people([p for p in photographs if p.domain == domain])
        found = sorted(person for person, images in people.items() if _testable(images, cameras))
        count = min(round(share * len(people)), len(found), max(len(people) - 2, 0))
        drawn |= set(random.Random(f"{seed}:{domain}").sample(found, count))
    if share and not drawn:
        raise DatasetError(
            f"--hold-out {share} of the people of each domain is nobody who was seen by two "
            "cameras (or twice by the only one); raise it, or train on all by --hold-out 0."
        )
    return drawn


def assign_subsets(
    photographs: Sequence[Photograph], tested: Collection[Person], splits: int, seed: int
) -> list[Photograph]:
    """Give each photograph its subset.

    With one split, a photograph of each person from each camera that took several is a query, or
    just one if none did; the others, and all of people whom a test cannot find, are the gallery.
    Evaluation compares images of different cameras only: in a domain with one camera, that of the
    queries is called ``query``.

    Args:
        photographs: all of them.
        tested: domains and identities of the people to test with; the others are trained on.
        splits: 1 for a query and a gallery, 10 to leave it to the plugin (subset ``test``).
        seed: of the choice of queries.

    Raises:
        DatasetError: there are people to test with, but a test can find none of them.
    """
    train = [p._replace(subset="train") for p in photographs if p.person not in tested]
    chosen = [p for p in photographs if p.person in tested]
    if splits > 1:
        return sorted([*train, *(p._replace(subset="test") for p in chosen)])
    cameras = _cameras(photographs)
    queries: set[Photograph] = set()
    for person, images in sorted(_people(chosen).items()):
        if _testable(images, cameras[person[0]]):
            queries.update(_queries(images, random.Random(":".join((str(seed), *person)))))
    if tested and not queries:
        raise DatasetError(
            "Nobody to test with was seen by two cameras (nor twice by the only one); choose other "
            "--test-domains or add photographs."
        )
    test = []
    for photograph in chosen:
        subset, camera = ("query" if photograph in queries else "gallery"), photograph.camera
        if subset == "query" and len(cameras[photograph.domain]) == 1:
            camera = "query"
        test.append(photograph._replace(subset=subset, camera=camera))
    return sorted([*train, *test])


def _queries(images: Sequence[Photograph], drawn: random.Random) -> Iterator[Photograph]:
    by_camera: dict[str, list[Photograph]] = defaultdict(list)
    for photograph in sorted(images):
        by_camera[photograph.camera].append(photograph)
    several = [some for some in by_camera.values() if len(some) > 1]
    for some in several or [sorted(images)]:
        yield drawn.choice(some)


def _people(photographs: Sequence[Photograph]) -> dict[Person, list[Photograph]]:
    people: dict[Person, list[Photograph]] = defaultdict(list)
    for photograph in photographs:
        people[photograph.person].append(photograph)
    return people


def _testable(images: Sequence[Photograph], cameras: Collection[str]) -> bool:
    """Whether a test can find a person: images of the person, cameras of the domain."""
    if len(cameras) == 1:
        return len(images) > 1
    return len({photograph.camera for photograph in images}) > 1


def _cameras(photographs: Sequence[Photograph]) -> dict[str, set[str]]:
    """Cameras of each domain."""
    cameras: dict[str, set[str]] = defaultdict(set)
    for photograph in photographs:
        cameras[photograph.domain].add(photograph.camera)
    return cameras
