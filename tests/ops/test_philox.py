"""Test the noise: Philox4x32-10 bit for bit, the error of its normals, and the roles of seed, offset and index.

Statistical bounds are five standard errors (missed by a correct generator with probability 6e-7 each), and every seed
is fixed: a failure means that the generator has changed.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sivae import ops
from sivae.ops.reference.philox import philox4x32

COUNT = 200_000
BIG_SEED = 0x7EDC_BA98_7654_3210
BIG_OFFSET = 0x0123_4567_89AB_CDEF

# Random123's kat_vectors for philox4x32 with 10 rounds: counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def reference_words(counter: list[int], key: list[int]) -> list[int]:
    lanes = philox4x32(tuple(torch.tensor([c]) for c in counter), tuple(torch.tensor([k]) for k in key))
    return [int(lane) for lane in lanes]


def native_words(counter: list[int], key: list[int]) -> list[int]:
    extension = pytest.importorskip("sivae._C", reason="the extension is not built")
    return list(extension.philox4x32_10(counter, key))


@pytest.mark.parametrize("generate", [reference_words, native_words])
@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(generate, counter, key, expected):
    assert generate(words(counter), words(key)) == words(expected)


def normal_of(seed: int, offset: int, index: int) -> float:
    """One normal by the formula, in Python's integers and floats."""
    group = index // 4
    counter = [group & 0xFFFFFFFF, group >> 32, offset & 0xFFFFFFFF, offset >> 32]
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    c0, c1, c2, c3 = counter
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & 0xFFFFFFFF, (p0 >> 32) ^ c3 ^ k1, p0 & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    u = [((x >> 9) + 0.5) * 2.0**-23 for x in (c0, c1, c2, c3)]
    lane = index % 4
    a, b = u[lane - lane % 2], u[lane - lane % 2 + 1]
    return math.sqrt(-2 * math.log(a)) * (math.cos, math.sin)[lane % 2](2 * math.pi * b)


SEEDS = [0, 1, 2**31, 2**32 - 1, 2**32, BIG_SEED, 2**63 - 1]
OFFSETS = [0, 1, 2**32 - 1, 2**32, BIG_OFFSET, 2**63 - 1]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("offset", OFFSETS)
def test_normals_are_the_formula(backend, seed, offset):
    """|n| <= 5.8, and its error is 1e-6 in float32 (design), a few hundred u of the angle 2 pi u in float64."""
    expected = torch.tensor([normal_of(seed, offset, i) for i in range(11)], dtype=torch.float64)
    single = ops.philox_normal(seed, (11,), offset=offset, backend=backend)
    double = ops.philox_normal(seed, (11,), offset=offset, dtype=torch.float64, backend=backend)
    assert (single.double() - expected).abs().max() <= 1e-6
    assert (double - expected).abs().max() <= 1e-12


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-12)], ids=str)
def test_backends_agree_on_many(compiled_backend, dtype, bound):
    a = ops.philox_normal(BIG_SEED, (COUNT,), offset=BIG_OFFSET, dtype=dtype, backend=compiled_backend)
    b = ops.philox_normal(BIG_SEED, (COUNT,), offset=BIG_OFFSET, dtype=dtype, backend="reference")
    assert (a.double() - b.double()).abs().max() <= bound


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_round_the_float32_normals(backend, dtype):
    half = ops.philox_normal(5, (4099,), dtype=dtype, backend=backend)
    assert torch.equal(half, ops.philox_normal(5, (4099,), backend=backend).to(dtype))


def test_float64_runs_on_the_same_uniforms(backend):
    """The float32 normals are those of float64, rounded, within 1e-6."""
    double = ops.philox_normal(11, (4096,), dtype=torch.float64, backend=backend)
    assert (ops.philox_normal(11, (4096,), backend=backend).double() - double).abs().max() <= 1e-6


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 1023, 1024, 1025, 8191, 8193, 9000])
def test_shorter_draws_are_prefixes(backend, count):
    longest = ops.philox_normal(7, (9001,), offset=2, backend=backend)
    assert torch.equal(ops.philox_normal(7, (count,), offset=2, backend=backend), longest[:count])


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5), (30, 1), (1, 30), [5, 6], torch.Size([3, 10])], ids=str)
def test_the_shape_only_folds_the_stream(backend, shape):
    flat = ops.philox_normal(3, (30,), backend=backend)
    draw = ops.philox_normal(3, shape, backend=backend)
    assert list(draw.shape) == list(shape)
    assert torch.equal(draw.flatten(), flat)


