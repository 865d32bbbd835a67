"""Colours of the traced pixels: skin with nails and creases, sleeve, held object; lights, shadow, ambient occlusion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gesturepose.synthetic import shapes
from gesturepose.synthetic.batching import Batching
from gesturepose.synthetic.field import Table, field_near
from gesturepose.synthetic.props import Prop, prop_coordinates, prop_distance
from gesturepose.synthetic.shapes import Cones, PalmFrame
from gesturepose.synthetic.tracing import Hits

# Display colours of the back of the hand, from light to dark; the palm is lighter and redder.
_SKIN_TONES: Final = ((238, 198, 172), (222, 170, 138), (198, 140, 104), (160, 106, 74), (116, 74, 52), (84, 54, 40))
_CLOTHS: Final = (
    (52, 66, 98),
    (120, 40, 44),
    (60, 62, 66),
    (200, 198, 192),
    (70, 92, 72),
    (150, 128, 98),
    (38, 38, 44),
    (96, 124, 158),
)
_PROP_COLOURS: Final = (
    (190, 44, 40),
    (236, 190, 60),
    (48, 104, 168),
    (236, 232, 222),
    (60, 136, 84),
    (40, 40, 46),
    (226, 128, 52),
    (140, 200, 214),
)
_SHADOW_STEPS_MM: Final = (6.0, 16.0, 36.0)
_AMBIENT_STEPS_MM: Final = (5.0, 15.0)


def linear(colour: tuple[int, ...] | np.ndarray) -> np.ndarray:
    """Display values 0–255 → linear light 0–1 (gamma 2.2)."""
    return (np.asarray(colour, dtype=np.float64) / 255) ** 2.2


@dataclass(frozen=True)
class Look:
    """What one video's hand, sleeve, object and light look like; colours are linear light."""

    back: Tensor  # [3, 1], as all colours here
    palm: Tensor
    nail: Tensor
    cloth: Tensor
    cloth_pattern: int  # 0 plain, 1 stripes, 2 ribs
    prop: Tensor
    prop_band: Tensor  # label or stripe of the object
    prop_gloss: float
    key_direction: Tensor  # [3, 1] unit, towards the light, camera frame
    key: Tensor
    sky: Tensor  # ambient light from above
    ground: Tensor  # and from below
    phase: Tensor  # [8, 1] radians, of the skin's mottling
    gloss: float


def draw_look(random: np.random.Generator, scenario: int, device: torch.device) -> Look:
    """Draws a look; the light's colour and direction depend on the scenario."""
    tone = float(random.beta(1.2, 1.5)) * (len(_SKIN_TONES) - 1)
    low = min(int(tone), len(_SKIN_TONES) - 2)
    tones = [linear(colour) for colour in _SKIN_TONES]
    back = (tones[low] + (tone - low) * (tones[low + 1] - tones[low])) * random.uniform(0.92, 1.08, 3)
    palm = 0.62 * back + 0.38 * linear((236, 178, 158)) * (0.55 + 0.45 * back[0] / tones[0][0])
    nail = 0.55 * palm + 0.45 * linear((240, 188, 180))
    warmth = {0: 0.10, 1: -0.04, 2: 0.05}[scenario] + random.normal(0, 0.05)
    strength = random.uniform(0.95, 1.45)
    key = strength * np.array([1 + warmth, 1.0, 1 - 1.2 * warmth])
    direction = np.array([random.normal(-0.25, 0.55), random.uniform(-1.2, -0.55), random.uniform(-1.0, -0.25)])
    fill = random.uniform(0.30, 0.48)
    sky = fill * np.array([0.96, 1.0, 1.06])
    ground = 0.62 * fill * np.array([1.08, 1.0, 0.92])

    def tensor(value: np.ndarray) -> Tensor:
        return torch.tensor(value, dtype=torch.float32, device=device)[:, None]

    choice = random.choice(len(_PROP_COLOURS), 2, replace=False)
    return Look(
        back=tensor(back),
        palm=tensor(palm),
        nail=tensor(nail),
        cloth=tensor(linear(_CLOTHS[int(random.integers(len(_CLOTHS)))])),
        cloth_pattern=int(random.integers(3)),
        prop=tensor(linear(_PROP_COLOURS[choice[0]])),
        prop_band=tensor(linear(_PROP_COLOURS[choice[1]])),
        prop_gloss=float(random.uniform(0.05, 0.6)),
        key_direction=tensor(direction / np.linalg.norm(direction)),
        key=tensor(key),
        sky=tensor(sky),
        ground=tensor(ground),
        phase=tensor(random.uniform(0, 2 * np.pi, 8)),
        gloss=float(random.uniform(0.10, 0.28)),
    )


