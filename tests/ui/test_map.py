"""The rules of the map without its page: who is shown and selected, in which color, and that parts add up to the whole.

Masks are held against the Python that pages use for the same rules, pixels of the two ways to draw against each other.
`bare` is a page with nothing on it but the map's functions.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from explorer.shown.filters import Filter
from explorer.shown.selection import Selection, in_map_units
from explorer.store import Row
from explorer.ui.scatter import assets
from tests.ui import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = (
    "Camera HOME CLASS_COLORS CameraLink PointsGL center colorKey countShown decodePoints densityOf insideMask paletteOf "
    "readTheme shownMask shuffled simplified strongest tintPoints"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.open_browser() as one:
        yield one


@pytest.fixture(scope="module")
def bare(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    script = assets.map_assets().js.replace("export default function", "function")
    page.add_script_tag(content=f"{script}\nObject.assign(window, {{ {', '.join(NAMES.split())} }});")
    yield page
    page.close()


def sent(array: np.ndarray) -> list[Any]:
    """For JavaScript, exactly."""
    return np.asarray(array).tolist()


POINTS = """({ at, classes, marks, predictions, nTrain }) => {
  const total = classes.length;
  return { nTrain, nTest: total - nTrain, total, at: new Float32Array(at.flat()), classes: new Uint8Array(classes),
    marks: new Uint8Array(marks), predictions: new Uint8Array(predictions ?? classes), codes: null, quantiles: [] };
}"""


def crowd(n_train: int, n_test: int, seed: int) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    total = n_train + n_test
    return {
        "at": draw.normal(size=(total, 2)).astype(np.float32) * [3, 1],
        "classes": draw.choice([0, 1, 2, 3, 254, 255], total).astype(np.uint8),
        "marks": draw.integers(0, 16, total).astype(np.uint8),
        "nTrain": n_train,
    }


def as_sent(points: dict[str, Any]) -> dict[str, Any]:
    return {name: sent(value) if isinstance(value, np.ndarray) else value for name, value in points.items()}


# ---- the rules, against Python's ----


@pytest.mark.browser
def test_the_filter_shows_what_python_says_it_shows(bare: Page) -> None:
    draw = np.random.default_rng(0)
    points = crowd(700, 200, 1)
    values = draw.integers(-127, 128, 700).astype(np.int8)
    row = Row(values, float(np.float32(0.0371)))
    filters = [Filter()]
    for _ in range(60):
        low, high = sorted(draw.normal(0, 0.02, 2).tolist())
        filters.append(
            Filter(
                classes=[None, (), (0, 3), (1, 2, 254)][draw.integers(4)],
                outcome=draw.choice(["all", "wrong", "right"]),
                suspect=bool(draw.integers(2)),
                retrained=bool(draw.integers(2)),
                sign=draw.choice(["both", "towards", "away"]),
                low=[None, low, 0.0][draw.integers(3)],
                high=[None, high if high > 0 else None][draw.integers(2)],
            )
        )
    assert len({one.text() for one in filters}) > 40
    wrong, suspect, retrained = (points["marks"] & 2) > 0, *((points["marks"][:700] & bit) > 0 for bit in (1, 8))
    found = bare.evaluate(
        f"""({{ points, values, scale, filters }}) => {{
          const made = ({POINTS})(points), row = {{ values: new Int8Array(values), scale }};
          return filters.flatMap((filter) => [row, null].map((known) => [...shownMask(made, known, filter, new Uint8Array(made.total))]));
        }}""",
        {
            "points": as_sent(points),
            "values": sent(values),
            "scale": row.scale,
            "filters": [one.as_data() for one in filters],
        },
    )
    expected = [
        one.shown(points["classes"], wrong, suspect, known, retrained) for one in filters for known in (row, None)
    ]
    for mask, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.array(mask, dtype=bool), right)


@pytest.mark.browser
def test_a_lasso_holds_what_python_says_it_holds(bare: Page) -> None:
    draw = np.random.default_rng(3)
    at = np.round(draw.normal(size=(4000, 2)) * [2, 5], 2).astype(np.float32)
    at[7] = np.nan
    units = in_map_units(at)
    polygons = [[[-0.3, -0.3], [0.3, -0.3], [0.3, 0.3], [-0.3, 0.3]]]
    polygons += [draw.uniform(-0.8, 0.8, (int(corners), 2)).round(6).tolist() for corners in draw.integers(3, 65, 20)]
    polygons.append(np.unique(units[:7], axis=0).astype(float).round(6).tolist())  # corners on points
    centered, found = bare.evaluate(
        """async ({ at, polygons }) => {
          const points = { at: new Float32Array(at.flat().map((value) => value ?? NaN)), total: at.length };
          await center(points.at, points.total);
          return [[...points.at], polygons.map((polygon) => [...insideMask(points, polygon, new Uint8Array(points.total))])];
        }""",
        {
            "at": [[None if np.isnan(value) else value for value in place] for place in sent(at)],
            "polygons": polygons,
        },
    )
    np.testing.assert_array_equal(np.array(centered, dtype=np.float32).reshape(-1, 2), units)
    sizes = set()
    for polygon, mask in zip(polygons, found, strict=True):
        selection = Selection.from_data({"layout": "pca", "polygon": polygon})
        assert selection is not None
        inside = selection.inside(units)
        np.testing.assert_array_equal(np.array(mask, dtype=bool), inside)
        sizes.add(int(inside.sum()))
    assert len(sizes) > 10


@pytest.mark.browser
def test_a_drawn_line_becomes_few_corners_that_hold_the_same_points(bare: Page) -> None:
    turn = np.linspace(0, 2 * np.pi, 3000, endpoint=False)
    wide = 0.6 + 0.15 * np.sin(7 * turn) + 0.004 * np.sin(900 * turn)
    drawn = np.stack([wide * np.cos(turn), wide * np.sin(turn)], 1)
    polygon = bare.evaluate("(drawn) => simplified(drawn, 0.001)", sent(drawn))
    assert 3 <= len(polygon) <= 64
    assert all(value == round(value, 6) for corner in polygon for value in corner)
    places = np.random.default_rng(0).uniform(-1, 1, (20_000, 2))
    radius, angle = np.hypot(*places.T), np.arctan2(places[:, 1], places[:, 0])
    inside = radius < 0.6 + 0.15 * np.sin(7 * angle)
    selection = Selection.from_data({"layout": "umap", "polygon": polygon})
    assert selection is not None
    assert (selection.inside(places.astype(np.float32)) != inside).mean() < 0.02
    for nothing in ([[0, 0], [0, 0], [0, 0]], [[0, 0], [0.5, 0], [1, 0]], [[0, 0], [1e-9, 1e-9], [0, 1e-9]]):
        assert bare.evaluate("(drawn) => simplified(drawn, 0.001)", nothing) is None


@pytest.mark.browser
def test_the_strong_come_strongest_first_and_only_those_shown(bare: Page) -> None:
    points = crowd(500, 10, 4)
    values = np.random.default_rng(5).integers(-128, 128, 500).astype(np.int8)
    shown, inside = np.random.default_rng(6).integers(0, 2, (2, 510)).astype(np.uint8)
    packed, n = bare.evaluate(
        f"""({{ points, values, shown, inside }}) => {{
          const {{ bytes, n }} = strongest(({POINTS})(points), {{ values: new Int8Array(values) }}, new Uint8Array(shown), new Uint8Array(inside));
          return [[...new Uint8Array(bytes.buffer)], n];
        }}""",
        {"points": as_sent(points), "values": sent(values), "shown": sent(shown), "inside": sent(inside)},
    )
    rows = np.frombuffer(bytes(packed), dtype=[("at", "<f4", 2), ("value", "i1"), ("dim", "u1"), ("none", "u2")])
    chosen = np.flatnonzero((shown[:500] == 1) & (np.abs(values.astype(int)) >= 24))
    assert n == len(rows) == len(chosen) > 100
    sizes = np.abs(rows["value"].astype(int))
    assert (np.diff(sizes) <= 0).all()
    key = {tuple(points["at"][i].astype(np.float32).tolist()): (int(values[i]), int(1 - inside[i])) for i in chosen}
    assert {tuple(row["at"].tolist()): (int(row["value"]), int(row["dim"])) for row in rows} == key


@pytest.mark.browser
def test_the_drawing_order_is_a_fair_sample_from_its_beginning(bare: Page) -> None:
    order = np.array(bare.evaluate("async () => [...await shuffled(20000)]"))
    np.testing.assert_array_equal(np.sort(order), np.arange(20_000))
    first = order[:2000]
    counts = np.histogram(first, bins=10, range=(0, 20_000))[0]
    assert (np.abs(counts - 200) < 75).all()  # five standard deviations of a fair draw
    assert abs(np.corrcoef(np.arange(2000), first)[0, 1]) < 0.12
    assert bare.evaluate("async () => [...await shuffled(20000)].join() === [...await shuffled(20000)].join()")


# ---- how it is drawn ----

DRAWN = """async ({ points, parts, card, values, kind }) => {
  const made = (POINTS)(points);
  Object.assign(made, await center(made.at, made.total));
  made.order = await shuffled(made.nTrain);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [300, 200];
  document.body.append(canvas);
  const gl = new PointsGL(canvas), camera = new Camera(), theme = readTheme(document.body);
  if (card) gl.rasters = null;
  camera.resize(300, 200);
  camera.open(made, null);
  gl.setPoints(made);
  if (!card) gl.places = Float32Array.from({ length: 2 * made.total }, (_, k) => {
    const n = k >> 1, i = n < made.nTrain ? made.order[n] : n;
    return made.at[2 * i + (k & 1)];
  });
  const shown = new Uint8Array(made.total).fill(1).map((_, i) => (i % 7 ? 1 : 0));
  gl.setPalette(paletteOf("label", theme, 0.4));
  gl.setTints(tintPoints(made, "label", shown, null, new Uint8Array(made.total)));
  gl.fit();
  gl.squared = () => (kind === "squares" ? 2 : 0);
  gl.plain = false;
  if (values) gl.setStrong(strongest(made, { values: new Int8Array(values), scale: 1 }, shown, null));
  const layer = gl.layers[kind in gl.layers ? kind : "ground"], view = { id: "here", ...camera.clip };
  gl.price(camera, 1);
  layer.start(view);
  const states = [];
  for (let part = 0; part < parts; part++) {
    gl.step(layer, camera, theme, 1, part === parts - 1 ? Infinity : (layer.total / parts) * layer.cost);
    states.push([layer.done, layer.isWhole(view)]);
  }
  const pixels = new Uint8Array(4 * 300 * 200);
  gl.gl.bindFramebuffer(gl.gl.FRAMEBUFFER, layer.now.frame);
  gl.gl.readPixels(0, 0, 300, 200, gl.gl.RGBA, gl.gl.UNSIGNED_BYTE, pixels);
  gl.dispose();
  return { pixels: btoa(String.fromCharCode(...pixels)), states, raster: gl.rasters !== null };
}""".replace("POINTS", POINTS)


def drawn(
    page: Page, kind: str, parts: int, card: bool, values: list[int] | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Pixels `[y, x, rgba]` of 4,000 points (400 test points for `kind` "tests") on a small map."""
    points = as_sent(crowd(4000, 400, 8))
    got = page.evaluate(
        DRAWN.replace(
            "String.fromCharCode(...pixels)", "Array.from(pixels, (one) => String.fromCharCode(one)).join('')"
        ),
        {"points": points, "parts": parts, "card": card, "values": values, "kind": kind},
    )
    return np.frombuffer(base64.b64decode(got["pixels"]), np.uint8).reshape(200, 300, 4).astype(int), got


