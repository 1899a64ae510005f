"""The guard skips harmful updates, reports them, and waits for the device only in `check`."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sivae.training.guard import EXPLOSION, SEVERAL, UpdateGuard

Make = Callable[[nn.Module], torch.optim.Optimizer]


def _adam(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=0.1, fused=True)


def _sgd(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=0.1)


class _Training:
    """Two networks with given gradients."""

    def __init__(self, make: Make = _adam, buffers: list[Tensor] | None = None) -> None:
        torch.manual_seed(0)
        self.networks = {"encoder": nn.Linear(2, 3), "decoder": nn.Linear(3, 2)}
        self.optimizers = {name: make(network) for name, network in self.networks.items()}
        self.guard = UpdateGuard(self.optimizers.values(), buffers or [])

    def iterate(self, rec: float = 1.0, **gradients: float) -> None:
        """Run one iteration with gradients of 1, except one element of the named network."""
        for name, network in self.networks.items():
            for parameter in network.parameters():
                parameter.grad = torch.ones_like(parameter)
            if name in gradients:
                assert network.bias.grad is not None
                network.bias.grad[1] = gradients[name]
            self.guard.apply(self.optimizers[name])
        self.guard.watch({"rec": torch.tensor(rec), "kl_real": torch.tensor(2.0)})

    def weights(self, name: str) -> Tensor:
        return self.networks[name].weight.detach().clone()


@pytest.mark.parametrize("make", [_adam, _sgd])
def test_good_updates_equal_those_of_the_optimizer_alone(make: Make) -> None:
    guarded, plain = _Training(make), _Training(make)
    for _ in range(3):
        guarded.iterate()
        for name, network in plain.networks.items():
            for parameter in network.parameters():
                parameter.grad = torch.ones_like(parameter)
            plain.optimizers[name].step()
    assert guarded.guard.check() is None
    for name in guarded.networks:
        assert torch.equal(guarded.weights(name), plain.weights(name))


def test_a_parameter_without_a_gradient_does_not_change() -> None:
    training = _Training()
    training.networks["encoder"].bias.requires_grad_(False)
    before = training.networks["encoder"].bias.clone()
    training.networks["encoder"].weight.grad = torch.ones(3, 2)
    training.guard.apply(training.optimizers["encoder"])
    training.guard.watch({"rec": torch.tensor(1.0)})
    assert torch.equal(training.networks["encoder"].bias, before)
    assert training.guard.check() is None


@pytest.mark.parametrize("make", [_adam, _sgd])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])  # the square of the last overflows
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_an_update_that_is_not_finite_changes_nothing(part: str, value: float, make: Make) -> None:
    training = _Training(make)
    for _ in range(4):
        training.iterate()
    before = training.weights(part)
    training.iterate(rec=math.inf, **{part: value})
    assert torch.equal(training.weights(part), before)
    other = "decoder" if part == "encoder" else "encoder"
    training.iterate()
    reference = _Training(make)
    for _ in range(6):
        reference.iterate()
    assert torch.equal(training.weights(other), reference.weights(other))  # is not affected
    if make is _adam:  # moments and step count of the one that was left out are as if it had not been there
        one_less = _Training(make)
        for _ in range(5):
            one_less.iterate()
        assert torch.equal(training.weights(part), one_less.weights(part))

    trouble = training.guard.check()
    assert trouble is not None
    assert (trouble.step, trouble.iterations, trouble.in_a_row) == (5, 1, 1)
    assert trouble.losses == {"rec": math.inf, "kl_real": 2.0}
    assert not trouble.diverged
    assert str(trouble) == ("an update was not finite or exploding, and left out, from step 5 on (rec inf, kl_real 2)")
    assert training.guard.check() is None  # said once


def test_an_exploding_update_is_skipped_once_the_average_is_reliable() -> None:
    training = _Training()
    training.iterate(encoder=1e6)  # who can tell this early
    assert training.guard.check() is None
    training = _Training()
    for _ in range(100):
        training.iterate()
    usual = math.sqrt(9.0)  # the norm of the encoder's nine gradients of 1
    training.iterate(encoder=0.9 * EXPLOSION * usual)
    assert training.guard.check() is None
    before = training.weights("encoder")
    training.iterate(encoder=20.0 * EXPLOSION * usual)  # the one before has raised the average about tenfold
    assert torch.equal(training.weights("encoder"), before)
    assert training.guard.check() is not None


def test_several_in_a_row_are_a_divergence_at_any_time_of_the_check() -> None:
    training = _Training()
    for _ in range(SEVERAL - 1):
        training.iterate(decoder=math.nan)
    trouble = training.guard.check()
    assert trouble is not None and not trouble.diverged
    training.iterate(decoder=math.nan)
    trouble = training.guard.check()
    assert trouble is not None and trouble.diverged
    assert (trouble.step, trouble.iterations, trouble.in_a_row) == (1, 1, SEVERAL)  # reported with its first step
    training.iterate()
    for _ in range(3):
        training.iterate(decoder=math.nan)
        training.iterate()
    trouble = training.guard.check()
    assert trouble is not None and not trouble.diverged
    assert (trouble.iterations, trouble.in_a_row) == (3, 1)


def test_a_series_that_has_not_ended_is_reported() -> None:
    training = _Training()
    training.iterate()
    training.guard.check()
    assert not training.guard.in_series
    training.iterate(decoder=math.nan)
    training.guard.check()
    assert training.guard.in_series
    training.iterate()
    training.guard.check()
    assert not training.guard.in_series


def test_the_average_starts_over_with_another_loss() -> None:
    training = _Training()
    for _ in range(100):
        training.iterate()
    training.guard.start_over()
    training.iterate(encoder=20.0 * EXPLOSION)
    assert training.guard.check() is None


def test_a_network_without_gradients_does_not_count() -> None:
    """Its norm of 0 would make the first updates after it is frozen look like an explosion."""
    training = _Training()
    before = training.guard.state()
    training.networks["decoder"].zero_grad()
    training.guard.apply(training.optimizers["decoder"])
    after = training.guard.state()
    assert torch.equal(after["count"], before["count"]) and torch.equal(after["mean"], before["mean"])


def test_running_statistics_are_restored_with_a_skipped_update() -> None:
    statistics = torch.zeros(3)
    training = _Training(buffers=[statistics])
    statistics.fill_(1.0)
    training.iterate()
    statistics.fill_(math.nan)
    training.iterate(encoder=math.nan)
    assert torch.equal(statistics, torch.ones(3))
    statistics.fill_(2.0)
    training.iterate()
    assert torch.equal(statistics, torch.full((3,), 2.0))


def test_a_guard_continues_from_a_stored_state() -> None:
    whole, first, second = _Training(), _Training(), _Training()
    for _ in range(100):
        whole.iterate()
        first.iterate()
    for training in (whole, first):
        training.iterate(encoder=math.nan)
        training.guard.check()
    second.guard.load_state(first.guard.state(), 101)
    for training in (whole, second):
        training.iterate(encoder=1e7)  # exploding, compared with the average
        training.iterate(encoder=math.nan)
        trouble = training.guard.check()
        assert trouble is not None
        assert (trouble.step, trouble.iterations, trouble.in_a_row) == (101, 2, 3)


def test_gradients_are_reduced_before_they_are_examined() -> None:
    network = nn.Linear(2, 2)
    optimizer = _adam(network)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)

    def poison(gradients: list[Tensor]) -> None:
        gradients[0].fill_(math.nan)  # another process's

    guard = UpdateGuard([optimizer], reduce=poison)
    before = network.weight.clone()
    guard.apply(optimizer)
    assert torch.equal(network.weight, before)


def test_watching_does_not_wait_for_the_device() -> None:
    parameter = nn.Parameter(torch.empty(4, device="meta"))  # reading a value of it raises
    parameter.grad = torch.empty(4, device="meta")
    optimizer = torch.optim.Adam([parameter], lr=0.1, foreach=True)
    optimizer._step_supports_amp_scaling = True  # as the fused one, which has no kernel there
    guard = UpdateGuard([optimizer])
    guard.watch({"rec": torch.empty((), device="meta")})
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        guard.check()
