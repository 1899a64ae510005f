"""What is measured: the one list of ops, their plain counterparts, shapes and dtypes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.baselines import losses, styled_norm
from sivae import ops

Function = Callable[..., Tensor | tuple[Tensor, ...]]
Shape = tuple[int, ...]

MODES = ("forward", "backward", "forward+backward")
# The ops' names of whole training iterations: in 2D (`step_suite`), on images (`image_step_suite`), and on images with
# the style model (`style_step_suite`).
STEP, IMAGE_STEP, STYLE_STEP = "step", "image_step", "style_step"
OF_IMAGES = (IMAGE_STEP, STYLE_STEP)
ITERATIONS = (STEP, *OF_IMAGES)
DTYPES: Mapping[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
}
DEFAULT_DTYPES = ("float32", "bfloat16")

_SCALE, _BETA_REC, _BETA_NEG = 0.5, 0.2, 0.9  # of exp_elbo: the settings of 8gaussians
_LOSS_Z = 512  # latents of the whole loss
_LOSS_BETA_NEG = 256.0


@dataclass(frozen=True)
class Inputs:
    """What one call works on.

    Attributes:
        arguments: of the function, in order.
        leaves: those that gradients are taken to.
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

    @classmethod
    def of(cls, device: torch.device, dtype: torch.dtype) -> Sampler:
        return cls(torch.Generator(device).manual_seed(0), dtype)

    def normal(self, *shape: int, leaf: bool = False) -> Tensor:
        values = torch.randn(shape, generator=self.generator, device=self.generator.device)
        return values.to(self.dtype).requires_grad_(leaf)

    def uniform(self, *shape: int, leaf: bool = False) -> Tensor:
        values = torch.rand(shape, generator=self.generator, device=self.generator.device)
        return values.to(self.dtype).requires_grad_(leaf)


