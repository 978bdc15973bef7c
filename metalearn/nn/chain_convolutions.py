"""The convolutions of a chain (metalearn/nn/chain.py): forward and backward passes without autograd.

Feature maps lie as [G, n, h, w, c], of G tasks with kernels of their own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from metalearn.nn.chain_layers import Layer, Parameters

# From how many outputs on, of a task in each channel, torch's convolution of 64 channels takes less time than patches and a product of matrices.
# Strided ones take more on processors with AVX2 alone, where torch's backward passes of them are slow. Measured: docs/performance.md.
_MANY, _MANY_STRIDED_AVX2 = 100, 1000


class Convolution:
    """As a product of matrices: the patches [n * h * w, k * k * c] by the kernels [k * k * c, o]."""

    def __init__(self, module: nn.Conv2d, name: str, before_norm: bool) -> None:
        self._weight, self._bias = f"{name}.weight", None if module.bias is None else f"{name}.bias"
        self._size, self._stride = module.kernel_size, module.stride
        assert not isinstance(module.padding, str)
        self._padding = module.padding
        # Batch normalisation takes a bias out again: it need not be added, and its gradient is 0 where autograd finds rounding errors.
        self._before_norm = before_norm
        self._key: tuple[object, ...] | None = None

    def _make_room(self, x: Tensor) -> None:
        """Memory that all calls with inputs like x use."""
        key = (x.shape, x.dtype)
        if key == self._key:
            return
        self._key = key
        tasks, n, height, width, c = x.shape
        down, across = self._padding
        self._padded = x.new_zeros(tasks, n, height + 2 * down, width + 2 * across, c)
        self._by_padded = torch.empty_like(self._padded)  # its gradient
        self._windows = windows_of(self._padded, self._size, self._stride)
        h, w = self._windows.shape[2:4]
        self._patches = torch.empty_like(self._windows, memory_format=torch.contiguous_format)
        self._rows = self._patches.view(tasks, n * h * w, -1)

    def _inside(self, padded: Tensor) -> Tensor:
        (down, across), (height, width) = self._padding, padded.shape[2:4]
        return padded[:, :, down : height - down, across : width - across]

    def _cut(self, x: Tensor) -> None:
        """Cuts out the patches."""
        self._make_room(x)
        self._inside(self._padded).copy_(x)
        self._patches.copy_(self._windows)

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        self._cut(x)
        kernels = _matrix(parameters[self._weight])
        out = torch.bmm(self._rows, kernels.transpose(1, 2))
        if self._bias is not None and not self._before_norm:
            out += parameters[self._bias].unsqueeze(1)
        return out.view(*self._patches.shape[:4], -1)

    def backward(self, gradient: Tensor, parameters: Parameters, into: Parameters, needed: bool) -> Tensor | None:
        kernels, of_kernels = _matrix(parameters[self._weight]), _matrix(into[self._weight])
        rows = gradient.reshape(len(kernels), -1, kernels.shape[1])
        for task in range(len(rows)):
            if kernels.shape[2] < kernels.shape[1]:  # the product is faster with its longer side last
                of_kernels[task] = torch.mm(self._rows[task].t(), rows[task]).t()
            else:
                torch.mm(rows[task].t(), self._rows[task], out=of_kernels[task])
        if self._bias is not None:
            into[self._bias].copy_(torch.zeros(()) if self._before_norm else rows.sum(1))
        if not needed:
            return None
        torch.bmm(rows, kernels, out=self._rows)  # nobody needs the patches any more
        put_windows(self._by_padded, self._patches, self._stride)
        return self._inside(self._by_padded)


class NormalisedConvolution(Convolution):
    """The first convolution of a network, together with the batch normalisation behind it: few numbers to a patch, and nobody needs the input's
    gradient.

    The outputs are linear in the patches. So their means and variances, and all that the gradient needs of them, follow from means and covariances
    of the patches: 9 x 9 numbers for images of one channel, where the outputs would be gone through a dozen times.
    """

    def __init__(self, module: nn.Conv2d, name: str, norm: nn.BatchNorm2d, norm_name: str) -> None:
        super().__init__(module, name, before_norm=True)
        self._norm, self._eps = norm_name, norm.eps
        self._of = norm

    def of(self, module: nn.Module | None) -> bool:
        """Whether `module` is the normalisation that is done here."""
        return module is self._of

    def _make_room(self, x: Tensor) -> None:
        """As for `Convolution`; a 1 stands behind the numbers of every patch, so that one product has the sums of what it goes through as well."""
        made = self._key
        super()._make_room(x)
        if self._key is made:
            return
        tasks, length, numbers = self._rows.shape
        self._with_one = self._rows.new_ones(tasks, length, numbers + 1)
        self._rows = self._with_one[..., :numbers]
        self._patches = self._rows.view(self._patches.shape)

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        self._cut(x)
        kernels = _rows_of(parameters[self._weight])  # [G, o, K]
        moments = torch.bmm(self._with_one.transpose(1, 2), self._with_one) / self._with_one.shape[1]
        self._mean = moments[:, -1:, :-1]  # [G, 1, K]
        self._covariance = moments[:, :-1, :-1] - self._mean.transpose(1, 2) * self._mean  # [G, K, K]
        self._by_covariance = torch.bmm(kernels, self._covariance)  # [G, o, K]
        variance = (self._by_covariance * kernels).sum(2, keepdim=True)
        self._inverse = torch.rsqrt(variance.clamp_min(0) + self._eps)  # [G, o, 1]
        self._scale = self._inverse * parameters[f"{self._norm}.weight"].unsqueeze(2)
        scaled = kernels * self._scale
        shift = parameters[f"{self._norm}.bias"].unsqueeze(2) - torch.bmm(scaled, self._mean.transpose(1, 2))
        # The shift within the product: added to it, it would first be written out for every pixel.
        out = torch.bmm(self._with_one, torch.cat([scaled, shift], dim=2).transpose(1, 2))
        return out.view(*self._patches.shape[:4], -1)

    def backward(self, gradient: Tensor, parameters: Parameters, into: Parameters, needed: bool) -> None:
        kernels = _rows_of(parameters[self._weight])
        rows = gradient.reshape(len(kernels), -1, kernels.shape[1])
        by_patches, total = torch.bmm(self._with_one.transpose(1, 2), rows).transpose(1, 2).tensor_split([-1], dim=2)
        centred = by_patches - total * self._mean  # [G, o, K], of by_patches [G, o, K] and total [G, o, 1]
        # The sum of the gradient times what was normalised.
        along = (centred * kernels).sum(2, keepdim=True) * self._inverse
        of_kernels = self._scale * (centred - along * self._inverse * self._by_covariance)
        into_rows = into[self._weight].permute(0, 1, 3, 4, 2)  # in whatever order they lie
        into_rows.copy_(of_kernels.view(into_rows.shape))
        into[f"{self._norm}.bias"].copy_(total.squeeze(2))
        into[f"{self._norm}.weight"].copy_(along.squeeze(2))
        if self._bias is not None:
            into[self._bias].zero_()


class DirectConvolution:
    """By torch's convolution, one task after another: for tasks of many images, where patches would not stay in the cache."""

    def __init__(self, module: nn.Conv2d, name: str, before_norm: bool) -> None:
        self._weight, self._bias = f"{name}.weight", None if module.bias is None else f"{name}.bias"
        assert not isinstance(module.padding, str)
        self._how = (module.stride, module.padding, module.dilation)
        self._before_norm = before_norm  # as for Convolution

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        self._x = x
        out = _together(
            [
                functional.conv2d(images.permute(0, 3, 1, 2), kernels, None, *self._how).permute(0, 2, 3, 1)
                for images, kernels in zip(x, parameters[self._weight], strict=True)
            ]
        )
        if self._bias is not None and not self._before_norm:
            out += parameters[self._bias].view(len(out), 1, 1, 1, -1)
        return out

    def backward(self, gradient: Tensor, parameters: Parameters, into: Parameters, needed: bool) -> Tensor | None:
        by_x = []
        for task, kernels in enumerate(parameters[self._weight]):
            by_images, by_kernels, _ = torch.ops.aten.convolution_backward(
                gradient[task].permute(0, 3, 1, 2),
                self._x[task].permute(0, 3, 1, 2),
                kernels,
                None,
                *self._how,
                False,
                (0, 0),
                1,
                (needed, True, False),
            )
            into[self._weight][task] = by_kernels
            if needed:
                by_x.append(by_images.permute(0, 2, 3, 1))
        if self._bias is not None:
            into[self._bias].copy_(torch.zeros(()) if self._before_norm else gradient.sum((1, 2, 3)))
        del self._x
        return _together(by_x) if needed else None