EDGE = 3
"""The card also draws squares that are cut by the picture's edge."""
ROUNDING = 4
"""Of 255: the card rounds after each of many layers of color by its own rule."""
SNAPPED = 0.2
"""Share of pixels that a neighboring square may reach or not: cards move corners to sixteenths of a pixel first."""


@pytest.mark.browser
def test_without_a_card_the_same_pixels_are_drawn_and_parts_add_up_to_the_whole(bare: Page) -> None:
    card, one = drawn(bare, "squares", 1, card=True)
    several, parts = drawn(bare, "squares", 5, card=True)
    raster, other = drawn(bare, "squares", 3, card=False)
    assert (one["raster"], other["raster"]) == (False, True)
    assert [done for done, _ in parts["states"]] == [800, 1600, 2400, 3200, 4000]
    assert [whole for _, whole in parts["states"]] == [False] * 4 + [True]
    np.testing.assert_array_equal(card, several)
    inner = (slice(EDGE, -EDGE), slice(EDGE, -EDGE))
    covered = (card[inner][..., 3] > 0).mean()
    assert covered > 0.05

    def differ(other: np.ndarray) -> float:
        return float((np.abs(card[inner] - other[inner]).max(axis=2) > ROUNDING).mean())

    assert differ(raster) < SNAPPED * covered
    for axis, step in [(0, 1), (0, -1), (1, 1), (1, -1)]:
        assert differ(np.roll(raster, step, axis=axis)) > 0.8 * covered


