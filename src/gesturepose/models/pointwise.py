"""1×1 convolutions as affine maps of the channels, which compose and add up.

Between two non-linearities the network of Sec. 3.1 has chains and sums of 1×1 convolutions: 𝒥 is one of the trunk's
head, 𝒫 one of heatmaps, depths and 𝒥, the input of the gesture sub-network one of 𝒥 and 𝒫. Each chain is one matrix,
made of the parameters' small matrices at every step, so that the maps in between are never built.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class PointwiseMap:
    """x ↦ weight · x + bias at every pixel."""

    weight: Tensor  # [out, in]
    bias: Tensor | None = None  # [out]; None where there is none

    @classmethod
    def of(cls, convolution: nn.Module) -> PointwiseMap:
        """A 1×1 convolution's map, with gradients to its parameters."""
        assert isinstance(convolution, nn.Conv2d) and convolution.kernel_size == (1, 1)
        return cls(convolution.weight.flatten(1), convolution.bias)

    def split(self, *sizes: int) -> list[PointwiseMap]:
        """The maps of the input's parts of `sizes` channels, which add up to this one; the first has the bias."""
        first, *rest = self.weight.split(sizes, dim=1)
        return [PointwiseMap(first, self.bias), *map(PointwiseMap, rest)]

    def after(self, inner: PointwiseMap) -> PointwiseMap:
        """x ↦ self(inner(x))."""
        bias = self.bias if inner.bias is None else _sum(self.bias, self.weight @ inner.bias)
        return PointwiseMap(self.weight @ inner.weight, bias)

    def without_bias(self) -> PointwiseMap:
        return PointwiseMap(self.weight)

    def __add__(self, other: PointwiseMap) -> PointwiseMap:
        """x ↦ self(x) + other(x)."""
        return PointwiseMap(self.weight + other.weight, _sum(self.bias, other.bias))

    def __call__(self, x: Tensor) -> Tensor:
        """[N, in, H, W] → [N, out, H, W]."""
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b
