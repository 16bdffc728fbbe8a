"""Procedural rooms: exact depth and semantics, determinism, and their distribution."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.multimae import rooms
from experiments.multimae.rooms import figure, ray_casting
from experiments.multimae.rooms.furniture import FLAT_REGIONS
from experiments.multimae.rooms.ray_casting import Vector
from experiments.multimae.rooms.rendering import _sample
from experiments.multimae.rooms.sampling import RoomDistribution
from experiments.multimae.rooms.scene import NUM_SOLIDS, NUM_SURFACES, Solids
from tests.experiments.multimae import membership

CLUTTERED = RoomDistribution(
    label_tail=0.0, clutter_shares=(0, 0, 0, 1), rare_share=0.5
)
SHAPE = (7, 9)
SEED = 3


def scenes_of(ids, distribution=CLUTTERED):
    """Scenes on the host, leaves `[rooms, ...]`."""
    scenes = _sample(jax.random.key(SEED), jnp.asarray(ids), distribution)
    return jax.tree.map(np.asarray, scenes)


@pytest.fixture(scope="module")
def many():
    """512 cluttered rooms, the first of them those of `rendered`."""
    return scenes_of(np.arange(512))


def row(tree, index) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def directions_of(scene, shape=SHAPE):
    """Rays through the pixels' centres `[h, w, 3]`, written down again."""
    height, width = shape
    camera = scene.camera
    rays = np.empty((height, width, 3))
    for y in range(height):
        for x in range(width):
            across = (2 * (x + 0.5) - width) / max(shape) * float(camera.slope)
            up = (height - 2 * (y + 0.5)) / max(shape) * float(camera.slope)
            rays[y, x] = camera.forward + across * camera.right + up * camera.up
    return rays


def test_the_camera_is_orthonormal_and_looks_forward(many):
    camera = many.camera
    axes = np.stack([camera.right, camera.up, camera.forward], axis=1)
    gram = np.einsum("nik,njk->nij", axes, axes)
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(3), gram.shape), atol=1e-5)
    assert (camera.up[:, 1] > 0.5).all()  # not upside down


@pytest.fixture(scope="module")
def rendered():
    return rooms.render(np.arange(16), SHAPE, seed=SEED, rooms=CLUTTERED)


def test_depth_is_where_a_march_first_meets_a_solid_or_the_room(rendered, many):
    scenes, pictures = many, rendered
    num_solid = 0
    for i in range(16):
        scene = row(scenes, i)
        rays, depth = directions_of(scene), np.asarray(pictures.depth[i], float)
        start = np.asarray(scene.camera.position, float)
        points = start + depth[..., None] * rays
        low = np.array([-scene.room[0], 0, -scene.room[2]])
        high = scene.room * np.array([1, 1, 1])
        gap = np.minimum(points - low, high - points).min(axis=-1)
        at_room = np.abs(gap) < 1e-4
        assert gap.min() > -1e-4  # nothing is seen outside of the room
        at_solid = membership.is_in_any(scene, points, grow=1e-4)
        assert (at_room | at_solid).all()  # each hit is on a surface
        num_solid += int((at_solid & ~at_room).sum())
        # and nothing is nearer: no solid contains a point of the way to it
        steps = np.linspace(0, 1, 200, endpoint=False)[:, None, None, None]
        way = start + steps * (depth[..., None] - 2e-3) * rays
        assert not membership.is_in_any(scene, way, grow=-1e-4).any()
    assert num_solid > 200  # furniture and rooms are both seen


def test_semantics_are_those_of_the_surface_at_that_depth(rendered, many):
    scenes, pictures = many, rendered
    seen = set()
    for i in range(16):
        scene, semantics = row(scenes, i), pictures.semantics[i]
        rays = directions_of(scene)
        points = scene.camera.position + pictures.depth[i][..., None] * rays
        classes = scene.materials.semantics
        # Points on the walls, floor and ceiling, by their plane and flat regions.
        for y, x in np.ndindex(*SHAPE):
            point, own = points[y, x], int(semantics[y, x])
            owners = [
                int(classes[n])
                for n in range(NUM_SOLIDS)
                if membership.is_in_surface(scene, n, point[None], grow=1e-3)[0]
            ]
            assert own in owners or own in classes_on_planes(scene, point)
            seen.add(own)
    assert len(seen) == len(rooms.CLASSES)  # all classes occur in 16 rooms


def classes_on_planes(scene, point):
    """The classes that a point on the room's planes may have."""
    found = []
    sides = [-scene.room[0], scene.room[0], 0, scene.room[1]]
    sides += [-scene.room[2], scene.room[2]]
    for plane, side in enumerate(sides):
        axis = plane // 2
        if abs(point[axis] - side) > 1e-3:
            continue
        u, v = point[[[2, 1], [0, 2], [0, 1]][axis]]
        covering = [
            n
            for n in range(len(FLAT_REGIONS))
            if scene.regions.plane[n] == plane
            and scene.regions.half[n][0] > 0
            and is_covered(row(scene.regions, n), u, v)
        ]
        number = NUM_SOLIDS + (covering[-1] if covering else len(FLAT_REGIONS) + plane)
        found.append(int(scene.materials.semantics[number]))
    return found