TINY = 16
"""Side in px of areas whose mean color is compared: stamps stand on quarters of a pixel, the card's dots between them."""
SAME_INK, SAME_PLACES = 0.05, 0.99
"""Of all color drawn, relatively; correlation over the areas, some of whose dots stand on a border."""


def areas(pixels: np.ndarray) -> np.ndarray:
    return (
        pixels[: 200 // TINY * TINY, : 300 // TINY * TINY].reshape(200 // TINY, TINY, 300 // TINY, TINY, 4).mean((1, 3))
    )


@pytest.mark.browser
@pytest.mark.parametrize(("kind", "total"), [("dots", 4000), ("tests", 400)])
def test_without_a_card_dots_and_test_points_look_the_same(bare: Page, kind: str, total: int) -> None:
    card, _ = drawn(bare, kind, 1, card=True)
    stamps, _ = drawn(bare, kind, 1, card=False)
    several, parts = drawn(bare, kind, 4, card=False)
    np.testing.assert_array_equal(several, stamps)
    assert parts["states"][-1] == [total, True]
    assert [whole for _, whole in parts["states"][:-1]] == [False] * (len(parts["states"]) - 1)
    assert np.abs(card.sum((0, 1)) / stamps.sum((0, 1)) - 1).max() < SAME_INK
    assert np.corrcoef(areas(card).ravel(), areas(stamps).ravel())[0, 1] > SAME_PLACES
    close = np.corrcoef(card.ravel(), stamps.ravel())[0, 1]
    assert close > 0.99  # an eighth of a pixel moves an edge by as much of its color
    for axis, step in [(0, 1), (0, -1), (1, 1), (1, -1)]:
        moved = np.corrcoef(card.ravel(), np.roll(stamps, step, axis=axis).ravel())[0, 1]
        assert 1 - moved > 10 * (1 - close)


@pytest.mark.browser
def test_without_a_card_the_strong_look_the_same_and_the_strongest_lie_on_top(bare: Page) -> None:
    values = np.zeros(4000, dtype=int)
    values[:40] = np.linspace(24, 127, 40).astype(int) * np.where(np.arange(40) % 2, 1, -1)
    card, _ = drawn(bare, "strong", 1, card=True, values=values.tolist())
    stamps, other = drawn(bare, "strong", 1, card=False, values=values.tolist())
    assert other["raster"]
    assert other["states"][0][1]
    assert np.abs(card.sum((0, 1)) / stamps.sum((0, 1)) - 1).max() < SAME_INK
    assert np.corrcoef(areas(card).ravel(), areas(stamps).ravel())[0, 1] > SAME_PLACES
    for one in (card, stamps):
        assert (one[..., 2] - one[..., 0] > 70).sum() > 50
        assert (one[..., 0] - one[..., 2] > 70).sum() > 50


@pytest.mark.browser
def test_density_counts_the_shown_points_and_nothing_else(bare: Page) -> None:
    points = crowd(30_000, 0, 11)
    cells = bare.evaluate(
        f"""async ({{ points }}) => {{
          const made = ({POINTS})(points);
          Object.assign(made, await center(made.at, made.total));
          const right = Uint8Array.from({{ length: made.total }}, (_, i) => (made.at[2 * i] > 0 ? 1 : 0));
          const all = await densityOf(made, right.map(() => 1), () => false), half = await densityOf(made, right, () => false);
          const gone = await densityOf(made, right, () => true);
          return [[...all.cells], [...half.cells], all.across, all.down, all.box, gone];
        }}""",
        {"points": as_sent(points)},
    )
    everything, half = (np.array(cells[k]).reshape(cells[3], cells[2]) for k in (0, 1))
    units = in_map_units(points["at"].astype(np.float32))
    left, low, right, high = cells[4]
    expected, _, _ = np.histogram2d(
        units[:, 1], units[:, 0], bins=(cells[3], cells[2]), range=((low, high), (left, right))
    )
    assert np.corrcoef(everything.ravel(), np.log1p(expected).ravel())[0, 1] > 0.8  # smoothed, so not the same
    assert everything.max() == 255
    middle = int(cells[2] * (0 - left) / (right - left))
    assert half[:, : middle - 8].max() == 0
    assert half[:, middle + 8 :].max() > 200
    assert cells[5] is None


# ---- colors ----


@pytest.mark.browser
def test_many_classes_share_colors_and_the_legend_says_so(bare: Page) -> None:
    points = crowd(30, 5, 2) | {"classes": np.arange(35).astype(np.uint8) % 23}
    names = [f"<b>{n}</b>" for n in range(23)]
    key = bare.evaluate(
        f"({{ points, names }}) => colorKey({{ classes: names }}, ({POINTS})(points), 'label', readTheme(document.body))",
        {"points": as_sent(points), "names": names},
    )
    assert len(key["entries"]) == 10
    assert "10 colors, so classes share them" in key["note"]
    assert sorted(name for entry in key["entries"] for name in entry["text"].split(", ")) == sorted(names)
    assert key["entries"][1]["text"] == "<b>1</b>, <b>11</b>, <b>21</b>"


# Machado, Oliveira and Fernandes 2009, severity 1: linear RGB as seen without one kind of cones.
SIGHTS = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
APART = 0.1
"""OKLab distance; 0.02 is just noticed on adjacent areas. Ten of matplotlib's petroff10 keep 0.05."""
GROUNDS = {"light": (255, 255, 255), "dark": (14, 17, 23)}


def linear(colors: np.ndarray) -> np.ndarray:
    return np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)


