"""Ranked galleries of a data set's queries, as its evaluation ranks them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from metabin_plugin.data.images import read_rgb
from metabin_plugin.errors import DatasetError, SearchError
from metabin_plugin.evaluation import Images
from metabin_plugin.files import write_whole
from metabin_plugin.ranking import distance_chunks, evaluate_features

IMAGE = (96, 192)
FRAME = 4
GAP = 6
CUT = 2
FONT_SIZE = 12
LINE = 15
UNREADABLE = "unreadable"
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
GREY, GREEN, RED = (120, 120, 120), (40, 160, 60), (200, 50, 40)


@dataclass(frozen=True)
class RankedImage:
    """A gallery image in a query's list.

    Attributes:
        index: which image of the gallery.
        distance: as evaluation has it.
        right: whether it shows the query's identity.
    """

    index: int
    distance: float
    right: bool


class RankedLists:
    """Queries and a gallery that are compared as in evaluation, without re-ranking.

    Args:
        query: the queries.
        gallery: the gallery.
        metric: "cosine" or "euclidean".
    """

    def __init__(self, query: Images, gallery: Images, metric: str) -> None:
        self._query, self._gallery, self._metric = query, gallery, metric

    def average_precisions(self) -> np.ndarray:
        """Average precision of each query in [0, 1], NaN for one without a match (Q,)."""
        precisions = np.full(len(self._query.identities), np.nan)
        matched = np.array([self._has_match(number) for number in range(len(precisions))])
        if matched.any():
            query, gallery = self._query.part(matched), self._gallery
            labels = (query.identities, gallery.identities, query.cameras, gallery.cameras)
            features = query.features, gallery.features
            precisions[matched] = evaluate_features(*features, *labels, metric=self._metric)[1]
        return precisions

    def list_of(self, number: int, top: int) -> list[RankedImage]:
        """The nearest gallery images of a query.

        As in evaluation, those of its identity by its camera are left out, and images at equal
        distance are in the order of the gallery.

        Args:
            number: which query.
            top: how many at most.
        """
        feature = self._query.features[number : number + 1]
        (distances,) = distance_chunks(feature, self._gallery.features, self._metric)
        row = distances[0].numpy()
        same, seen = self._same(number)
        kept = np.flatnonzero(~(same & seen))
        nearest = kept[np.argsort(row[kept], kind="stable")[:top]]
        return [RankedImage(int(i), float(row[i]), bool(same[i])) for i in nearest]

    def _has_match(self, number: int) -> bool:
        same, seen = self._same(number)
        return bool((same & ~seen).any())

    def _same(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        return (
            self._gallery.identities == self._query.identities[number],
            self._gallery.cameras == self._query.cameras[number],
        )


def choose_queries(precisions: np.ndarray, count: int, which: str, seed: int = 0) -> list[int]:
    """Numbers of the queries to show.

    Args:
        precisions: average precision of each query, NaN for one without a match.
        count: how many, at most as many as there are.
        which: "spread", evenly over the data set; "worst" of those that have a match, the worst
            first; or "random".
        seed: of "random".

    Raises:
        SearchError: no query has a match, for "worst".
    """
    if which == "worst":
        order = np.argsort(precisions, kind="stable")
        chosen = order[: min(count, int((~np.isnan(precisions)).sum()))]
        if not len(chosen):
            raise SearchError("no query has a match in the gallery; choose others than the worst")
        return chosen.tolist()
    total = len(precisions)
    count = min(count, total)
    if which == "random":
        return np.sort(np.random.default_rng(seed).choice(total, count, replace=False)).tolist()
    return np.linspace(0, total - 1, count).round().astype(int).tolist()


def queries_of(identities: np.ndarray, wanted: Sequence[int]) -> list[int]:
    """Numbers of all queries of some identities, in the order of these.

    Args:
        identities: identity of each query (Q,).
        wanted: identities.

    Raises:
        SearchError: an identity has no query.
    """

    def numbers() -> Iterator[int]:
        for identity in wanted:
            found = np.flatnonzero(identities == identity)
            if not len(found):
                known = ", ".join(map(str, np.unique(identities)[:10]))
                raise SearchError(f"--ids: no query shows {identity}; choose one of {known}")
            yield from found.tolist()

    return list(numbers())


@dataclass(frozen=True)
class Tile:
    """One image of a sheet.

    Attributes:
        path: the image file; "" for none, which leaves an empty place.
        caption: lines under it; each is shortened in its middle to the width of the image.
        colour: of the frame.
    """

    path: str
    caption: Sequence[str] = ()
    colour: tuple[int, int, int] = GREY


def draw_sheet(
    rows: Sequence[Sequence[Tile]], cuts: Sequence[int | None] | None = None
) -> Image.Image:
    """Draw tiles; the first one of each row, the query, stands apart.

    An image that cannot be read leaves an empty place that says so.

    Args:
        rows: at least one.
        cuts: for each row the tile in front of which a line is drawn, from 1 on, or None.
    """
    width, height = IMAGE[0] + 2 * FRAME + GAP, IMAGE[1] + 2 * FRAME + GAP
    height += LINE * max(len(tile.caption) for row in rows for tile in row)
    columns = max(map(len, rows))
    sheet = Image.new("RGB", (width * columns + 3 * GAP, height * len(rows) + GAP), "white")
    for y, row in enumerate(rows):
        for x, tile in enumerate(row):
            place = (GAP + x * width + (2 * GAP if x else 0), GAP + y * height)
            _paste(sheet, tile, place)
    for y, cut in enumerate(cuts or ()):
        if cut is not None:
            x, top = cut * width + 3 * GAP - GAP // 2, GAP + y * height
            bottom = top + height - GAP
            ImageDraw.Draw(sheet).line([(x, top), (x, bottom)], RED, CUT)
    return sheet


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a sheet as PNG, complete or not at all.

    Raises:
        SearchError: it cannot be written.
    """
    write_whole(path, lambda file: sheet.save(file, format="PNG"), SearchError)


def shortened(text: str, characters: int) -> str:
    """A text, without its middle if it is longer than some characters."""
    text = text if text.isprintable() else ascii(text)[1:-1]
    if len(text) <= characters:
        return text
    head = (characters - 1) // 3
    return f"{text[:head]}…{text[head + 1 - characters :]}"


def _paste(sheet: Image.Image, tile: Tile, place: tuple[int, int]) -> None:
    font = ImageFont.load_default(FONT_SIZE)
    image = ImageOps.expand(_image(tile.path, font), FRAME, tile.colour)
    sheet.paste(image, place)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(tile.caption):
        top = place[1] + image.height + number * LINE
        draw.text((place[0], top), _fitting(line, font), fill="black", font=font)


def _image(path: str, font: Font) -> Image.Image:
    place = Image.new("RGB", IMAGE, (230, 230, 230))
    if path:
        try:
            return read_rgb(path).resize(IMAGE)
        except DatasetError:
            ImageDraw.Draw(place).text((IMAGE[0] // 2, IMAGE[1] // 2), UNREADABLE, GREY, font, "mm")
    return place


def _fitting(line: str, font: Font) -> str:
    # No character is narrower than a pixel, and a name from elsewhere may be of any length.
    characters = min(len(line), IMAGE[0] + 2 * FRAME)
    while font.getlength(shortened(line, characters)) > IMAGE[0] + 2 * FRAME and characters > 3:
        characters -= 1
    return shortened(line, characters)