def is_covered(region, u, v):
    x, y = np.abs(np.array([u, v]) - region.center) / region.half
    return x**2 + y**2 <= 1 if region.is_ellipse else max(x, y) <= 1


def solid(profile=(0.0, 0.0, 0.0), half=(1.0, 1.0, 1.0), angle=0.0):
    return Solids(
        jnp.zeros(3),
        jnp.array(half, jnp.float32),
        jnp.array([np.cos(angle), np.sin(angle)], jnp.float32),
        jnp.array(profile, jnp.float32),
    )


SPHERE, CYLINDER, CONE = (1.0, 0.0, -1.0), (0.0, 0.0, -1.0), (-0.25, 0.5, -0.25)


@pytest.mark.parametrize(
    ("hit", "shape", "start", "direction", "expected"),
    [
        (ray_casting.hit_box, solid(), (-3, 0, 0), (1, 0, 0), 2),
        (ray_casting.hit_box, solid(), (-3, 0, 0), (2, 0, 0), 1),
        (ray_casting.hit_box, solid(), (-3, 2, 0), (1, 0, 0), np.inf),
        (ray_casting.hit_box, solid(angle=np.pi / 4), (-3, 0, 0), (1, 0, 0),
         3 - 2**0.5),
        (ray_casting.hit_box, solid(half=(1, 1, 2)), (0, 0, -3), (0, 0, 1), 1),
        (ray_casting.hit_box, solid(half=(2, 1, 1), angle=np.pi / 2), (0, 0, -3),
         (0, 0, 1), 1),
        (ray_casting.hit_box, solid(), (-3, 0, 0), (-1, 0, 0), np.inf),
        # between the legs, and through one
        (ray_casting.hit_legs, solid((0.1, 0, 0)), (-3, 0, 0), (1, 0, 0), np.inf),
        (ray_casting.hit_legs, solid((0.1, 0, 0)), (-3, 0, 0.95), (1, 0, 0), 2),
        (ray_casting.hit_legs, solid((0.1, 0, 0)), (0, 0, 0), (1, 0, 1), 0.9),
        (ray_casting.hit_round, solid(SPHERE), (-3, 0, 0), (1, 0, 0), 2),
        (ray_casting.hit_round, solid(SPHERE), (-3, 0, 0.6), (1, 0, 0), 2.2),
        (ray_casting.hit_round, solid(SPHERE, (2, 1, 1)), (-3, 0, 0.6), (1, 0, 0), 1.4),
        (ray_casting.hit_round, solid(CYLINDER), (-3, 0.5, 0), (1, 0, 0), 2),
        (ray_casting.hit_round, solid(CYLINDER), (-3, 1.5, 0), (1, 0, 0), np.inf),
        (ray_casting.hit_round, solid(CYLINDER), (0.5, 3, 0), (0, -1, 0), 2),
        (ray_casting.hit_round, solid(CYLINDER), (1.5, 3, 0), (0, -1, 0), np.inf),
        # the cone's radius is (1 - y) / 2: ½ at its middle, 0 at its top
        (ray_casting.hit_round, solid(CONE), (-3, 0, 0), (1, 0, 0), 2.5),
        (ray_casting.hit_round, solid(CONE), (-3, 0.5, 0), (1, 0, 0), 2.75),
        (ray_casting.hit_round, solid(CONE), (0.5, 3, 0), (0, -1, 0), 3),
        (ray_casting.hit_round, solid(CONE), (0.5, -3, 0), (0, 1, 0), 2),
        (ray_casting.hit_round, solid(CONE), (-3, -0.5, 0), (1, 0, 0), 2.25),
        # along its other side, where the quadratic term vanishes
        (ray_casting.hit_round, solid(CONE), (-2, 2, 0), (1, -2, 0), 1.25),
    ],
)  # fmt: skip
def test_primitives_are_met_where_geometry_says(hit, shape, start, direction, expected):
    def vector(values):
        return Vector(*(jnp.float32(value) for value in values))

    t = hit(shape, vector(start), vector(direction))
    np.testing.assert_allclose(t, expected, rtol=1e-5)


def test_a_room_depends_on_its_seed_and_id_alone(rendered):
    backwards = rooms.render(
        np.arange(16)[::-1].copy(), SHAPE, seed=SEED, rooms=CLUTTERED
    )
    jax.tree.map(np.testing.assert_array_equal, row(backwards, slice(None, None, -1)),
                 rendered)  # fmt: skip
    other = rooms.render(np.arange(16), SHAPE, seed=SEED + 1, rooms=CLUTTERED)
    assert not np.allclose(other.depth, rendered.depth, atol=0.1)


def test_supersampling_changes_rgb_alone(rendered):
    smooth = rooms.render(
        np.arange(16), SHAPE, seed=SEED, rooms=CLUTTERED, supersample=3
    )
    np.testing.assert_allclose(rendered.depth, smooth.depth, atol=2e-4)
    np.testing.assert_array_equal(rendered.semantics, smooth.semantics)
    assert 0 <= smooth.rgb.min() < smooth.rgb.max() <= 1
    # The same pictures, but for edges and textures.
    difference = np.abs(rendered.rgb - smooth.rgb)
    assert 0.005 < difference.mean() < 0.1