@dataclass(frozen=True)
class Operation:
    """One op and its plain counterpart.

    Attributes:
        name: what the user calls it.
        eager: the baseline.
        fused: the op on a backend; its noise, if it draws any: None, or a seed drawn before.
        inputs: makes random inputs of a shape.
        moved: how many elements of the inputs' dtype any implementation has to read and write, forward and backward.
        shapes: those that people train with.
        large_shapes: further ones, for a GPU.
        quick_shapes: those of a quick run.
        dtypes: those in which it comes to be called; None: any.
        default: whether it is measured unless asked for by name.
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
    default: bool = True


@dataclass(frozen=True)
class Case:
    """An operation at a shape, in a dtype."""

    operation: Operation
    shape: Shape
    dtype: str = "float32"

    @property
    def name(self) -> str:
        return f"{self.operation.name} {list(self.shape)} {self.dtype}"

    def moved_bytes(self, mode: str) -> int:
        """The least that any implementation moves to and from memory in one call."""
        forward, backward = self.operation.moved(self.shape)
        elements = {"forward": forward, "backward": backward, "forward+backward": forward + backward}[mode]
        return elements * DTYPES[self.dtype].itemsize


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
    z, kl = losses.reparameterize_kl(mu, logvar)
    return z, losses.exp_elbo(losses.mse(recon, target), kl, 1 / recon[0].numel(), beta_kl=_LOSS_BETA_NEG)


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


def _per_element(forward: int, backward: int) -> Callable[[Shape], tuple[int, int]]:
    return lambda shape: (forward * math.prod(shape), backward * math.prod(shape))


def _loss_moved(shape: Shape) -> tuple[int, int]:
    images, latents = math.prod(shape), shape[0] * _LOSS_Z
    return 2 * images + 3 * latents, 3 * images + 5 * latents


_IMAGES: tuple[Shape, ...] = ((32, 3, 32, 32), (32, 3, 256, 256), (4, 3, 1024, 1024), (16, 3, 512, 512))
_LATENTS: tuple[Shape, ...] = ((512, 2), (32, 128), (32, 512), (4096, 512), (8, 4, 128, 128))
_QUICK_LATENTS: tuple[Shape, ...] = ((512, 2), (32, 512))
_LARGE_LATENTS: tuple[Shape, ...] = ((65536, 512),)

# `moved`, in elements; vectors of one value per sample are left out where the shape has more dimensions than the batch.
#   reconstruction_error: forward reads recon, target; backward reads both and writes recon's gradient.
#   reparameterize_kl: forward reads mu, logvar and writes z; backward reads mu, logvar, z's gradient and writes two
#       gradients. The noise is computed, not moved.
#   reparameterize: the same without kl's gradient, which needs no mu in backward.
#   gaussian_kl: forward reads mu, logvar; backward reads both and writes two gradients.
#   exp_elbo: forward reads rec, kl; backward reads both and writes two gradients.
#   loss: an image's and a latent's together.
#   styled_instance_norm: forward reads x twice and writes y; backward reads x and y's gradient twice and writes x's.
#       Where a plane stays in a cache between the two readings, less comes from memory.
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
            functools.partial(losses.exp_elbo, scale=_SCALE, beta_rec=_BETA_REC, beta_kl=_BETA_NEG),
            _fused_exp_elbo,
            _exp_elbo_inputs,
            _per_element(2, 4),
            shapes=((512,), (32,)),
            quick_shapes=((512,),),
            dtypes=("float32",),  # what rec and kl come in, whatever the images' dtype
        ),
        Operation(
            "reconstruction_error",
            losses.mse,
            lambda backend, noise: functools.partial(ops.reconstruction_error, backend=backend),
            _reconstruction_inputs,
            _per_element(2, 3),
            shapes=_IMAGES,
            large_shapes=((64, 3, 512, 512),),
            quick_shapes=((32, 3, 32, 32), (32, 3, 256, 256)),
        ),
        Operation(
            "reparameterize_kl",
            losses.reparameterize_kl,
            lambda backend, noise: functools.partial(ops.reparameterize_kl, noise=noise, backend=backend),
            functools.partial(_latent_inputs, z=True, kl=True),
            _per_element(3, 5),
            shapes=_LATENTS,
            large_shapes=_LARGE_LATENTS,
            quick_shapes=_QUICK_LATENTS,
        ),
        Operation(
            "reparameterize",
            losses.reparameterize,
            lambda backend, noise: functools.partial(ops.reparameterize, noise=noise, backend=backend),
            functools.partial(_latent_inputs, z=True, kl=False),
            _per_element(3, 4),
            shapes=_LATENTS,
            large_shapes=_LARGE_LATENTS,
            quick_shapes=_QUICK_LATENTS,
            default=False,
        ),
        Operation(
            "gaussian_kl",
            losses.gaussian_kl,
            lambda backend, noise: functools.partial(ops.gaussian_kl, backend=backend),
            functools.partial(_latent_inputs, z=False, kl=True),
            _per_element(2, 4),
            shapes=_LATENTS,
            large_shapes=_LARGE_LATENTS,
            quick_shapes=_QUICK_LATENTS,
            default=False,
        ),
        *(
            Operation(
                name,
                styled_norm.styled_instance_norm,
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
    )
}
NAMES = (*OPERATIONS, *ITERATIONS)  # what a user may ask for
# Iterations on images take minutes on a GPU, where there are six sizes of them, so they have to be asked for.
DEFAULT_NAMES = tuple(name for name in NAMES if name == STEP or (name in OPERATIONS and OPERATIONS[name].default))


def cases(
    names: Sequence[str] = DEFAULT_NAMES,
    *,
    dtypes: Sequence[str] | None = None,
    quick: bool = False,
    large: bool = False,
) -> list[Case]:
    """The cases of some ops, in the list's order, dtype by dtype.

    Args:
        names: of `NAMES`; the training step has no case here.
        dtypes: None is float32 and bfloat16, or float32 where quick.
        quick: fewer shapes.
        large: with those that are meant for a GPU, where not quick.
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