def oklab(colors: np.ndarray) -> np.ndarray:
    """Ottosson's OKLab of linear RGB."""
    cones = colors @ np.array(
        [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566], [0.0883024619, 0.2817188376, 0.6299787005]]
    ).T  # fmt: skip
    return np.cbrt(np.clip(cones, 0, None)) @ np.array(
        [[0.2104542553, 0.793617785, -0.0040720468], [1.9779984951, -2.428592205, 0.4505937099], [0.0259040371, 0.7827717662, -0.808675766]]
    ).T  # fmt: skip


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("sight", SIGHTS)
def test_class_colors_are_told_apart_by_every_kind_of_color_vision(bare: Page, theme: str, sight: str) -> None:
    found = bare.evaluate("(theme) => CLASS_COLORS[theme]", theme)
    colors = linear(np.array([[int(one[k : k + 2], 16) for k in (1, 3, 5)] for one in found]) / 255)
    seen = oklab(np.clip(colors @ np.array(SIGHTS[sight]).T, 0, 1))
    gaps = np.linalg.norm(seen[:, None] - seen[None], axis=2)
    np.fill_diagonal(gaps, np.inf)
    assert len(found) == 10
    assert gaps.min() > APART
    light = np.array([0.2126, 0.7152, 0.0722])
    ground = linear(np.array(GROUNDS[theme]) / 255) @ light
    contrasts = (np.maximum(colors @ light, ground) + 0.05) / (np.minimum(colors @ light, ground) + 0.05)
    assert contrasts.min() > 2.2  # faint dots among others; the legend's words have the theme's text color
