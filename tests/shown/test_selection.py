"""Which points lie inside what was drawn, and that it survives an address, a browser, and whatever else is sent in its place."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from explorer.errors import SettingsError
from explorer.shown import selection
from explorer.shown.selection import MOST, Selection, in_map_units

TRIANGLE = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
HOSTILE: tuple[Any, ...] = (
    None,
    "",
    "umap",
    "umap:",
    "umap:1,2;3,4",
    "tsne:0,0;1,0;0,1",
    "umap:0,0;1,0;0",
    "umap:0,0;1,0;0,1,2",
    "umap:0,0;1,0;a,b",
    "umap:0,0;1,0;nan,1",
    "umap:0,0;1,0;inf,1",
    "umap:0,0;1,0;1e9,1",
    "umap:0,0;1,0;1e999,1",
    "umap:0,0;1,0;1_0,1",
    "umap:0,0;1,0;٣,1",
    "umap:" + ";".join(["0,0"] * (MOST + 1)),
    "umap:" + "0,0;" * 5000,
    "<script>:0,0;1,0;0,1",
    "\x00",
)
NONSENSE: tuple[Any, ...] = (
    None,
    3,
    "umap",
    [],
    {},
    {"layout": "umap"},
    {"polygon": [[0, 0], [1, 0], [0, 1]]},
    {"layout": ["umap"], "polygon": [[0, 0], [1, 0], [0, 1]]},
    {"layout": "umap", "polygon": [[0, 0], [1, 0]]},
    {"layout": "umap", "polygon": [[0, 0], [1, 0], [0, True]]},
    {"layout": "umap", "polygon": [[0, 0], [1, 0], [0, "1"]]},
    {"layout": "umap", "polygon": [[0, 0], [1, 0], [0, math.nan]]},
    {"layout": "umap", "polygon": [[0, 0], [1, 0], [0, -(10**400)]]},
    {"layout": "umap", "polygon": [[0, 0], [1, 0], {"u": 0, "v": 1}]},
    {"layout": "umap", "polygon": {"0": [0, 0], "1": [1, 0], "2": [0, 1]}},
    {"layout": "umap", "polygon": "0,0;1,0;0,1"},
)


def some_selection(draw: np.random.Generator, spread: float = 1.0) -> Selection:
    """Any polygon, most of them crossing themselves."""
    corners = draw.normal(size=(draw.integers(3, MOST + 1), 2)) * spread
    return Selection(draw.choice(["pca", "umap"]).item(), tuple((u, v) for u, v in corners.tolist()))


class TestAddress:
    def test_the_example_of_the_page(self) -> None:
        found = Selection.parse("umap:0.1,0.2;0.3,0.4;0.5,-1e-6")
        assert found == Selection("umap", ((0.1, 0.2), (0.3, 0.4), (0.5, -1e-6)))
        assert found is not None
        assert found.text() == "umap:0.1,0.2;0.3,0.4;0.5,-0.000001"

    def test_any_selection_comes_back_from_the_address_and_from_json(self) -> None:
        draw = np.random.default_rng(0)
        for _ in range(300):
            one = some_selection(draw, 10.0 ** draw.integers(-5, 4))
            assert Selection.parse(one.text()) == one
            assert Selection.from_data(json.loads(json.dumps(one.as_data()))) == one

    def test_corners_are_rounded_to_six_decimals_without_minus_zero(self) -> None:
        one = Selection("pca", ((0.123456789, -1e-9), (1, 0), (0, 1)))
        assert one.polygon[0] == (0.123457, 0.0)
        assert math.copysign(1, one.polygon[0][1]) == 1
        assert one.text().startswith("pca:0.123457,0;1,0;")

    @pytest.mark.parametrize("text", HOSTILE)
    def test_what_is_no_selection_is_none(self, text: Any) -> None:
        assert Selection.parse(text) is None

    @pytest.mark.parametrize("said", NONSENSE)
    def test_what_a_browser_should_not_send_is_none(self, said: Any) -> None:
        assert Selection.from_data(said) is None

    def test_random_text_never_raises(self) -> None:
        draw = np.random.default_rng(1)
        letters = np.array(list("umappc::0123456789.,;-e"))
        for _ in range(2000):
            found = Selection.parse("umap:0,0;1,0;0,1" + "".join(draw.choice(letters, draw.integers(12))))
            assert found is None or Selection.parse(found.text()) == found

    def test_a_selection_of_our_own_making_is_checked(self) -> None:
        with pytest.raises(SettingsError, match="3 to 64 corners"):
            Selection("umap", TRIANGLE[:2])
        with pytest.raises(SettingsError, match="3 to 64 corners"):
            Selection("pca", ((1e6, 1e6), *TRIANGLE))


def slow(polygon: tuple[tuple[float, float], ...], u: float, v: float) -> bool:
    """Cast a ray to the right and count the edges it crosses."""
    crossings = 0
    for k in range(len(polygon)):
        (ua, va), (ub, vb) = polygon[k - 1], polygon[k]
        if (vb > v) == (va > v):
            continue
        if u < (ua - ub) * (v - vb) / (va - vb) + ub:
            crossings += 1
    return crossings % 2 == 1


class TestInside:
    def test_as_counting_crossings_point_by_point(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(selection, "BLOCK", 64)
        draw = np.random.default_rng(2)
        for _ in range(40):
            one = some_selection(draw)
            units = draw.normal(size=(300, 2)).astype(np.float32)
            expected = [slow(one.polygon, u, v) for u, v in units.tolist()]
            assert one.inside(units).tolist() == expected
            assert any(expected)

    def test_points_on_corners_and_edges_fall_as_in_the_rule(self) -> None:
        grid = np.stack(np.meshgrid(np.arange(-1, 3), np.arange(-1, 3)), axis=-1).reshape(-1, 2).astype(np.float32)
        for polygon in (TRIANGLE, ((0, 0), (1, 0), (1, 1), (0, 1)), ((0, 0), (2, 2), (2, 0), (0, 2))):
            one = Selection("pca", tuple((float(u), float(v)) for u, v in polygon))
            assert one.inside(grid).tolist() == [slow(one.polygon, u, v) for u, v in grid.tolist()]

    def test_a_hole_of_a_polygon_that_crosses_itself_is_outside(self) -> None:
        angles = [math.pi / 2 + 4 * math.pi * k / 5 for k in range(5)]
        star = Selection("pca", tuple((math.cos(a), math.sin(a)) for a in angles))
        tip, middle = (0.0, 0.8), (0.0, 0.0)
        assert star.inside(np.array([tip, middle], dtype=np.float32)).tolist() == [True, False]

    def test_the_area_of_a_polygon_without_crossings(self) -> None:
        angles = np.linspace(0, 2 * np.pi, MOST, endpoint=False)
        radius = np.where(np.arange(MOST) % 2, 0.9, 0.5)
        corners = np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)
        following = np.roll(corners, -1, axis=0)
        shoelace = 0.5 * abs((corners[:, 0] * following[:, 1] - corners[:, 1] * following[:, 0]).sum())
        draws = np.random.default_rng(3).uniform(-1, 1, size=(200_000, 2)).astype(np.float32)
        share = Selection("umap", tuple((u, v) for u, v in corners.tolist())).inside(draws).mean()
        error = 5 * math.sqrt(share * (1 - share) / len(draws))  # five standard errors of the share
        assert share == pytest.approx(shoelace / 4, abs=error)

    def test_no_points_and_points_without_a_place_are_not_inside(self) -> None:
        everything = Selection("pca", ((-9e4, -9e4), (9e4, -9e4), (9e4, 9e4), (-9e4, 9e4)))
        units = in_map_units(np.array([[0, 0], [np.nan, 1], [4, np.inf], [2, 8]], dtype=np.float32))
        assert everything.inside(units).tolist() == [True, False, False, True]
        assert everything.inside(np.zeros((0, 2), dtype=np.float32)).shape == (0,)


def float32(value: float) -> float:
    """The nearest float32, by way of its four bytes."""
    found: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return found


def centered(points: NDArray[np.float32]) -> list[list[float]]:
    """What `center` of points.js does, a number at a time: doubles throughout, stored as float32."""
    placed = [(u, v) for u, v in points.tolist() if math.isfinite(u) and math.isfinite(v)]
    left, right = min(u for u, _ in placed), max(u for u, _ in placed)
    low, high = min(v for _, v in placed), max(v for _, v in placed)
    half = max((right - left) / 2, (high - low) / 2) or 1
    middle = (left + right) / 2, (low + high) / 2
    return [
        [float32((u - middle[0]) / half), float32((v - middle[1]) / half)]
        if math.isfinite(u) and math.isfinite(v)
        else [1e6, 1e6]
        for u, v in points.tolist()
    ]


class TestMapUnits:
    def test_the_same_bits_as_the_browser(self) -> None:
        draw = np.random.default_rng(4)
        for scale in (1e-20, 1.0, 3e4):
            points = (draw.normal(size=(200, 2)) * [scale, 0.3 * scale] + scale).astype(np.float32)
            points[7, 1], points[9, 0] = np.nan, -np.inf
            assert in_map_units(points).tolist() == centered(points)

    def test_the_longer_half_side_is_one(self) -> None:
        units = in_map_units(np.array([[10, 5], [14, 6], [12, 5.5]], dtype=np.float32))
        assert units.tolist() == [[-1, -0.25], [1, 0.25], [0, 0]]

    def test_a_map_of_one_place_or_of_none(self) -> None:
        assert in_map_units(np.full((3, 2), 7, dtype=np.float32)).tolist() == [[0, 0]] * 3
        assert in_map_units(np.full((2, 2), np.nan, dtype=np.float32)).tolist() == [[1e6, 1e6]] * 2
        assert in_map_units(np.zeros((0, 2), dtype=np.float32)).shape == (0, 2)
