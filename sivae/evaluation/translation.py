"""Measure how well a translation model recombines images, and how well it separates class and content.

The pixels of a recombined image are compared with the true image of that class in that content, where the data has it.
That comparison does not detect a content code that also holds the class, as long as the decoder ignores it. So linear
probes measure what the codes hold.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sivae import ops
from sivae.evaluation.image_metrics import mse, ssim
from sivae.models.base import device_and_dtype, evaluating, samples_at_once
from sivae.models.pixels import image_range, unit_range
from sivae.models.translation import TranslationVAE

Whole = NDArray[np.int64]
Images = Tensor | Callable[[Sequence[int]], Tensor]
Distance = Callable[[Tensor, Tensor], Tensor]

PROBED_IMAGES, PROBED_NAMES = 4_000, 100  # at most, for one probe
_ITERATIONS = 1_000
# Streams of a seed.
_PAIRS, _RECONSTRUCTIONS, _CLASS_PROBE, _CONTENT_PROBE, _EXAMPLES, _CLASS_DRAWS, _CONTENT_DRAWS = range(7)


class TransferPairs(NamedTuple):
    """Rows of images, int64 [P] each: those that give the content, those that give the class, and the true results."""

    content: Whole
    of_class: Whole
    truth: Whole


def transfer_pairs(labels: ArrayLike, contents: ArrayLike | None, count: int, seed: int) -> TransferPairs:
    """Draw pairs of images of different class and different content whose true recombined image is in the set.

    Every such ordered pair (content image, class image) is equally likely and drawn once at most. Where several images
    show the class in the content (the frames of an action), none of them is the one truth, and there is no pair.

    Args:
        labels: class of each image, [N], whole numbers.
        contents: content of each, likewise; None: unknown, and there are no pairs.
        count: pairs at most.
        seed: of the draw: 0 or more.

    Returns:
        Rows of the set, P of each.

    Raises:
        ValueError: labels and contents are not one whole number for each image, or the count is negative.
    """
    if count < 0:
        raise ValueError(f"transfer_pairs: count is {count}, expected 0 or more")
    classes = _numbered("labels", labels)
    none = np.empty(0, np.int64)
    if contents is None or len(classes) == 0:
        return TransferPairs(none, none, none)
    poses = _numbered("contents", contents, len(classes))
    table = np.zeros((classes.max() + 1, poses.max() + 1), np.int64)  # images of each class in each content
    np.add.at(table, (classes, poses), 1)
    there, of_class = table == 1, table.sum(1)
    # For content c, images of another content whose class also has an image in c; image i has no partner of its class.
    partners = there.T @ of_class - (there * table).sum(0)
    partners = partners[poses] - there[classes, poses] * (of_class[classes] - table[classes, poses])
    ends = partners.cumsum()
    if ends[-1] == 0:
        return TransferPairs(none, none, none)
    drawn = _stream(seed, _PAIRS).choice(ends[-1], min(count, int(ends[-1])), replace=False)
    content = np.searchsorted(ends, drawn, side="right")
    ranks = drawn - (ends[content] - partners[content])
    first = np.full(table.shape, len(classes), np.int64)
    np.minimum.at(first, (classes, poses), np.arange(len(classes)))
    other = np.array([_partners(there, classes, poses, row)[rank] for row, rank in zip(content, ranks, strict=True)])
    other = other.astype(np.int64)
    return TransferPairs(content.astype(np.int64), other, first[classes[other], poses[content]])


def _partners(there: NDArray[np.bool_], classes: Whole, poses: Whole, row: int) -> Whole:
    """Rows that can give their class to the content of `row`."""
    fits = there[classes, poses[row]] & (classes != classes[row]) & (poses != poses[row])
    return np.flatnonzero(fits)


def example_rows(
    total: int, labels: ArrayLike | None, contents: ArrayLike | None, count: int, seed: int
) -> tuple[Whole, Whole]:
    """Choose rows of a set to show: images that give a content, and others of different classes that give their class.

    Args:
        total: images in the set.
        labels, contents: of each image, [total], whole numbers; None: unknown, and any image may be chosen.
        count: of either, at most: fewer where there are fewer contents, or classes.
        seed: of the draw: 0 or more.

    Returns:
        Rows that give the content, of different contents where these are known, and rows that give the class.

    Raises:
        ValueError: labels or contents are not one whole number for each image.
    """
    order = _stream(seed, _EXAMPLES).permutation(total)
    of_class = _different(order, labels, "labels", total)[:count]
    others = order[~np.isin(order, of_class)]
    return _different(others if len(others) else order, contents, "contents", total)[:count], of_class


def _different(order: Whole, named: ArrayLike | None, name: str, total: int) -> Whole:
    """The first row of each number, in the order."""
    if named is None:
        return order
    return order[np.sort(np.unique(_numbered(name, named, total)[order], return_index=True)[1])]


def measure_translation(
    model: TranslationVAE,
    images: Images,
    labels: ArrayLike,
    contents: ArrayLike | None,
    *,
    seed: int,
    count: int = 1_000,
    lpips: Distance | None = None,
) -> dict[str, float]:
    """Compute all metrics of a translation model on images that it was not trained on.

    Codes are posterior means, but for the draws below. A metric of codes that are not finite is NaN.

    **Transfer.** For `count` pairs of :func:`transfer_pairs`, the decoded image of one image's content and another's
    class is compared with the true one, in [0, 1] and clipped there. `reconstruction_*` are of the true
    images themselves, encoded and decoded, so that the difference between the two is the loss by recombining. Without
    pairs there are no `transfer_*`, and the reconstructions are of `count` images drawn at random, or of all.

    **Probes.** `class_from_content` is the accuracy of a linear probe of the class in the content code, and the other
    three likewise: `class_from_class` and `content_from_content` should be high, `class_from_content` and
    `content_from_class` at chance. A probe uses the classes (contents) that have two images or more, at most 100
    of them and at most 4,000 of their images, drawn by the seed. Half of each class's images, drawn likewise, train
    it, with an odd image in either half at random; accuracy is on the other half. Features are standardised by mean and
    deviation of the training half; the probe is scikit-learn's `LogisticRegression` with an L2 penalty of C = 1 and at
    most 1,000 iterations. Both codes are probed on the same images. `class_chance` is the accuracy there of always
    naming the class most frequent in the training half; for the content it is `content_chance`. A nonlinear probe may
    find more.

    **Draws.** A probe reads a mean even where it is far smaller than the posterior's deviation: latent values that the
    decoder has learnt to ignore, with a kl of almost 0, may hold all of the class. So the two leaks are also measured
    on one draw of each image's posterior, which is what the decoder gets in training, as `class_from_content_draws` and
    `content_from_class_draws`; not where the model's encoders have no posterior (`has_posterior`).

    Args:
        model: it runs in eval mode without gradients, and every part of it gets its mode back.
        images: [N, C, H, W] in the model's value range, or a function that reads rows: row numbers -> [B, C, H, W].
        labels: class of each image, [N], whole numbers.
        contents: content of each, likewise; None: unknown.
        seed: of pairs, images and halves: 0 or more.
        count: pairs at most, or images that are reconstructed.
        lpips: two batches of images in [0, 1] -> the distance of each pair, [B].

    Returns:
        `transfer_mse`, `transfer_ssim`, `transfer_lpips` (with `lpips`), the same of `reconstruction_`, and the probes:
        those of the class with two classes or more, those of the content with two contents or more.

    Raises:
        ValueError: there are no images, the count is not positive, or labels and contents do not fit the images.
    """
    classes = _numbered("labels", labels, len(images) if isinstance(images, Tensor) else None)
    if len(classes) == 0 or count < 1:
        raise ValueError(
            f"measure_translation: got {len(classes)} images and a count of {count}, expected 1 or more of both"
        )
    poses = None if contents is None else _numbered("contents", contents, len(classes))
    pairs = transfer_pairs(classes, poses, count, seed)
    truths = pairs.truth
    if len(truths) == 0:
        truths = _stream(seed, _RECONSTRUCTIONS).permutation(len(classes))[:count]
    halves = {"class": _halves(classes, _stream(seed, _CLASS_PROBE))}
    if poses is not None:
        halves["content"] = _halves(poses, _stream(seed, _CONTENT_PROBE))
    probed = {name: half for name, half in halves.items() if half is not None}
    rows = np.unique(np.concatenate([*pairs, truths, *(rows for half in probed.values() for rows in half)]))
    with evaluating(model):
        codes = _Codes(model, images, rows)
        found: dict[str, float] = {}
        if len(pairs.truth):
            mixed = model.recombined(codes.of(pairs.content), codes.of(pairs.of_class))
            found |= codes.compared("transfer", mixed, truths, lpips)
        found |= codes.compared("reconstruction", codes.of(truths), truths, lpips)
        targets = {"class": classes, "content": poses}
        for target, (train, test) in probed.items():
            named = targets[target]
            assert named is not None
            for part, source in enumerate(("content", "class")):
                both = np.concatenate([train, test])
                read = {"": codes.of(both)}
                if source != target and model.has_posterior:
                    draws = _CLASS_DRAWS if target == "class" else _CONTENT_DRAWS
                    read["_draws"] = codes.drawn(both, _stream(seed, draws))
                for name, z in read.items():
                    x, held_out = np.split(model.split(z)[part].double().cpu().numpy(), [len(train)])
                    found[f"{target}_from_{source}{name}"] = _probe(x, named[train], held_out, named[test])
            found[f"{target}_chance"] = float((named[test] == np.bincount(named[train]).argmax()).mean())
    return found


class _Codes:
    """The posteriors of some rows of a set, and comparisons of decoded images with others of its rows."""

    def __init__(self, model: TranslationVAE, images: Images, rows: Whole) -> None:
        self._model, self._images, self._rows = model, images, rows
        self._place, self._dtype = device_and_dtype(model)
        self._size = samples_at_once(model.sample_shape)
        posteriors = [
            model.encode(self._read(rows[start : start + self._size])) for start in range(0, len(rows), self._size)
        ]
        self._mu, self._logvar = (torch.cat(parts) for parts in zip(*posteriors, strict=True))

    def of(self, rows: Whole) -> Tensor:
        """Means, [len(rows), z_dim]."""
        return self._mu[self._places(rows)]

    def drawn(self, rows: Whole, stream: np.random.Generator) -> Tensor:
        """One draw each, [len(rows), z_dim]."""
        mu, logvar = (values[self._places(rows)] for values in (self._mu, self._logvar))
        return ops.reparameterize(mu, logvar, noise=torch.from_numpy(stream.standard_normal(mu.shape)).to(mu))

    def _places(self, rows: Whole) -> Tensor:
        return torch.from_numpy(np.searchsorted(self._rows, rows)).to(self._place)

    def compared(self, name: str, z: Tensor, truths: Whole, lpips: Distance | None) -> dict[str, float]:
        """Means of the metrics of decoded z against the images of the rows."""
        value_range = image_range(self._model)
        parts: list[dict[str, Tensor]] = []
        for start in range(0, len(truths), self._size):
            latents = z[start : start + self._size]
            truth = self._read(truths[start : start + self._size])
            shown, true = (unit_range(x.float(), value_range) for x in (self._model.render(latents), truth))
            values = {"mse": mse(shown, true), "ssim": ssim(shown, true)}
            if lpips is not None:
                values["lpips"] = lpips(shown, true).double()
            # A decoder that saturates makes a finite image of an infinite code.
            lost = ~latents.isfinite().all(1)
            parts.append({key: one.masked_fill(lost, torch.nan) for key, one in values.items()})
        return {f"{name}_{key}": float(torch.cat([part[key] for part in parts]).mean()) for key in parts[0]}

    def _read(self, rows: Whole) -> Tensor:
        numbers = rows.tolist()
        images = self._images[numbers] if isinstance(self._images, Tensor) else self._images(numbers)
        return images.to(self._place, self._dtype)


def _halves(named: Whole, stream: np.random.Generator) -> tuple[Whole, Whole] | None:
    """Rows to train a probe and rows to test it, each name in both; None with fewer than two names."""
    repeated = np.flatnonzero(np.bincount(named) > 1)
    kept = stream.permutation(repeated)[:PROBED_NAMES]
    rows = stream.permutation(np.flatnonzero(np.isin(named, kept)))[:PROBED_IMAGES]
    train: list[Whole] = []
    test: list[Whole] = []
    for name in np.unique(named[rows]):
        mine = rows[named[rows] == name]  # in an order drawn above
        if len(mine) < 2:
            continue
        half = len(mine) // 2 + (stream.integers(2) if len(mine) % 2 else 0)
        train.append(mine[:half])
        test.append(mine[half:])
    return (np.concatenate(train), np.concatenate(test)) if len(train) > 1 else None


def _probe(x: NDArray[np.float64], named: Whole, held_out: NDArray[np.float64], expected: Whole) -> float:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if not (np.isfinite(x).all() and np.isfinite(held_out).all()):
        return float("nan")
    probe: Any = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_ITERATIONS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the protocol fixes the iterations
        probe.fit(x, named)
    return float(probe.score(held_out, expected))


def _numbered(name: str, values: ArrayLike, count: int | None = None) -> Whole:
    """Whole numbers [N] as 0, 1, 2 … in their order."""
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu") or count not in (None, len(array)):
        wanted = "[N]" if count is None else f"[{count}]"
        raise ValueError(f"{name} are {array.dtype} {list(array.shape)}, expected whole numbers {wanted}")
    return np.unique(array, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _stream(seed: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, number]))