def _step(low: float, high: float, value: Tensor) -> Tensor:
    """Smooth step from 0 at `low` to 1 at `high`."""
    x = ((value - low) / (high - low)).clamp(0, 1)
    return x * x * (3 - 2 * x)


def _bump(value: Tensor, width: float) -> Tensor:
    """1 at zero, falling off over `width`."""
    return torch.exp(-(value / width).square().clamp_max_(60))  # denormal numbers are slow


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """[3, M] · [3, M] → [M]; sums over a leading axis of three are fast, over a last one slow."""
    return left[0] * right[0] + left[1] * right[1] + left[2] * right[2]


def _unit(vectors: Tensor) -> Tensor:
    return vectors * _dot(vectors, vectors).clamp_min_(1e-20).rsqrt_()


def _own_features(hits: Hits, table: Table) -> Tensor:
    """[15, M] features of each pixel's nearest cone."""
    row = hits.frame * table.features.shape[1] + hits.cone
    return table.features.flatten(0, 1).T.contiguous()[:, row]


def _skin(hits: Hits, cones: Cones, own: Tensor, palm: PalmFrame, look: Look) -> tuple[Tensor, Tensor]:
    """Albedo [3, M] and gloss [M] of skin; `own` is `_own_features`."""
    frame, cone, along = hits.frame, hits.cone, hits.along
    scale = palm.scale[frame]
    length, root_radius, tip_radius = own[12:15]
    lateral, height = _dot(hits.point - own[0:3], own[9:12]), _dot(hits.point - own[0:3], own[6:9])
    bone = cones.bone[cone]
    back = _dot(hits.normal, hits.dorsal)

    # Mottling: a few sines fixed to the bone, at 30, 11 and 5 mm.
    x, y, z = along / scale + 40.0 * cone, lateral / scale, height / scale
    ph = look.phase
    broad = torch.sin(0.21 * x + 0.17 * y + ph[0]) + torch.sin(0.19 * z - 0.13 * x + ph[1])
    patch = torch.sin(0.57 * x + 0.43 * z + ph[2]) * torch.sin(0.51 * y - 0.37 * x + ph[3])
    grain = torch.sin(1.9 * x + 1.3 * y + ph[4]) * torch.sin(1.7 * z - 0.9 * x + 1.1 * y + ph[5])
    tint = look.palm + (look.back - look.palm) * _step(-0.25, 0.30, back)
    albedo = tint * (1 + 0.035 * broad + 0.04 * patch + 0.03 * grain)

    finger = (bone == shapes.BONE_PROXIMAL) | (bone == shapes.BONE_MIDDLE) | (bone == shapes.BONE_DISTAL)
    start, end = along / scale, (length - along) / scale
    has_root = (bone == shapes.BONE_MIDDLE) | (bone == shapes.BONE_DISTAL)
    has_tip = (bone == shapes.BONE_PROXIMAL) | (bone == shapes.BONE_MIDDLE)
    # mm from the nearest joint inside the finger
    joint = torch.minimum(torch.where(has_root, start.abs(), 99.0), torch.where(has_tip, end.abs(), 99.0))
    palmar = _step(0.15, 0.6, -back) * finger
    crease = (_bump(joint - 0.6, 0.9) + 0.5 * _bump(joint - 3.4, 0.8)) * palmar
    knuckle = _bump(joint, 5.5) * _step(0.2, 0.7, back) * finger
    wrinkle = knuckle * (0.5 + 0.5 * torch.cos(2.3 * joint))
    red = 0.35 * knuckle + 0.45 * _bump(end, 7.0) * (bone == shapes.BONE_DISTAL)
    albedo = albedo * (1 - red * albedo.new_tensor([[0.02], [0.22], [0.24]]))
    dark = (0.42 * crease + 0.30 * wrinkle + 0.5 * _palm_lines(hits, palm) * (~finger)).clamp(0, 0.6)
    albedo = albedo * (1 - dark * albedo.new_tensor([[0.75], [1.0], [1.0]]))

    # Nails.
    rim = length + 0.55 * tip_radius
    base = length - 0.35 * root_radius - 3.0 * scale
    place = (along - 0.5 * (rim + base)) / (0.5 * (rim - base)).clamp_min(1.0)
    shape = place.square().square() + (lateral / (0.80 * tip_radius)).square().square()
    on_nail = (bone == shapes.BONE_DISTAL) & (height > 0.25 * tip_radius)
    nail = (1 - _step(0.72, 1.0, shape)) * on_nail
    border = _bump(shape - 1.05, 0.28) * on_nail
    free = _step(0.62, 0.85, place)
    lunula = 1 - _step(-0.75, -0.45, place)
    plate = look.nail + (0.22 * lunula + 0.40 * free) * (1 - look.nail)
    albedo = albedo * (1 - 0.38 * border)
    albedo = torch.lerp(albedo, plate, 0.85 * nail)
    return albedo, look.gloss + 0.5 * nail