class ConvolutionBySize:
    """Directly where a task has many outputs, by the patches where it has few: each takes less time there."""

    def __init__(self, module: nn.Conv2d, name: str, before_norm: bool) -> None:
        self._direct, self._by_patches = (kind(module, name, before_norm) for kind in (DirectConvolution, Convolution))
        self._chosen: Layer = self._direct
        self._of, self._many = module, many(module)

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        self._chosen = self._direct if outputs_of(self._of, x) >= self._many else self._by_patches
        return self._chosen.forward(x, parameters)

    def backward(self, gradient: Tensor, parameters: Parameters, into: Parameters, needed: bool) -> Tensor | None:
        return self._chosen.backward(gradient, parameters, into, needed)


def many(module: nn.Conv2d) -> int:
    """From how many outputs on, of a task in each channel, the convolution is torch's own."""
    slow = max(module.stride) > 1 and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return _MANY_STRIDED_AVX2 if slow else _MANY


def outputs_of(module: nn.Conv2d, x: Tensor) -> int:
    """How many numbers a convolution makes of x [T, n, h, w, c], for a task and channel."""
    size, stride, padding = module.kernel_size, module.stride, module.padding
    assert not isinstance(padding, str)
    sides = ((x.shape[i + 2] + 2 * padding[i] - size[i]) // stride[i] + 1 for i in (0, 1))
    return x.shape[1] * math.prod(sides)


def windows_of(padded: Tensor, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """The patches of maps [T, n, H, W, c], the same memory: [T, n, h, w, k, k, c]."""
    h, w = ((padded.shape[i + 2] - size[i]) // stride[i] + 1 for i in (0, 1))
    s = padded.stride()
    shape = (*padded.shape[:2], h, w, *size, padded.shape[-1])
    return padded.as_strided(shape, (s[0], s[1], stride[0] * s[2], stride[1] * s[3], *s[2:]), padded.storage_offset())


def put_windows(maps: Tensor, patches: Tensor, stride: tuple[int, ...]) -> None:
    """Makes maps [T, n, H, W, c] the sum of patches [T, n, h, w, k, k, c], each where `windows_of` sees it, and 0 where there is none.

    Windows that are `stride` apart share no number: columns of a patch, as many as the stride is long, are put there at once, the first of each place
    without the zeros they would be added to.
    """
    h, w, height, width = patches.shape[2:6]
    down, across = stride
    if height < down or width < across:
        maps.zero_()  # windows leave gaps
    else:
        maps[:, :, down * h :].zero_()
        maps[:, :, :, across * w :].zero_()
    s, start = maps.stride(), maps.storage_offset()
    for i in range(height):
        for j in range(0, width, across):
            columns = patches[..., i, j : j + across, :].flatten(-2)
            shape = (*maps.shape[:2], h, w, columns.shape[-1])
            strides = (*s[:2], down * s[2], across * s[3], 1)
            place = maps.as_strided(shape, strides, start + i * s[2] + j * s[3])
            if i < down and j == 0:
                place.copy_(columns)
            else:
                place.add_(columns)


def _together(tasks: list[Tensor]) -> Tensor:
    """[G, ...], without a copy of one task."""
    return torch.stack(tasks) if len(tasks) > 1 else tasks[0].unsqueeze(0)


def _matrix(kernels: Tensor) -> Tensor:
    """Kernels [G, o, c, k, k] with channels last in memory, seen as [G, o, k * k * c]."""
    return kernels.permute(0, 1, 3, 4, 2).view(*kernels.shape[:2], -1)  # the same memory, or an error


def _rows_of(kernels: Tensor) -> Tensor:
    """Kernels [G, o, c, k, k] as [G, o, k * k * c], a copy where their channels are not last in memory."""
    return kernels.permute(0, 1, 3, 4, 2).flatten(2)
