"""Test that a seed is drawn once: gradients by compiled functions and checkpoints that compute activations again.

The noise that a forward pass used is in its result, as eps = (z - mu) / exp(logvar / 2); so the right gradient by
logvar is half of z - mu, times the gradient by z.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sivae import ops

WITH_INDUCTOR = pytest.mark.skipif(
    shutil.which("g++") is None, reason="inductor compiles C++ on the CPU and no g++ is found"
)
Sampler = Callable[..., Tensor]
SAMPLERS: dict[str, Sampler] = {
    "reparameterize": ops.reparameterize,
    "reparameterize_kl": lambda mu, logvar, **settings: ops.reparameterize_kl(mu, logvar, **settings)[0],
}


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def assert_gradients_are_of_the_noise_in_z(sample: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`sample` negates the latents that it is given, so that there is something to compute again before the draw.

    z and the gradients each err by at most 4e-7 (|mu| + |z - mu|) + 1e-6 exp(logvar / 2); both times that of z is
    halved.
    """
    minus_mu, minus_logvar = (torch.randn(6, 10, requires_grad=True) for _ in range(2))
    weight = torch.randn(6, 10)
    z = sample(minus_mu, minus_logvar)
    (z * weight).sum().backward()
    mu, logvar = -minus_mu.detach().double(), -minus_logvar.detach().double()
    spread = z.detach().double() - mu
    bound = weight.abs() * (4e-7 * (mu.abs() + spread.abs()) + 1e-6 * (logvar / 2).exp())
    assert torch.equal(minus_mu.grad, -weight)
    assert ((minus_logvar.grad + weight * spread / 2).abs() <= bound).all()


def assert_compiled_gradients_are_right(backend: str, compiler: str, budget: float) -> None:
    """Each op samples its part of a batch, with a seed of its own."""

    def call(mu: Tensor, logvar: Tensor) -> Tensor:
        parts = zip(SAMPLERS.values(), (-mu).chunk(2), (-logvar).chunk(2), strict=True)
        return torch.cat([sample(*latents, backend=backend) for sample, *latents in parts])

    with torch._functorch.config.patch(activation_memory_budget=budget):
        assert_gradients_are_of_the_noise_in_z(torch.compile(call, fullgraph=True, backend=compiler))


class TestCompiled:
    @pytest.mark.parametrize("budget", [0.9, 0.5, 0.0])
    def test_memory_budget(self, compiled_backend, budget):
        assert_compiled_gradients_are_right(compiled_backend, "aot_eager", budget)

    def test_memory_budget_of_the_reference(self):
        assert_compiled_gradients_are_right("reference", "aot_eager", 0.5)

    @WITH_INDUCTOR
    @pytest.mark.parametrize("budget", [0.5, 0.0])
    def test_memory_budget_of_inductor(self, compiled_backend, budget):
        """It replaces the draw by its own operators before it divides the graph."""
        assert_compiled_gradients_are_right(compiled_backend, "inductor", budget)

    @pytest.mark.parametrize("budget", [0.5, 0.0])
    def test_memory_budget_with_normals(self, compiled_backend, budget):
        """The noise of the style-based decoder: a product's gradient is its other factor."""

        def call(x: Tensor) -> Tensor:
            return 2 * x * ops.philox_normal(ops.draw_seed(x.device), x.shape, backend=compiled_backend)

        x = torch.full((6, 10), 0.5, requires_grad=True)
        with torch._functorch.config.patch(activation_memory_budget=budget):
            normals = torch.compile(call, fullgraph=True, backend="aot_eager")(x)
            normals.sum().backward()
        assert torch.equal(x.grad, 2 * normals)

    def test_memory_budget_under_vmap(self, compiled_backend):
        """Each row has a seed of its own."""

        def call(mu: Tensor, logvar: Tensor) -> Tensor:
            return ops.reparameterize(-mu, -logvar, backend=compiled_backend)

        rows = torch.func.vmap(call, randomness="different")
        with torch._functorch.config.patch(activation_memory_budget=0.5):
            assert_gradients_are_of_the_noise_in_z(torch.compile(rows, fullgraph=True, backend="aot_eager"))

    @pytest.mark.parametrize("budget", [1.0, 0.0])
    def test_checkpoint_inside(self, compiled_backend, budget):
        def call(mu: Tensor, logvar: Tensor) -> Tensor:
            return ops.reparameterize(-mu, -logvar, backend=compiled_backend)

        def checkpointed(mu: Tensor, logvar: Tensor) -> Tensor:
            z: Tensor = checkpoint(call, mu, logvar, use_reentrant=False, preserve_rng_state=False)
            return z

        with torch._functorch.config.patch(activation_memory_budget=budget):
            compiled = torch.compile(checkpointed, fullgraph=True, backend="aot_eager")
            assert_gradients_are_of_the_noise_in_z(compiled)

    def test_region_with_a_budget(self, compiled_backend):
        region = getattr(torch.autograd.graph, "region_activation_memory_budget", None)
        if region is None:
            pytest.skip(f"torch {torch.__version__} has no budgets of regions")

        def compiled(budget: float) -> Callable[[Tensor, Tensor], Tensor]:
            torch._dynamo.reset()  # or the second budget would be a symbol

            def call(mu: Tensor, logvar: Tensor) -> Tensor:
                with region(budget):
                    return ops.reparameterize(-mu, -logvar, backend=compiled_backend)

            return torch.compile(call, fullgraph=True, backend="aot_eager")

        assert_gradients_are_of_the_noise_in_z(compiled(0.5))
        with pytest.raises(Exception, match=r"draw_seed: region_activation_memory_budget is 0.*draw the seed outside"):
            compiled(0.0)(torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True))

    def test_a_generator_breaks_the_graph_and_stays_right(self, compiled_backend):
        generator = torch.Generator().manual_seed(3)

        def call(mu: Tensor, logvar: Tensor) -> Tensor:
            return ops.reparameterize(-mu, -logvar, generator=generator, backend=compiled_backend)

        with torch._functorch.config.patch(activation_memory_budget=0.0):
            assert_gradients_are_of_the_noise_in_z(torch.compile(call, backend="aot_eager"))

    def test_an_exported_graph_draws_by_an_operator_of_torch(self):
        class Sampler(torch.nn.Module):
            def forward(self, mu: Tensor, logvar: Tensor) -> Tensor:
                return ops.reparameterize(mu, logvar, backend="reference")

        graph = torch.export.export(Sampler(), (torch.zeros(2, 3), torch.zeros(2, 3))).graph
        targets = {str(node.target) for node in graph.nodes}
        assert any(target.startswith("aten.randint") for target in targets)
        assert not any(target.startswith("sivae") for target in targets)