def _palm_lines(hits: Hits, palm: PalmFrame) -> Tensor:
    """Darkness [M] of the three great lines of the palm and the wrist's creases, in the palm's own coordinates."""
    axes = torch.cat([palm.wrist, palm.forward, palm.radial, palm.normal, palm.scale[:, None]], -1)
    own = axes.T.contiguous()[:, hits.frame]  # [13, M]
    offset = (hits.point - own[0:3]) / (own[12] * shapes.NOMINAL_BONE_MM)
    u, v = _dot(offset, own[3:6]), _dot(offset, own[6:9])
    facing = _step(0.2, 0.6, _dot(hits.normal, own[9:12]))
    heart = (
        _bump(u - 0.80 - 0.35 * (v - 0.02) - 0.5 * v.square(), 0.016)
        * _step(-0.45, -0.3, v)
        * (1 - _step(0.12, 0.2, v))
    )
    head = _bump(u - 0.64 - 0.42 * v + 0.2 * v.square(), 0.015) * _step(-0.32, -0.2, v) * (1 - _step(0.28, 0.36, v))
    ring = ((u - 0.30).square() + (v - 0.36).square()).sqrt()
    life = _bump(ring - 0.36, 0.016) * (1 - _step(0.32, 0.40, v)) * _step(-0.02, 0.1, u)
    wrist = _bump(u + 0.02, 0.012) + 0.6 * _bump(u + 0.07, 0.012)
    return facing * (heart + head + life + 0.7 * wrist).clamp_max(1)


def _cloth(hits: Hits, own: Tensor, look: Look) -> Tensor:
    along = hits.along
    around = _dot(hits.point - own[0:3], own[9:12])
    weave = 1 + 0.06 * torch.sin(2.6 * along) * torch.sin(2.6 * around)
    fold = (
        1
        + 0.10 * torch.sin(0.16 * along + 0.05 * around + look.phase[6])
        + 0.05 * torch.sin(0.37 * along - 0.11 * around)
    )
    pattern = torch.ones_like(along)
    if look.cloth_pattern == 1:
        pattern = 1 - 0.45 * _step(0.2, 0.5, torch.sin(0.42 * along))
    elif look.cloth_pattern == 2:
        pattern = 1 - 0.16 * torch.sin(1.1 * around).abs()
    hem = 1 - 0.3 * _bump(along - 9.0, 1.2)
    return look.cloth * (weave * fold * pattern * hem)


