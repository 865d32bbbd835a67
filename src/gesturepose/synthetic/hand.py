"""A right hand that bends: bone lengths by subject, joint limits and forward kinematics. NumPy only.

The hand's own frame, in mm: the wrist is the origin, x points to the little finger's side (ulnar), y along the middle
metacarpal to the fingers (distal), z out of the back of the hand (dorsal). Seen from behind, fingers up, x goes right.

Every finger bends in one plane. Its angles are abduction (in the palm's plane, positive to the ulnar side), then the
flexion of MCP, PIP and DIP (positive to the palm). The thumb's first joint in the files is its carpal one, a saddle:
`radial` swings the thumb away from the index in the palm's plane, `palmar` lifts it out of that plane, `roll` turns the
plane in which the last two joints bend; 0° bends it across the palm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gesturepose.skeleton import FINGERS

Array = NDArray[np.float64]

# Wrist → middle MCP of subjects 1 to 6: the one bone FPHA holds constant per subject.
METACARPAL_MM: Final = (77.0, 70.0, 69.0, 66.0, 67.0, 67.0)

# The remaining bones of a hand whose middle metacarpal is 70 mm long.
_REFERENCE_MM: Final = 70.0
_PALM_MM: Final = np.array(  # thumb's carpal joint, then the MCPs of index, middle, ring and pinky
    [[-21.0, 24.0, -10.0], [-22.0, 68.0, 0.0], [0.0, 70.0, 0.0], [18.0, 65.0, -1.0], [33.0, 57.0, -5.0]]
)
_PHALANGES_MM: Final = np.array(
    [[41.0, 33.0, 26.0], [42.0, 25.0, 21.0], [46.0, 29.0, 22.0], [43.0, 27.0, 22.0], [33.0, 20.0, 19.0]]
)
_ANATOMY_STREAM: Final = 21  # keeps the subjects' bones apart from every other random stream
_VARIATION: Final = 0.03  # relative standard deviation of a bone between subjects, beside the size

# Columns of an articulation: the thumb's five angles, then four for each finger.
ANGLES: Final = (
    *("thumb_radial", "thumb_palmar", "thumb_roll", "thumb_mcp", "thumb_ip"),
    *(f"{finger}_{angle}" for finger in FINGERS[1:] for angle in ("abduction", "mcp", "pip", "dip")),
)
_FINGER_LIMITS_DEG: Final = ((-25.0, 25.0), (-20.0, 95.0), (-5.0, 110.0), (-5.0, 80.0))
LIMITS_DEG: Final = np.array(  # [21, 2] least and greatest angle
    [(-10.0, 75.0), (-15.0, 70.0), (-45.0, 75.0), (-20.0, 65.0), (-25.0, 85.0), *(_FINGER_LIMITS_DEG * 4)]
)


@dataclass(frozen=True)
class Anatomy:
    """One subject's bones."""

    palm_mm: Array  # [5, 3] the first joint of each finger in the hand's frame
    phalanges_mm: Array  # [5, 3] lengths of the three bones beyond it


def anatomy(subject: int) -> Anatomy:
    """The bones of a subject from 1 to 6; the same in every root, whatever its seed."""
    rng = np.random.default_rng([_ANATOMY_STREAM, subject])
    scale = METACARPAL_MM[subject - 1] / _REFERENCE_MM
    palm_mm = _PALM_MM * scale * (1.0 + _VARIATION * rng.standard_normal((5, 1)).clip(-2.0, 2.0))
    palm_mm[2] *= METACARPAL_MM[subject - 1] / np.linalg.norm(palm_mm[2])
    finger = rng.standard_normal((5, 1)).clip(-2.0, 2.0)
    bone = rng.standard_normal((5, 3)).clip(-2.0, 2.0)
    return Anatomy(palm_mm, _PHALANGES_MM * scale * (1.0 + _VARIATION * (0.8 * finger + 0.6 * bone)))


def within_limits(angles_deg: Array) -> Array:
    """[..., 21] angles pushed back into their joints' ranges."""
    return np.clip(angles_deg, LIMITS_DEG[:, 0], LIMITS_DEG[:, 1])


def pose_hand(bones: Anatomy, angles_deg: Array) -> Array:
    """[T, 21] angles (columns `ANGLES`) → [T, 21, 3] joints in the hand's frame, mm, in the order of `skeleton`."""
    angles = np.deg2rad(angles_deg)
    joints_mm = np.zeros((len(angles), 21, 3))
    for finger in range(5):
        if finger == 0:
            along, towards = _thumb_plane(angles[:, 0], angles[:, 1], angles[:, 2])
            bend = np.cumsum(np.concatenate([np.zeros((len(angles), 1)), angles[:, 3:5]], axis=1), axis=1)
        else:
            abduction, *_ = columns = angles[:, 4 * finger + 1 : 4 * finger + 5].T
            along = np.stack([np.sin(abduction), np.cos(abduction), np.zeros_like(abduction)], axis=-1)
            towards = np.broadcast_to(np.array([0.0, 0.0, -1.0]), along.shape)
            bend = np.cumsum(np.stack(list(columns[1:]), axis=-1), axis=1)
        directions = np.cos(bend)[..., None] * along[:, None] + np.sin(bend)[..., None] * towards[:, None]  # [T, 3, 3]
        chain_mm = np.cumsum(directions * bones.phalanges_mm[finger][:, None], axis=1)
        joints_mm[:, 4 * finger + 1] = bones.palm_mm[finger]
        joints_mm[:, 4 * finger + 2 : 4 * finger + 5] = bones.palm_mm[finger] + chain_mm
    return joints_mm


def _thumb_plane(radial: Array, palmar: Array, roll: Array) -> tuple[Array, Array]:
    """[T] saddle angles in rad → the metacarpal's direction and the one its tip bends to, both unit [T, 3]."""
    zero = np.zeros_like(radial)
    in_palm = np.stack([-np.sin(radial), np.cos(radial), zero], axis=-1)
    across = np.stack([np.cos(radial), np.sin(radial), zero], axis=-1)
    out_of_palm = np.array([0.0, 0.0, -1.0])
    along = np.cos(palmar)[:, None] * in_palm + np.sin(palmar)[:, None] * out_of_palm
    lifted = -np.sin(palmar)[:, None] * in_palm + np.cos(palmar)[:, None] * out_of_palm
    return along, np.cos(roll)[:, None] * across + np.sin(roll)[:, None] * lifted