@pytest.mark.parametrize("reentrant", [False, True], ids=["not reentrant", "reentrant"])
class TestCheckpoint:
    """Eager checkpoints, whose second pass calls the op again."""

    @pytest.mark.parametrize("name", SAMPLERS)
    def test_restored_generators_are_right(self, backend, name, reentrant):
        def call(mu: Tensor, logvar: Tensor) -> Tensor:
            return SAMPLERS[name](-mu, -logvar, backend=backend)

        assert_gradients_are_of_the_noise_in_z(lambda *latents: checkpoint(call, *latents, use_reentrant=reentrant))

    def test_a_seed_from_outside_is_right(self, backend, reentrant):
        noise = ops.PhiloxNoise(ops.draw_seed("cpu"))

        def call(mu: Tensor, logvar: Tensor) -> Tensor:
            return ops.reparameterize(-mu, -logvar, noise=noise, backend=backend)

        assert_gradients_are_of_the_noise_in_z(
            lambda *latents: checkpoint(call, *latents, use_reentrant=reentrant, preserve_rng_state=False)
        )

    @pytest.mark.parametrize("preserve", [False, True])
    @pytest.mark.parametrize("name", SAMPLERS)
    def test_a_generator_is_refused(self, backend, name, preserve, reentrant):
        generator = torch.Generator().manual_seed(3)
        mu, logvar = torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
        z = checkpoint(
            lambda mu, logvar: SAMPLERS[name](mu, logvar, generator=generator, backend=backend),
            mu, logvar, use_reentrant=reentrant, preserve_rng_state=preserve,
        )  # fmt: skip
        with pytest.raises(RuntimeError) as caught:
            z.sum().backward()
        assert str(caught.value) == (
            f"{name}: a checkpoint computes its part again and would draw another seed from `generator`, expected the "
            "noise of the first pass; draw the seed outside: noise=ops.PhiloxNoise(ops.draw_seed(device))"
        )

    def test_generators_that_are_not_restored_are_refused(self, backend, reentrant):
        x = torch.ones(2, 3, requires_grad=True)
        y = checkpoint(
            lambda x: x * ops.philox_normal(ops.draw_seed("cpu"), x.shape, backend=backend),
            x, use_reentrant=reentrant, preserve_rng_state=False,
        )  # fmt: skip
        with pytest.raises(RuntimeError) as caught:
            y.sum().backward()
        assert str(caught.value) == (
            "draw_seed: a checkpoint with preserve_rng_state=False computes its part again and would draw another "
            "seed, expected the noise of the first pass; keep preserve_rng_state=True, or draw the seed outside: "
            "noise=ops.PhiloxNoise(ops.draw_seed(device))"
        )

    def test_a_checkpoint_in_another_one(self, backend, reentrant):
        """With re-entry, the outer one runs the inner one's first pass again, from a generator that has moved on."""

        def sample(mu: Tensor, logvar: Tensor) -> Tensor:
            return ops.reparameterize(-mu, -logvar, backend=backend)

        def inner(mu: Tensor, logvar: Tensor) -> Tensor:
            z: Tensor = checkpoint(sample, mu, logvar, use_reentrant=reentrant)
            return z

        def outer(mu: Tensor, logvar: Tensor) -> Tensor:
            z: Tensor = checkpoint(inner, mu, logvar, use_reentrant=reentrant, preserve_rng_state=False)
            return z

        if reentrant:
            with pytest.raises(RuntimeError, match="reparameterize: a checkpoint with preserve_rng_state=False"):
                assert_gradients_are_of_the_noise_in_z(outer)
        else:
            assert_gradients_are_of_the_noise_in_z(outer)


def test_a_hook_may_draw_in_a_backward_pass(backend):
    """It is no second pass, whatever it draws from."""
    x, drawn = torch.zeros(2, 3, requires_grad=True), []
    generator = torch.Generator().manual_seed(3)
    x.register_hook(lambda grad: drawn.append(ops.reparameterize(grad, grad, generator=generator, backend=backend)))
    x.register_hook(lambda grad: drawn.append(ops.reparameterize(grad, grad, backend=backend)))
    x.sum().backward()
    assert len(drawn) == 2
