"""The ops that are measured, with their plain counterparts, shapes, dtypes and random inputs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.baselines import eager_ops
from benchmarks.names import DEFAULT_DTYPES, DEFAULT_NAMES
from sivae import ops
from sivae.ops import batch_norm

Function = Callable[..., Tensor | tuple[Tensor, ...]]
Shape = tuple[int, ...]

_SCALE, _BETA_REC, _BETA_NEG = 0.5, 0.2, 0.9  # of exp_elbo: the settings of 8gaussians
_LOSS_Z, _LOSS_BETA_NEG = 512, 256.0  # of the whole loss: latents of an image, and the weight of their kl


@dataclass(frozen=True)
class Inputs:
    """The tensors of one call.

    Attributes:
        arguments: of the function, in order.
        leaves: the arguments that get gradients.
        upstream: the gradients of the function's results.
    """

    arguments: tuple[Tensor, ...]
    leaves: tuple[Tensor, ...]
    upstream: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.arguments, *self.upstream))


@dataclass(frozen=True)
class Sampler:
    """Makes random tensors of one dtype on one device."""

    generator: torch.Generator
    dtype: torch.dtype

    def normal(self, *shape: int, leaf: bool = False) -> Tensor:
        return self._made(torch.randn, shape, leaf)

    def uniform(self, *shape: int, leaf: bool = False) -> Tensor:
        return self._made(torch.rand, shape, leaf)

    def _made(self, draw: Callable[..., Tensor], shape: Shape, leaf: bool) -> Tensor:
        values = draw(shape, generator=self.generator, device=self.generator.device)
        return values.to(self.dtype).requires_grad_(leaf)


@dataclass(frozen=True)
class Operation:
    """One op and its plain counterpart.

    Attributes:
        name: one of `benchmarks.names.OPS`.
        eager: the baseline.
        fused: (backend, noise) -> the op; noise, for an op that draws some: None, or a seed drawn before.
        inputs: makes random inputs of a shape.
        moved: shape -> elements of the inputs' dtype that any implementation must read and write, forward and backward.
        shapes: shapes of real trainings.
        large_shapes: more of them, for a GPU.
        quick_shapes: shapes of a quick run.
        dtypes: dtypes that the op is called with; None: any.
    """

    name: str
    eager: Function
    fused: Callable[[str, ops.PhiloxNoise | None], Function]
    inputs: Callable[[Shape, Sampler], Inputs]
    moved: Callable[[Shape], tuple[int, int]]
    shapes: tuple[Shape, ...]
    quick_shapes: tuple[Shape, ...]
    large_shapes: tuple[Shape, ...] = ()
    dtypes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Case:
    """An operation at a shape, in a dtype."""

    operation: Operation
    shape: Shape
    dtype: str = "float32"

    @property
    def name(self) -> str:
        return f"{self.operation.name} {list(self.shape)} {self.dtype}"

    @property
    def torch_dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def moved_bytes(self, mode: str) -> int:
        """The bytes that any implementation must read and write in one call."""
        forward, backward = self.operation.moved(self.shape)
        elements = {"forward": forward, "backward": backward, "forward+backward": forward + backward}[mode]
        return elements * self.torch_dtype.itemsize

    def random_inputs(self, device: torch.device) -> Iterator[Inputs]:
        """Set after set of random inputs, without end."""
        sampler = Sampler(torch.Generator(device).manual_seed(0), self.torch_dtype)
        while True:
            yield self.operation.inputs(self.shape, sampler)


def _reconstruction_inputs(shape: Shape, sample: Sampler) -> Inputs:
    recon = sample.uniform(*shape, leaf=True)
    return Inputs((recon, sample.uniform(*shape)), (recon,), (sample.normal(shape[0]),))


def _latent_inputs(shape: Shape, sample: Sampler, *, z: bool, kl: bool) -> Inputs:
    leaves = (sample.normal(*shape, leaf=True), sample.normal(*shape, leaf=True))
    upstream = (*([sample.normal(*shape)] if z else []), *([sample.normal(shape[0])] if kl else []))
    return Inputs(leaves, leaves, upstream)


def _exp_elbo_inputs(shape: Shape, sample: Sampler) -> Inputs:
    leaves = (sample.uniform(*shape, leaf=True), sample.uniform(*shape, leaf=True))
    return Inputs(leaves, leaves, (sample.normal(),))


def _loss_inputs(shape: Shape, sample: Sampler) -> Inputs:
    recon, target = sample.uniform(*shape, leaf=True), sample.uniform(*shape)
    mu, logvar = (sample.normal(shape[0], _LOSS_Z, leaf=True) for _ in range(2))
    return Inputs((recon, target, mu, logvar), (recon, mu, logvar), (sample.normal(shape[0], _LOSS_Z), sample.normal()))


def _eager_loss(recon: Tensor, target: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    z, kl = eager_ops.reparameterize_kl(mu, logvar)
    return z, eager_ops.exp_elbo(eager_ops.mse(recon, target), kl, 1 / recon[0].numel(), beta_kl=_LOSS_BETA_NEG)


def _fused_loss(backend: str, noise: ops.PhiloxNoise | None) -> Function:
    def loss(recon: Tensor, target: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
        z, kl = ops.reparameterize_kl(mu, logvar, noise=noise, backend=backend)
        rec = ops.reconstruction_error(recon, target, backend=backend)
        return z, ops.exp_elbo(rec, kl, scale=1 / recon[0].numel(), beta_kl=_LOSS_BETA_NEG, backend=backend)

    return loss


def _fused_exp_elbo(backend: str, noise: ops.PhiloxNoise | None) -> Function:
    return functools.partial(ops.exp_elbo, scale=_SCALE, beta_rec=_BETA_REC, beta_kl=_BETA_NEG, backend=backend)


def _styled_norm_inputs(shape: Shape, sample: Sampler, memory_format: torch.memory_format) -> Inputs:
    batch, channels, *plane = shape
    x, grad_y = (sample.normal(*shape).contiguous(memory_format=memory_format) for _ in range(2))
    x, noise = x.requires_grad_(), sample.normal(batch, 1, *plane)
    noise_weight, bias = (sample.normal(channels, leaf=True) for _ in range(2))
    scale, shift = (sample.normal(batch, channels, leaf=True) for _ in range(2))
    leaves = (x, noise_weight, bias, scale, shift)
    return Inputs((x, noise, *leaves[1:]), leaves, (grad_y,))


def _fused_styled_norm(backend: str, noise: ops.PhiloxNoise | None) -> Function:
    def norm(x: Tensor, noise: Tensor, noise_weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return ops.styled_instance_norm(
            x, noise=noise, noise_weight=noise_weight, bias=bias, scale=scale, shift=shift, backend=backend
        )

    return norm


def _group_norm_inputs(shape: Shape, sample: Sampler, memory_format: torch.memory_format) -> Inputs:
    x, grad_y = (sample.normal(*shape).contiguous(memory_format=memory_format) for _ in range(2))
    leaves = (x.requires_grad_(), *(sample.normal(shape[1], leaf=True) for _ in range(2)))
    return Inputs(leaves, leaves, (grad_y,))


def _groups_of(x: Tensor) -> int:
    return math.gcd(32, x.shape[1])


def _eager_group_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return eager_ops.group_norm_silu(x, weight, bias, _groups_of(x))


def _fused_group_norm(backend: str, noise: ops.PhiloxNoise | None) -> Function:
    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ops.group_norm_silu(x, _groups_of(x), weight, bias, backend=backend)

    return norm


def _batch_norm_inputs(shape: Shape, sample: Sampler) -> Inputs:
    x, residual, grad_y = (sample.normal(*shape).contiguous(memory_format=torch.channels_last) for _ in range(3))
    weight, bias = (sample.normal(shape[1], leaf=True) for _ in range(2))
    leaves = (x.requires_grad_(), weight, bias, residual.requires_grad_())
    return Inputs(leaves, leaves, (grad_y,))


def _fused_batch_norm(backend: str, noise: ops.PhiloxNoise | None) -> Function:
    def norm(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        if backend != "native" or not batch_norm.serves(x):  # as the models do
            return eager_ops.batch_norm_leaky_relu(x, weight, bias, residual)
        return batch_norm.batch_norm_leaky_relu(x, weight, bias, residual=residual, negative_slope=0.2, eps=1e-5)[0]

    return norm


def _chamfer_inputs(shape: Shape, sample: Sampler) -> Inputs:
    clouds = (sample.normal(*shape, leaf=True), sample.normal(*shape, leaf=True))
    return Inputs(clouds, clouds, (sample.normal(shape[0]),))


def _mixture_inputs(shape: Shape, sample: Sampler) -> Inputs:
    rows, components, dims = shape
    z, mu, logvar = (sample.normal(*size, leaf=True) for size in ((rows, dims), (components, dims), (components, dims)))
    weights = torch.softmax(sample.normal(components), 0).requires_grad_()
    leaves = (z, weights, mu, logvar)
    return Inputs(leaves, leaves, (sample.normal(rows),))


def _mixture_moved(shape: Shape) -> tuple[int, int]:
    rows, components, dims = shape
    forward = rows * (dims + 1) + components * (2 * dims + 1)
    return forward, forward + rows * dims + components * (2 * dims + 1)


def _per_element(forward: int, backward: int) -> Callable[[Shape], tuple[int, int]]:
    return lambda shape: (forward * math.prod(shape), backward * math.prod(shape))


def _loss_moved(shape: Shape) -> tuple[int, int]:
    images, latents = math.prod(shape), shape[0] * _LOSS_Z
    return 2 * images + 3 * latents, 3 * images + 5 * latents


_IMAGE_SHAPES: tuple[Shape, ...] = ((32, 3, 32, 32), (32, 3, 256, 256), (4, 3, 1024, 1024), (16, 3, 512, 512))
_LatentOperation = functools.partial(
    Operation,
    shapes=((512, 2), (32, 128), (32, 512), (4096, 512), (8, 4, 128, 128)),
    large_shapes=((65536, 512),),
    quick_shapes=((512, 2), (32, 512)),
)

# `moved` counts these elements. Vectors of one value per sample do not count, unless they are all that there is.
#   reconstruction_error: forward reads recon, target; backward reads both and writes recon's gradient.
#   reparameterize_kl: forward reads mu, logvar and writes z; backward reads mu, logvar, z's gradient and writes two
#       gradients. The noise is computed, not moved.
#   reparameterize: the same without kl's gradient, which needs no mu in backward.
#   gaussian_kl: forward reads mu, logvar; backward reads both and writes two gradients.
#   exp_elbo: forward reads rec, kl; backward reads both and writes two gradients.
#   loss: an image's and a latent's together.
#   styled_instance_norm: forward reads x twice and writes y; backward reads x and y's gradient twice and writes x's.
#       If a cache keeps a plane between the two readings, less is read from memory.
#   group_norm_silu: the same.
#   batch_norm_leaky_relu: forward reads x twice and the residual, and writes y; backward reads x, y and y's gradient
#       twice and writes two gradients.
#   mixture_log_prob: forward reads z and the parameters; backward reads them and writes their gradients. Densities are
#       left out: an implementation may compute them again. Differences take the time, not memory.
#   chamfer_distance: forward reads both clouds; backward reads them and writes two gradients. The positions of the
#       nearest points are left out: an implementation may find them again. Distances take the time, not memory.
OPERATIONS: Mapping[str, Operation] = {
    operation.name: operation
    for operation in (
        Operation(
            "loss",
            _eager_loss,
            _fused_loss,
            _loss_inputs,
            _loss_moved,
            shapes=((32, 3, 256, 256),),
            quick_shapes=((32, 3, 256, 256),),
        ),
        Operation(
            "exp_elbo",
            functools.partial(eager_ops.exp_elbo, scale=_SCALE, beta_rec=_BETA_REC, beta_kl=_BETA_NEG),
            _fused_exp_elbo,
            _exp_elbo_inputs,
            _per_element(2, 4),
            shapes=((512,), (32,)),
            quick_shapes=((512,),),
            dtypes=("float32",),  # rec and kl have it, whatever the images' dtype
        ),
        Operation(
            "reconstruction_error",
            eager_ops.mse,
            lambda backend, noise: functools.partial(ops.reconstruction_error, backend=backend),
            _reconstruction_inputs,
            _per_element(2, 3),
            shapes=_IMAGE_SHAPES,
            large_shapes=((64, 3, 512, 512),),
            quick_shapes=((32, 3, 32, 32), (32, 3, 256, 256)),
        ),
        _LatentOperation(
            "reparameterize_kl",
            eager_ops.reparameterize_kl,
            lambda backend, noise: functools.partial(ops.reparameterize_kl, noise=noise, backend=backend),
            functools.partial(_latent_inputs, z=True, kl=True),
            _per_element(3, 5),
        ),
        _LatentOperation(
            "reparameterize",
            eager_ops.reparameterize,
            lambda backend, noise: functools.partial(ops.reparameterize, noise=noise, backend=backend),
            functools.partial(_latent_inputs, z=True, kl=False),
            _per_element(3, 4),
        ),
        _LatentOperation(
            "gaussian_kl",
            eager_ops.gaussian_kl,
            lambda backend, noise: functools.partial(ops.gaussian_kl, backend=backend),
            functools.partial(_latent_inputs, z=False, kl=True),
            _per_element(2, 4),
        ),
        *(
            Operation(
                name,
                eager_ops.styled_instance_norm,
                _fused_styled_norm,
                functools.partial(_styled_norm_inputs, memory_format=memory_format),
                _per_element(3, 5),
                shapes=((4, 64, 128, 128), (32, 512, 4, 4)),
                large_shapes=((16, 128, 128, 128), (8, 64, 512, 512)),
                quick_shapes=((4, 64, 128, 128),),
            )
            # Trainings run in channels last, other people's networks mostly not.
            for name, memory_format in (
                ("styled_instance_norm", torch.contiguous_format),
                ("styled_instance_norm_channels_last", torch.channels_last),
            )
        ),
        *(
            Operation(
                name,
                _eager_group_norm,
                _fused_group_norm,
                functools.partial(_group_norm_inputs, memory_format=memory_format),
                _per_element(3, 5),
                shapes=((2, 128, 64, 64), (2, 256, 32, 32), (8, 512, 16, 16)),
                large_shapes=((8, 128, 256, 256),),
                quick_shapes=((2, 256, 32, 32),),
            )
            for name, memory_format in (
                ("group_norm_silu", torch.contiguous_format),
                ("group_norm_silu_channels_last", torch.channels_last),
            )
        ),
        Operation(
            "batch_norm_leaky_relu",
            eager_ops.batch_norm_leaky_relu,
            _fused_batch_norm,
            _batch_norm_inputs,
            _per_element(4, 8),
            shapes=((32, 64, 32, 32), (32, 256, 8, 8)),
            quick_shapes=((32, 64, 32, 32),),
        ),
        *(
            Operation(
                name,
                eager,
                lambda backend, noise: functools.partial(ops.chamfer_distance, backend=backend),
                _chamfer_inputs,
                _per_element(2, 4),
                shapes=((32, 2048, 3), (8, 128, 3)),
                quick_shapes=((8, 128, 3),),
                dtypes=("float32",),
            )
            # The usual form in plain torch, and the shortest with torch's own distances.
            for name, eager in (
                ("chamfer_distance", eager_ops.chamfer_distance),
                ("chamfer_distance_over_cdist", eager_ops.chamfer_distance_over_cdist),
            )
        ),
        *(
            Operation(
                name,
                eager,
                lambda backend, noise: functools.partial(ops.mixture_log_prob, backend=backend),
                _mixture_inputs,
                _mixture_moved,
                shapes=((12800, 100, 128), (512, 10, 2)),
                quick_shapes=((512, 10, 2),),
                dtypes=("float32",),
            )
            for name, eager in (
                ("mixture_log_prob", eager_ops.mixture_log_prob),
                ("mixture_log_prob_over_products", eager_ops.mixture_log_prob_over_products),
            )
        ),
    )
}


def cases(
    names: Sequence[str] = DEFAULT_NAMES,
    *,
    dtypes: Sequence[str] | None = None,
    quick: bool = False,
    large: bool = False,
) -> list[Case]:
    """The cases of some ops, in the list's order, dtype by dtype.

    Args:
        names: of ops; other names have no case here.
        dtypes: None is float32 and bfloat16, or float32 if quick.
        quick: fewer shapes.
        large: with the shapes for a GPU, unless quick.
    """
    wanted = dtypes or (("float32",) if quick else DEFAULT_DTYPES)
    return [
        Case(operation, shape, dtype)
        for dtype in wanted
        for name, operation in OPERATIONS.items()
        if name in names
        if operation.dtypes is None or dtype in operation.dtypes
        for shape in (operation.quick_shapes if quick else operation.shapes + (operation.large_shapes if large else ()))
    ]
