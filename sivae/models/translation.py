"""The model `translation`: two encoders separate an image into content and class, and one decoder recombines them.

The networks are those of LORD (Gabbay & Hoshen, "Demystifying Inter-Class Disentanglement", ICLR 2020), with encoders
that end in mu and logvar. The class enters the decoder only through scales and shifts of instance norms, which are the
same for the whole image; so positions have to come from the content.
"""

from __future__ import annotations

import itertools
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sivae import ops
from sivae.bounds import MODEL_SIDE
from sivae.models.base import VAEModel, checked_counts, evaluating
from sivae.models.doubling import DoublingConv2d

_SLOPE, _EPS = 0.2, 1e-5
_SMALLEST = 4  # pixels, the side of the decoder's first map
_MOST = 4  # the widest layer has this many times the entry's width


class TranslationVAE(VAEModel):
    """Two encoders, of content and of class, and a decoder, for square images in [0, 1].

    A latent z [B, z_dim] is the content c, [B, content_dim], and the class y, [B, class_dim], side by side; so are mu
    and logvar.

    Args:
        image_size: side of the images, a power of two from 8 on. LORD's is 64.
        channels: channels of the images.
        content_dim, class_dim: number of values of c and of y.
        width: channels at the images' resolution; inner layers have up to four times as many.
        hidden: width of the linear layers.
        coded_images, coded_classes: number of training images and of classes with learned codes (:class:`Codes`), for
            training by LORD's two stages; 0: none.
        prior_std: see :class:`VAEModel`.

    Attributes:
        exchanges: whether a training step exchanges the classes within each pair, see :meth:`latents_to_decode`.

    Raises:
        ValueError: an argument is out of range.
    """

    name = "translation"
    encoder: TranslationEncoder
    value_range = (0.0, 1.0)
    tells_class = True
    CODES_RATE: ClassVar[float] = 10.0  # LORD's learning rate of codes over that of networks

    def __init__(
        self,
        image_size: int = 64,
        channels: int = 3,
        content_dim: int = 128,
        class_dim: int = 256,
        width: int = 64,
        hidden: int = 256,
        coded_images: int = 0,
        coded_classes: int = 0,
        prior_std: float = 1.0,
    ) -> None:
        super().__init__()
        counts = {"content_dim": content_dim, "class_dim": class_dim, "width": width, "hidden": hidden}
        checked_counts("TranslationVAE", 1, MODEL_SIDE, image_size=image_size)
        checked_counts("TranslationVAE", 1, channels=channels, **counts)
        checked_counts("TranslationVAE", 0, coded_images=coded_images, coded_classes=coded_classes)
        if (coded_images == 0) != (coded_classes == 0):
            raise ValueError(
                f"TranslationVAE: coded_images is {coded_images} and coded_classes {coded_classes}, expected both or "
                "neither"
            )
        doublings = image_size.bit_length() - _SMALLEST.bit_length()
        if doublings < 1 or _SMALLEST << doublings != image_size:
            raise ValueError(f"TranslationVAE: image_size is {image_size}, expected a power of two from 8 on")
        self.hyperparameters = {
            "image_size": image_size,
            "channels": channels,
            **counts,
            "coded_images": coded_images,
            "coded_classes": coded_classes,
        }
        self._set_prior_std(prior_std)
        self.content_dim, self.class_dim = content_dim, class_dim
        self.z_dim = content_dim + class_dim
        self.sample_shape = (channels, image_size, image_size)
        self.exchanges = False
        self.encoder = TranslationEncoder(channels, width, doublings, hidden, content_dim, class_dim)
        if coded_images:
            self.encoder.codes = Codes(coded_images, coded_classes, content_dim, class_dim)
        self.decoder = TranslationDecoder(channels, width, doublings, hidden, content_dim, class_dim)

    @property
    def has_posterior(self) -> bool:
        """Whether the encoders have a trained logvar: LORD's stages train only their means."""
        return self.encoder.codes is None

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Split latents, mu or logvar [B, z_dim] into content [B, content_dim] and class [B, class_dim]: views."""
        content, of_class = z.split([self.content_dim, self.class_dim], dim=1)
        return content, of_class

    def codes_of(self, images: Tensor, classes: Tensor) -> Tensor:
        """Look up the codes of training images and classes by their numbers, int64 [B] -> [B, z_dim].

        Raises:
            ValueError: the model has no codes.
        """
        if self.encoder.codes is None:
            raise ValueError("TranslationVAE: it has no codes; build it with coded_images and coded_classes")
        codes: Tensor = self.encoder.codes(images, classes)
        return codes

    def class_part(self, of_z: Tensor) -> Tensor:
        """See :meth:`VAEModel.class_part`."""
        return self.split(of_z)[1]

    def latents_to_decode(self, z: Tensor) -> Tensor:
        """Exchange the classes of each pair, rows 2 i and 2 i + 1, if `exchanges` is set; else return z.

        Both samples of a pair show one class. With the other sample's class code, the decoder has to take everything
        that differs between the two images from the content.

        Raises:
            ValueError: the batch has an odd number of samples.
        """
        if not self.exchanges:
            return z
        if len(z) % 2:
            raise ValueError(f"TranslationVAE: a batch has {len(z)} samples, expected pairs of one class each")
        content, of_class = self.split(z)
        return torch.cat([content, of_class.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)], dim=1)

    def translate(self, content: Tensor, of_class: Tensor) -> Tensor:
        """Combine the content of some images with the class of others, by posterior means, in eval mode.

        Args:
            content: images that give the content, [B, *sample_shape].
            of_class: images that give the class, likewise.

        Returns:
            [B, *sample_shape], without gradient.

        Raises:
            ValueError: the images have another shape than the model's, or their numbers differ.
        """
        self._check(content=content, of_class=of_class)
        if len(content) != len(of_class):
            raise ValueError(f"TranslationVAE: content has {len(content)} images and of_class {len(of_class)}")
        with evaluating(self):
            return self._in_pieces(self.decode, self.recombined(self._means(content), self._means(of_class)), None)

    def translations(self, content: Tensor, of_class: Tensor) -> Tensor:
        """Combine every content with every class, as :meth:`translate`: R and K images -> [R, K, *sample_shape]."""
        self._check(content=content, of_class=of_class)
        with evaluating(self):
            rows, columns = len(content), len(of_class)
            pairs = self._means(content).repeat_interleave(columns, dim=0), self._means(of_class).repeat(rows, 1)
            return self._in_pieces(self.decode, self.recombined(*pairs), None).unflatten(0, (rows, columns))

    def _check(self, **images: Tensor) -> None:
        for name, batch in images.items():
            if batch.shape[1:] != self.sample_shape:
                expected = ["B", *self.sample_shape]
                raise ValueError(f"TranslationVAE: {name} has shape {list(batch.shape)}, expected {expected}")

    def _means(self, images: Tensor) -> Tensor:
        return self._in_pieces(lambda x, _: self.encode(x)[0], images, None)

    def recombined(self, content: Tensor, of_class: Tensor) -> Tensor:
        """Combine the content of some latents with the class of others, all [B, z_dim]."""
        return torch.cat([self.split(content)[0], self.split(of_class)[1]], dim=1)

    def rate_scales(self) -> dict[str, float]:
        """See :meth:`VAEModel.rate_scales`."""
        if self.encoder.codes is None:
            return {}
        return dict.fromkeys(("encoder.codes.content", "encoder.codes.of_class"), self.CODES_RATE)


class Codes(nn.Module):
    """Learned codes: a content for each training image and a class code for each class, without an encoder.

    Args:
        images, classes: number of each.
        content_dim, class_dim: values of a code.
    """

    def __init__(self, images: int, classes: int, content_dim: int, class_dim: int) -> None:
        super().__init__()
        self.content = nn.Parameter(torch.empty(images, content_dim).uniform_(-0.05, 0.05))
        self.of_class = nn.Parameter(torch.empty(classes, class_dim).uniform_(-0.05, 0.05))

    def forward(self, images: Tensor, classes: Tensor) -> Tensor:
        """Look up codes by numbers of images and of classes, int64 [B] -> [B, content_dim + class_dim]."""
        return torch.cat([F.embedding(images, self.content), F.embedding(classes, self.of_class)], dim=1)


class TranslationEncoder(nn.Module):
    """Images [B, C, H, W] -> mu and logvar of content and class, [B, 2 (content_dim + class_dim)], both mu first."""

    def __init__(self, channels: int, width: int, halvings: int, hidden: int, content_dim: int, class_dim: int) -> None:
        super().__init__()
        self.content = _encoder(channels, width, halvings, hidden, content_dim)
        self.of_class = _encoder(channels, width, halvings, hidden, class_dim)
        self.codes: Codes | None = None

    def forward(self, x: Tensor) -> Tensor:
        heads = [encoder(x).chunk(2, dim=1) for encoder in (self.content, self.of_class)]
        return torch.cat([mu for mu, _ in heads] + [logvar for _, logvar in heads], dim=1)


class TranslationDecoder(nn.Module):
    """Latents [B, content_dim + class_dim] -> images [B, C, H, W] in (0, 1)."""

    def __init__(
        self, channels: int, width: int, doublings: int, hidden: int, content_dim: int, class_dim: int
    ) -> None:
        super().__init__()
        inner = _MOST * width
        self._dims, self._features = [content_dim, class_dim], (inner, _SMALLEST, _SMALLEST)
        self.content = _mlp(content_dim, hidden, inner * _SMALLEST * _SMALLEST)
        self.styles = _mlp(class_dim, hidden, doublings * 2 * inner)
        self.blocks = nn.ModuleList(DoublingConv2d(inner, inner, 3, padding=1) for _ in range(doublings))
        self.conv = nn.Conv2d(inner, width, 5, padding=2)
        self.predict = nn.Conv2d(width, channels, 7, padding=3)

    def forward(self, z: Tensor) -> Tensor:
        content, of_class = z.split(self._dims, dim=1)
        x = F.leaky_relu_(self.content(content), _SLOPE).unflatten(1, self._features)
        if self.conv.weight.is_contiguous(memory_format=torch.channels_last) and not self.conv.weight.is_contiguous():
            x = x.contiguous(memory_format=torch.channels_last)
        styles = self.styles(of_class).unflatten(1, (len(self.blocks), 2, -1))  # [B, blocks, 2, inner]
        for index, block in enumerate(self.blocks):
            x = block(x)
            scale, shift = styles[:, index].to(x.dtype).unbind(1)
            x = ops.styled_instance_norm(x, scale=scale, shift=shift, negative_slope=_SLOPE, eps=_EPS)
        image: Tensor = self.predict(F.leaky_relu_(self.conv(x), _SLOPE))
        return image.sigmoid()


def _encoder(channels: int, width: int, halvings: int, hidden: int, z_dim: int) -> nn.Sequential:
    """Make an encoder: images -> mu and logvar side by side, [B, 2 z_dim]."""
    widths = [width * min(2**index, _MOST) for index in range(halvings + 1)]
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 7, padding=3), nn.LeakyReLU(_SLOPE)]
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Conv2d(fan_in, fan_out, 4, stride=2, padding=1), nn.LeakyReLU(_SLOPE)]
    return nn.Sequential(*layers, nn.Flatten(), _mlp(widths[-1] * _SMALLEST * _SMALLEST, hidden, 2 * z_dim))


def _mlp(fan_in: int, hidden: int, fan_out: int) -> nn.Sequential:
    """Make a linear network with two hidden layers."""
    return nn.Sequential(
        nn.Linear(fan_in, hidden),
        nn.LeakyReLU(_SLOPE),
        nn.Linear(hidden, hidden),
        nn.LeakyReLU(_SLOPE),
        nn.Linear(hidden, fan_out),
    )