def test_scalars_and_empty_shapes(backend):
    assert ops.philox_normal(3, (), backend=backend) == ops.philox_normal(3, (1,), backend=backend)[0]
    assert ops.philox_normal(3, (0, 4), backend=backend).shape == (0, 4)


def test_seed_as_tensor(backend):
    seed = torch.tensor([BIG_SEED])
    expected = ops.philox_normal(BIG_SEED, (9,), backend=backend)
    assert torch.equal(ops.philox_normal(seed, (9,), backend=backend), expected)
    assert torch.equal(ops.philox_normal(seed[0], (9,), backend=backend), expected)


def sampled(mu: Tensor, noise: ops.PhiloxNoise, backend: str) -> Tensor:
    """The eps of `reparameterize`: with mu = 0 and logvar = 0 the sample is eps."""
    return ops.reparameterize(mu, torch.zeros(mu.shape, dtype=mu.dtype), noise=noise, backend=backend)


@pytest.mark.parametrize(
    "shape", [(1, 1), (5, 3), (7, 257), (3, 1023), (3, 1025), (2, 3, 5, 7), (1030, 3), (9,)], ids=str
)
def test_reparameterize_uses_these_normals(backend, shape):
    """Rows whose length is no multiple of four start inside a group; long rows are cut into pieces."""
    noise = ops.PhiloxNoise(BIG_SEED, BIG_OFFSET)
    normals = ops.philox_normal(BIG_SEED, shape, offset=BIG_OFFSET, backend=backend)
    assert torch.equal(sampled(torch.zeros(shape), noise, backend), normals)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_z_is_mu_plus_std_times_normal(backend, dtype):
    mu, logvar = torch.randn(6, 50, dtype=dtype), torch.randn(6, 50, dtype=dtype)
    z = ops.reparameterize(mu, logvar, noise=ops.PhiloxNoise(5, 6), backend=backend)
    eps = ops.philox_normal(5, mu.shape, offset=6, dtype=dtype, backend=backend).double()
    spread = (logvar.double() / 2).exp() * eps
    # exp and the product err by at most 6 u of the spread, the sum by u of the result.
    u = 2.0**-24 if dtype == torch.float32 else 2.0**-53
    bound = 8 * u * (mu.double().abs() + spread.abs())
    assert ((z.double() - (mu.double() + spread)).abs() <= bound).all()


@pytest.mark.parametrize("layout", ["chunk", "transposed", "steps", "expanded", "channels last"])
def test_the_index_is_logical(backend, layout):
    """The strides of mu do not change the normal of an element."""
    views = {
        "chunk": torch.zeros(4, 10).chunk(2, dim=1)[1],
        "transposed": torch.zeros(5, 4).t(),
        "steps": torch.zeros(8, 10)[::2, ::2],
        "expanded": torch.zeros(1, 5).expand(4, 5),
        "channels last": torch.zeros(4, 3, 2, 5).to(memory_format=torch.channels_last),
    }
    mu = views[layout]
    normals = ops.philox_normal(9, mu.shape, offset=1, backend=backend)
    assert torch.equal(sampled(mu, ops.PhiloxNoise(9, 1), backend), normals)