def _by_frame(hits: Hits, chosen: Tensor, frames: int, points: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Sorts hits into rows, each of one frame: n frames [n], their hits [n, R] and whether each is there [n, R].

    `chosen` [L] are the hits' numbers, each frame's in its order. One frame at a time, or as many as have `points`
    hits together; short rows end with hits that are there already.
    """
    frame = hits.frame[chosen]
    counts = torch.bincount(frame, minlength=frames).tolist()
    chosen = chosen[frame.argsort(stable=True)]
    begun, first = 0, 0
    while first < frames:
        last, most = first + 1, counts[first]
        while last < frames and (last + 1 - first) * max(most, counts[last]) <= points:
            most = max(most, counts[last])
            last += 1
        if most:
            index = torch.arange(first, last, device=chosen.device)
            count = torch.tensor(counts[first:last], device=chosen.device)[:, None]
            number = torch.arange(most, device=chosen.device).expand(last - first, -1)
            start = begun + count.cumsum(0) - count
            yield index, chosen[(start + number).clamp_max(len(chosen) - 1)], number < count
        begun += sum(counts[first:last])
        first = last


def _prop(hits: Hits, prop: Prop, look: Look, batching: Batching) -> Tensor:
    local = hits.point.new_zeros(hits.point.shape)
    shown = hits.is_prop.nonzero()[:, 0]
    for index, row, there in _by_frame(hits, shown, len(prop.centre), batching.points):
        own = prop_coordinates(prop.frames(index), hits.point[:, row].transpose(0, 1))
        local[:, row[there]] = own.transpose(0, 1)[:, there]
    place = local / prop.half_mm.clamp_min(1.0)[:, None]
    band = _step(0.50, 0.54, place[2].abs()) if prop.kind != "sphere" else _step(-0.03, 0.03, place[0] * place[2])
    colour = torch.lerp(look.prop.expand_as(local), look.prop_band.expand_as(local), band)
    if prop.kind != "sphere":
        # Print on the label: short bars.
        row, column = torch.floor(place[2] * 9), torch.floor(place[1] * 4)
        bars = ((row + 2 * column) % 3 == 0) & (place[2].abs() < 0.4) & (place[1].abs() < 0.7)
        colour = torch.lerp(colour, look.prop_band.expand_as(local), 0.7 * bars.float())
    return colour * (1 + 0.03 * torch.sin(0.9 * local.sum(0)))


def _occlusion(
    hits: Hits, table: Table, prop: Prop | None, look: Look, size: tuple[int, int, int], batching: Batching
) -> tuple[Tensor, Tensor]:
    """Share of the key light [M] and of the ambient light [M] that arrives, found on every other row and column."""
    frames, height, width = size
    rows, columns = -(-height // 2), -(-width // 2)
    grid = hits.point.new_zeros(frames, 3, rows * columns)
    sampled = ((hits.row % 2 == 0) & (hits.column % 2 == 0)).nonzero()[:, 0]
    points = batching.points // table.start.shape[1]
    for index, row, there in _by_frame(hits, sampled, frames, points):
        normal = hits.normal[:, row].transpose(0, 1)
        point = hits.point[:, row].transpose(0, 1) + 0.8 * normal
        to_light = look.key_direction[None].expand_as(point)
        lit = torch.ones_like(point[:, 0])
        open_sky = torch.zeros_like(lit)
        weight = 0.0
        held = prop.frames(index) if prop is not None else None
        for direction, steps, is_shadow in ((to_light, _SHADOW_STEPS_MM, True), (normal, _AMBIENT_STEPS_MM, False)):
            for step, distance in zip(steps, field_near(table, index, point, direction, steps), strict=True):
                if held is not None:
                    distance = torch.minimum(distance, prop_distance(held, point + step * direction))
                if is_shadow:
                    lit = torch.minimum(lit, _step(-1.5, 3.5, distance * (6.0 / (step + 4.0))))
                else:
                    open_sky = open_sky + (distance / step).clamp(0, 1) / step**0.5
                    weight += 1 / step**0.5
        where = row[there]
        place = (hits.row[where] // 2) * columns + hits.column[where] // 2
        found = torch.stack([torch.ones_like(lit), lit, open_sky / weight], -1)
        grid[hits.frame[where], :, place] = found[there]
    grid = functional.avg_pool2d(grid.view(frames, 3, rows, columns), 3, 1, 1)
    wide = functional.interpolate(grid, scale_factor=2, mode="bilinear", align_corners=False)
    mask, lit, open_sky = wide[hits.frame, :, hits.row, hits.column].unbind(-1)
    known = mask > 1e-3
    mask = mask.clamp_min(1e-3)
    return torch.where(known, lit / mask, 0.8), torch.where(known, open_sky / mask, 0.8)


def shade(
    hits: Hits,
    cones: Cones,
    table: Table,
    prop: Prop | None,
    palm: PalmFrame,
    look: Look,
    size: tuple[int, int, int],
    batching: Batching,
) -> Tensor:
    """Display colours [3, M] in 0–1 of all hits; `size` is (frames, height, width)."""
    is_prop = hits.is_prop
    is_cloth = (cones.material[hits.cone] == shapes.CLOTH) & ~is_prop
    own = _own_features(hits, table)
    albedo, gloss = _skin(hits, cones, own, palm, look)
    albedo = torch.where(is_cloth, _cloth(hits, own, look), albedo)
    gloss = torch.where(is_cloth, 0.0, gloss)
    if prop is not None:
        albedo = torch.where(is_prop, _prop(hits, prop, look, batching), albedo)
        gloss = torch.where(is_prop, look.prop_gloss, gloss)
    is_skin = ~(is_prop | is_cloth)

    lit, open_sky = _occlusion(hits, table, prop, look, size, batching)
    normal = hits.normal
    view = _unit(-hits.point)
    cosine, facing = _dot(normal, look.key_direction), _dot(normal, view).clamp(0, 1)
    # Light that enters skin comes out nearby, red farthest: the terminator is soft and reddish.
    wrap = torch.where(is_skin, albedo.new_tensor([[0.30], [0.12], [0.08]]), 0.03)
    diffuse = ((cosine + wrap) / (1 + wrap)).clamp_min(0)
    shadow = lit + (1 - lit) * torch.where(is_skin, albedo.new_tensor([[0.10], [0.03], [0.02]]), 0.0)
    upward = 0.5 - 0.5 * normal[1]
    ambient = (look.ground + (look.sky - look.ground) * upward) * ((0.25 + 0.75 * open_sky) * (0.8 + 0.2 * facing))
    half = _unit(view + look.key_direction)
    shine = _dot(normal, half).clamp(0, 1).log2().mul_(torch.where(is_prop, 40.0, 14.0)).exp2_()
    away = (1 - facing).square_()
    specular = (gloss * shine * (0.25 + 0.75 * away * away) * lit) * look.key
    light = albedo * (diffuse * shadow * look.key + ambient) + specular
    light = light.clamp(1e-4, 1.4)
    return (light / (1 + 0.12 * light)).clamp_max_(1).log2_().mul_(1 / 2.2).exp2_()
