"""The 21-joint hand: names, order, tree and the three scales of Sec. 3.3.

Everything in memory uses one order: wrist, then thumb, index, middle, ring, pinky, each from MCP to TIP.
FPHA's files use another (wrist, five MCPs, then PIP-DIP-TIP finger by finger); only the reader and the writer know it.
"""

from __future__ import annotations

from typing import Final

FINGERS: Final = ("thumb", "index", "middle", "ring", "pinky")
SEGMENTS: Final = ("mcp", "pip", "dip", "tip")
JOINT_NAMES: Final = ("wrist", *(f"{finger}_{segment}" for finger in FINGERS for segment in SEGMENTS))
JOINTS: Final = len(JOINT_NAMES)  # 21
WRIST: Final = 0
MIDDLE_MCP: Final = JOINT_NAMES.index("middle_mcp")

# joints_here = joints_fpha[FROM_FPHA]; joints_fpha = joints_here[TO_FPHA]
FROM_FPHA: Final = (0, 1, 6, 7, 8, 2, 9, 10, 11, 3, 12, 13, 14, 4, 15, 16, 17, 5, 18, 19, 20)
TO_FPHA: Final = tuple(FROM_FPHA.index(joint) for joint in range(JOINTS))

# One parent per joint; the wrist is its own.
PARENTS: Final = (0, *(0 if segment == 0 else 4 * finger + segment for finger in range(5) for segment in range(4)))
BONES: Final = tuple((PARENTS[joint], joint) for joint in range(1, JOINTS))  # 20 pairs (parent, child)

# Level 2 of Sec. 3.3: five fingers and the palm. The palm holds the wrist and the five MCPs by default.
_PALM_WITH_MCP: Final = (0, 1, 5, 9, 13, 17)
HAND_PARTS: Final[dict[str, tuple[tuple[int, ...], ...]]] = {
    "wrist_and_mcp": (*(tuple(4 * f + s for s in (2, 3, 4)) for f in range(5)), _PALM_WITH_MCP),
    "wrist": (*(tuple(4 * f + s for s in (1, 2, 3, 4)) for f in range(5)), (WRIST,)),
}