class TestStatistics:
    def test_moments(self, backend):
        """Of N(0, 1) the mean has standard error 1/sqrt(n), the 2nd to 4th moments sqrt(Var x^k / n)."""
        x = ops.philox_normal(123, (COUNT,), dtype=torch.float64, backend=backend)
        for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
            assert abs(float((x**power).mean()) - moment) < 5 * math.sqrt(variance / COUNT)

    @pytest.mark.parametrize("lane", range(4))
    def test_distribution(self, backend, lane):
        """Kolmogorov-Smirnov: P(sqrt(n) D > 2.7) < 2 exp(-2 * 2.7^2) = 9.4e-7, in each lane of a group."""
        x = ops.philox_normal(321, (COUNT,), dtype=torch.float64, backend=backend)[lane::4].sort().values
        n = len(x)
        cdf = torch.special.ndtr(x)
        steps = torch.arange(n, dtype=torch.float64)
        distance = torch.maximum((cdf - steps / n).abs(), (cdf - (steps + 1) / n).abs()).max()
        assert math.sqrt(n) * float(distance) < 2.7

    @pytest.mark.parametrize("lag", [1, 2, 3, 4, 1024])
    def test_neighbours_are_uncorrelated(self, backend, lag):
        x = ops.philox_normal(77, (COUNT,), dtype=torch.float64, backend=backend)
        assert abs(float((x[lag:] * x[:-lag]).mean())) < 5 / math.sqrt(COUNT - lag)

    @pytest.mark.parametrize("other", [(77, 1), (77, 2**32), (78, 0), (77 + 2**32, 0)], ids=str)
    def test_streams_are_uncorrelated(self, backend, other):
        """Another offset or seed, in its low or its high word alone; also in their magnitudes: Var(x^2 y^2 - 1) = 8."""
        x = ops.philox_normal(77, (COUNT,), dtype=torch.float64, backend=backend)
        y = ops.philox_normal(other[0], (COUNT,), offset=other[1], dtype=torch.float64, backend=backend)
        assert abs(float((x * y).mean())) < 5 / math.sqrt(COUNT)
        assert abs(float((x * x * y * y).mean()) - 1) < 5 * math.sqrt(8 / COUNT)


class TestFreshNoise:
    def test_each_call_draws_anew(self, backend):
        mu, logvar = torch.zeros(3, 5), torch.zeros(3, 5)
        first, second = (ops.reparameterize(mu, logvar, backend=backend) for _ in range(2))
        assert not torch.equal(first, second)
        assert not torch.equal(*(ops.reparameterize_kl(mu, logvar, backend=backend)[0] for _ in range(2)))

    def test_the_default_generator_decides(self, backend):
        draws = []
        for _ in range(2):
            torch.manual_seed(4)
            draws.append(ops.reparameterize(torch.zeros(3, 5), torch.zeros(3, 5), backend=backend))
        assert torch.equal(*draws)

    def test_a_generator_decides(self, backend):
        def draw(seed: int) -> Tensor:
            generator = torch.Generator().manual_seed(seed)
            return ops.reparameterize(torch.zeros(3, 5), torch.zeros(3, 5), generator=generator, backend=backend)

        assert torch.equal(draw(1), draw(1))
        assert not torch.equal(draw(1), draw(2))

    def test_a_generator_leaves_the_default_alone(self, backend):
        before = torch.get_rng_state()
        ops.reparameterize(torch.zeros(3), torch.zeros(3), generator=torch.Generator().manual_seed(1), backend=backend)
        assert torch.equal(torch.get_rng_state(), before)

    def test_every_backend_draws_the_same_seed(self, compiled_backend):
        """Switching the backend does not change a run: normals of two backends agree to 1e-6."""
        draws = []
        for backend in (compiled_backend, "reference"):
            torch.manual_seed(8)
            draws.append(ops.reparameterize(torch.zeros(3, 50), torch.zeros(3, 50), backend=backend))
        assert (draws[0] - draws[1]).abs().max() <= 1e-6

    def test_draw_seed(self):
        seeds = torch.cat([ops.draw_seed("cpu", torch.Generator().manual_seed(i)) for i in range(64)])
        assert seeds.dtype == torch.int64
        assert seeds.shape == (64,)
        assert seeds.unique().numel() == 64
        assert (seeds >= 0).all()
        # Uniform in [0, 2^63): each half of the range is missed by all 64 with probability 2^-64.
        assert seeds.max() >= 2**62 > seeds.min()