def test_a_pool_has_the_rendered_rooms_whatever_its_batches(rendered):
    own = {"seed": SEED, "rooms": CLUTTERED, "batch_size": 3}
    pool, groups = rooms.make_pool(7, SHAPE, first_id=2, **own)
    batch = pool.take(np.arange(7))
    expected = row(rendered, slice(2, 9))
    np.testing.assert_allclose(batch["rgb"], 255 * expected.rgb, atol=0.51)
    np.testing.assert_allclose(batch["depth"], expected.depth, atol=4e-3)
    np.testing.assert_array_equal(batch["semantics"], expected.semantics)
    for labels in (batch["label"], groups.label):
        np.testing.assert_array_equal(labels, expected.label)
    np.testing.assert_array_equal(groups.clutter, expected.clutter)
    assert batch["rgb"].dtype == batch["semantics"].dtype == np.uint8
    # A part of the same data set is the same, bit for bit.
    part, _ = rooms.make_pool(3, SHAPE, first_id=5, **own)
    jax.tree.map(
        np.testing.assert_array_equal,
        part.take(np.arange(3)),
        pool.take(np.arange(3, 6)),
    )
    numbers = rooms.group_numbers(groups)
    assert [rooms.GROUP_NAMES[n] for n in numbers] == [
        f"{rooms.LABELS[label]}, clutter {level}"
        for label, level in zip(groups.label, groups.clutter, strict=True)
    ]


@pytest.fixture(scope="module")
def uneven():
    """2,000 rooms without variation, from empty to fairly full."""
    return scenes_of(
        np.arange(2000),
        RoomDistribution(1.0, (0.5, 0.3, 0.2, 0.0), rare_share=0.25, variation=0.0),
    )


def test_the_distribution_is_what_was_asked_for(uneven):
    shares = np.bincount(uneven.label, minlength=10) / 2000
    expected = 1 / np.arange(1, 11)
    np.testing.assert_allclose(shares, expected / expected.sum(), atol=0.03)
    clutter = np.bincount(uneven.clutter, minlength=4) / 2000
    np.testing.assert_allclose(clutter, [0.5, 0.3, 0.2, 0.0], atol=0.03)
    assert abs(uneven.is_rare.mean() - 0.25) < 0.03
    # Fuller rooms have more solids.
    counts = [
        (family.center[..., 1] > -50).sum(axis=1)
        for family in (uneven.boxes, uneven.legs, uneven.rounds)
    ]
    total = np.sum(counts, axis=0)
    means = [total[uneven.clutter == level].mean() for level in range(3)]
    assert means[0] + 2 < means[1] < means[2] - 2
    assert uneven.materials.semantics.shape == (2000, NUM_SURFACES)


def test_without_variation_rooms_of_a_type_have_one_layout(uneven):
    is_library = uneven.label == rooms.LABELS.index("library")
    sizes = uneven.boxes.half[is_library & (uneven.clutter == 0)]
    assert len(sizes) > 2
    np.testing.assert_allclose(sizes, np.broadcast_to(sizes[0], sizes.shape))


def test_next_to_no_room_has_more_solids_than_fit(many):
    for family in (many.boxes, many.legs, many.rounds):
        is_full = (family.center[..., 1] > -50).all(axis=1)
        assert is_full.mean() < 0.02


def test_cameras_and_lights_are_in_free_space(many):
    for i in range(100):
        scene = row(many, i)
        spots = np.stack([scene.camera.position, scene.light.position])
        assert not membership.is_in_any(scene, spots).any()
        assert (np.abs(spots[:, [0, 2]]) < scene.room[[0, 2]]).all()
        assert (spots[:, 1] < scene.room[1]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clutter_shares": (1.0, 0.0)}, "clutter_shares must be 4 shares"),
        ({"clutter_shares": (0, 0, 0, 0)}, "clutter_shares must be 4 shares"),
        ({"rare_share": 1.5}, "rare_share must lie in"),
        ({"label_tail": -1.0}, "label_tail must lie in"),
        ({"variation": float("nan")}, "variation must lie in"),
    ],
)
def test_distributions_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RoomDistribution(**arguments)


def test_bad_shapes_and_ids_are_refused():
    with pytest.raises(ValueError, match="shape must be"):
        rooms.render(np.arange(1), (8,), seed=0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="supersample must be"):
        rooms.render(np.arange(1), (8, 8), seed=0, supersample=0)
    with pytest.raises(ValueError, match="ids must lie"):
        rooms.make_pool(0, (8, 8), seed=0)


def test_the_montage_has_three_rows_for_each_row_of_rooms(rendered):
    picture = figure.montage(rendered, num_columns=8)
    assert picture.shape == (2 * 3 * (7 + 4), 8 * (9 + 4), 3)
    np.testing.assert_allclose(picture[2:9, 2:11], rendered.rgb[0])
