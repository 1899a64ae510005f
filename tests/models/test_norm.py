"""The norms with their activation equal torch's modules; running statistics follow the passes that may update them."""

from __future__ import annotations

import contextlib
import time

import pytest
import torch
from torch import Tensor, nn

from sivae import ops
from sivae.models.norm import activated, batch_norms, batch_statistics, make_norm
from tests.models.samples import small_conv


def _statistics(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.named_buffers()}


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_without_an_update_the_batch_still_normalizes_and_statistics_stay() -> None:
    model = small_conv()
    x = torch.rand(4, 3, 8, 8)
    before = _statistics(model)
    with batch_statistics(model.encoder, update=False):
        silent = model.encoder(x)
    assert _same(_statistics(model), before)
    usual = model.encoder(x)
    assert torch.equal(silent, usual)  # both by the batch's statistics
    after = _statistics(model.encoder)
    assert all(int(value) == 1 for name, value in after.items() if name.endswith("tracked"))
    assert not any(torch.equal(value, before[f"encoder.{name}"]) for name, value in after.items())
    assert _same(_statistics(model.decoder), {name[8:]: value for name, value in before.items() if name[0] == "d"})


def test_with_an_update_statistics_change_as_outside() -> None:
    inside, outside = small_conv(), small_conv()
    x = torch.rand(4, 3, 8, 8)
    with batch_statistics(inside, update=True):
        inside(x)
    outside(x)
    assert _same(_statistics(inside), _statistics(outside))


def test_contexts_nest_and_end_after_an_error() -> None:
    model = small_conv()
    x = torch.rand(4, 3, 8, 8)
    start = _statistics(model)
    with pytest.raises(RuntimeError, match="stop"), batch_statistics(model, update=False):
        with batch_statistics(model.encoder, update=True):
            model(x)
        moved = _statistics(model.encoder)
        model(x)
        assert _same(_statistics(model.encoder), moved)
        raise RuntimeError("stop")
    assert int(moved["entry.norm.num_batches_tracked"]) == 1
    assert _same(_statistics(model.decoder), {name[8:]: value for name, value in start.items() if name[0] == "d"})
    model(x)
    assert all(int(value) == 2 for name, value in model.encoder.named_buffers() if name.endswith("tracked"))


def test_eval_mode_uses_the_running_statistics_inside_too() -> None:
    model = small_conv().eval()
    x = torch.rand(4, 3, 8, 8)
    expected = model(x)
    for update in (False, True):
        before = _statistics(model)
        with batch_statistics(model, update=update):
            assert torch.equal(model(x), expected)
        assert _same(_statistics(model), before)


def test_all_batch_norms_of_torch_work_and_one_without_statistics_gets_none() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False))
    x = torch.rand(5, 3)
    for update in (True, False):
        with batch_statistics(network, update=update):
            network(x)
    assert int(network[0].num_batches_tracked) == 1
    assert not network[1].track_running_stats
    with batch_statistics(network[0], update=False):
        network(x)
    assert int(network[0].num_batches_tracked) == 1
    with batch_statistics(nn.Linear(3, 3), update=False) as nothing:
        assert nothing is None


def test_a_context_does_not_search_the_modules_again() -> None:
    network = nn.Sequential(*(nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)) for _ in range(100)))
    assert batch_norms(network) is batch_norms(network)

    def seconds(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            with batch_statistics(network, update=False):
                pass
        return (time.perf_counter() - start) / count

    start = time.perf_counter()
    for _ in range(20):
        list(network.modules())
    walk = (time.perf_counter() - start) / 20
    seconds(1)
    assert min(seconds(20) for _ in range(5)) < walk


def _norm_and_images(dtype: torch.dtype = torch.float32) -> tuple[nn.BatchNorm2d, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    norm = nn.BatchNorm2d(5, momentum=0.3)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(5, generator=generator))
        norm.bias.copy_(torch.randn(5, generator=generator))
    x, residual = torch.randn(2, 4, 5, 6, 6, generator=generator).to(dtype)
    return norm, *(values.contiguous(memory_format=torch.channels_last) for values in (x, residual))


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("given", [False, True], ids=["alone", "with a residual"])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
def test_an_activated_batch_norm_is_what_modules_of_torch_compute(
    layout: torch.memory_format, given: bool, momentum: float | None
) -> None:
    """Values, gradients and running statistics. 1e-5 is 168 roundings of float32 of numbers of order 1."""
    results = []
    for fused in (True, False):
        norm, x, residual = _norm_and_images()
        norm.momentum = momentum
        x, residual = (values.contiguous(memory_format=layout).requires_grad_() for values in (x, residual))
        if fused:
            y = activated(norm, x, 0.2, residual=residual if given else None)
        else:
            y = nn.functional.leaky_relu(norm(x) + (residual if given else 0.0), 0.2)
        y.square().sum().backward()
        gradients = [x.grad, norm.weight.grad, norm.bias.grad, *([residual.grad] if given else [])]
        results.append([y, *gradients, norm.running_mean, norm.running_var])
        assert norm.num_batches_tracked == 1
    for one, other in zip(*results, strict=True):
        assert ((one - other).abs() <= 1e-5 * (1 + other.abs())).all()


def test_a_gradient_penalty_is_that_of_modules_of_torch() -> None:
    """float64; 1e-12 is a few thousand roundings of numbers of order 1, such as the penalty's gradients are."""
    results = []
    for layout in (torch.channels_last, torch.contiguous_format):
        norm, x, residual = _norm_and_images(torch.float64)
        norm.double()
        x, residual = (values.contiguous(memory_format=layout).requires_grad_() for values in (x, residual))
        y = activated(norm, x.clone(), 0.2, residual=residual)
        (gradient,) = torch.autograd.grad(y.square().mean(), x, create_graph=True)
        penalty = gradient.square().sum()
        results.append([penalty, *torch.autograd.grad(penalty, (x, residual, norm.weight, norm.bias))])
    for one, other in zip(*results, strict=True):
        assert one.any() and ((one - other).abs() <= 1e-12 * (1 + other.abs())).all()


@pytest.mark.skipif("native" not in ops.available_backends(), reason="modules of torch compute it elsewhere")
class TestWhereOneOpRuns:
    """The op has an autograd function of its own."""

    def fuses(self, norm: nn.Module, x: Tensor, residual: Tensor | None = None) -> bool:
        y = activated(norm, x.clone(memory_format=torch.preserve_format), 0.2, residual=residual)
        assert y.grad_fn is not None
        return "BatchNormFunction" in y.grad_fn.name()

    @pytest.mark.parametrize("update", [False, True])
    def test_batch_norm_in_training_mode(self, update: bool) -> None:
        norm, x, residual = _norm_and_images()
        with batch_statistics(norm, update=update):
            assert self.fuses(norm, x) and self.fuses(norm, x, residual)
        assert int(norm.num_batches_tracked) == 2 * update

    def test_bfloat16_of_autocast(self) -> None:
        norm, x, residual = _norm_and_images(torch.bfloat16)
        assert self.fuses(norm, x, residual)
        assert norm.running_mean.dtype == torch.float32

    def test_not_where_the_module_does_more_or_less(self) -> None:
        norm, x, residual = _norm_and_images()
        synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm2d(5)))[0]
        assert not self.fuses(synchronized, x)
        assert not self.fuses(make_norm("group", 5), x)
        assert not self.fuses(norm, x.contiguous())
        assert not self.fuses(norm, x, residual.double())
        assert not self.fuses(norm.eval(), x)
        norm.train().momentum = None
        assert not self.fuses(norm, x)

    def test_not_where_a_hook_waits(self) -> None:
        norm, x, residual = _norm_and_images()
        kept: list[Tensor] = []
        handle = norm.register_forward_hook(lambda _module, _inputs, result: kept.append(result))
        assert not self.fuses(norm, x, residual) and len(kept) == 1
        # What the hook keeps does not change afterwards.
        assert torch.equal(kept[0], nn.functional.batch_norm(x, None, None, norm.weight, norm.bias, training=True))
        handle.remove()
        assert self.fuses(norm, x)

    def test_not_where_a_hook_of_all_modules_waits(self) -> None:
        norm, x, _ = _norm_and_images()
        called: list[nn.Module] = []
        for register in (
            nn.modules.module.register_module_forward_pre_hook,
            nn.modules.module.register_module_forward_hook,
            nn.modules.module.register_module_full_backward_pre_hook,
            nn.modules.module.register_module_full_backward_hook,
        ):
            called.clear()
            handle = register(lambda module, *_: called.append(module))
            try:
                activated(norm, x.clone().requires_grad_(), 0.2).sum().backward()
            finally:
                handle.remove()
            assert called == [norm], register
        assert self.fuses(norm, x)

    @pytest.mark.parametrize("name", ["triton", "reference"])
    def test_not_where_another_backend_is_named(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also where that one does not run on the CPU, as the modules of torch do."""
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        norm, x, _ = _norm_and_images()
        with ops.use_backend(name):
            assert not self.fuses(norm, x)

    @pytest.mark.parametrize("backend", [None, "reference"])
    def test_transforms_of_torch_func(self, backend: str | None) -> None:
        """1e-5 is 168 roundings of float32 of numbers of order 1."""
        norm, x, residual = _norm_and_images()
        xs, residuals = torch.stack([x, 2 * x + residual]), torch.stack([residual, x])
        # The samples of vmap are channels-last, as x is.
        with batch_statistics(norm, update=False), ops.use_backend(backend) if backend else contextlib.nullcontext():
            each = [activated(norm, one.clone(), 0.2, residual=other) for one, other in zip(xs, residuals, strict=True)]
            at_once = torch.vmap(lambda one, other: activated(norm, one, 0.2, residual=other))(xs, residuals)
            gradient = torch.func.grad(lambda one: activated(norm, one, 0.2).square().sum())(x)
            x.requires_grad_()
            (expected,) = torch.autograd.grad(activated(norm, x, 0.2).square().sum(), x)
        assert ((at_once - torch.stack(each)).abs() <= 1e-5 * (1 + at_once.abs())).all()
        assert ((gradient - expected).abs() <= 1e-5 * (1 + expected.abs())).all()

    def test_one_value_per_channel_is_refused_as_by_torch(self) -> None:
        norm, x, _ = _norm_and_images()
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            activated(norm, x[:1, :, :1, :1], 0.2)

    def test_compiled_and_exported(self) -> None:
        """1e-5 is 168 roundings of float32 of numbers of order 1."""
        norm, x, residual = _norm_and_images()
        compiled = torch.compile(lambda x, residual: activated(norm, x, 0.2, residual=residual), fullgraph=True)
        once = activated(norm, x, 0.2, residual=residual)
        mean = norm.running_mean.clone()
        assert ((compiled(x, residual) - once).abs() <= 1e-5 * (1 + once.abs())).all()
        assert not torch.equal(norm.running_mean, mean)  # also updated by the compiled pass

        nodes = torch.export.export(_Activated(norm), (x,)).graph.nodes
        assert not any("sivae" in str(node.target) for node in nodes)


def _group_norm_and_images(dtype: torch.dtype = torch.float32) -> tuple[nn.GroupNorm, Tensor]:
    generator = torch.Generator().manual_seed(0)
    norm = nn.GroupNorm(3, 6)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(6, generator=generator))
        norm.bias.copy_(torch.randn(6, generator=generator))
    return norm.to(dtype), torch.randn(4, 6, 6, 6, generator=generator).to(dtype)


@pytest.mark.parametrize("given", [False, True], ids=["alone", "with a residual"])
@pytest.mark.parametrize("slope", [0.2, 1.0])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
def test_an_activated_group_norm_is_what_modules_of_torch_compute(
    layout: torch.memory_format, slope: float, given: bool
) -> None:
    """Values, gradients and a gradient penalty in float64; 1e-12 is a few thousand roundings of numbers of order 1."""
    results = []
    for fused in (True, False):
        norm, x = _group_norm_and_images(torch.float64)
        x = x.contiguous(memory_format=layout).requires_grad_()
        residual = x.detach().flip(0) if given else None
        if fused:
            y = activated(norm, x, slope, residual=residual)
        else:
            y = nn.functional.leaky_relu(norm(x) + (0.0 if residual is None else residual), slope)
        (gradient,) = torch.autograd.grad(y.square().mean(), x, create_graph=True)
        gradient.square().sum().backward()
        results.append([y, gradient, x.grad, norm.weight.grad, norm.bias.grad])
    for one, other in zip(*results, strict=True):
        assert ((one - other).abs() <= 1e-12 * (1 + other.abs())).all()


class _Activated(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return activated(self.norm, x, 0.2)


@pytest.mark.skipif("native" not in ops.available_backends(), reason="modules of torch compute it elsewhere")
class TestWhereGroupNormIsOneOp:
    """The op has an autograd function of its own."""

    def fuses(self, norm: nn.Module, x: Tensor) -> bool:
        y = activated(norm, x.clone(memory_format=torch.preserve_format), 0.2)
        assert y.grad_fn is not None
        return "GroupNormFunction" in y.grad_fn.name()

    def test_in_both_layouts_and_modes(self) -> None:
        norm, x = _group_norm_and_images()
        assert self.fuses(norm, x) and self.fuses(norm, x.contiguous(memory_format=torch.channels_last))
        assert self.fuses(norm.eval(), x) and self.fuses(norm, x.bfloat16())

    def test_not_where_a_hook_waits_or_another_backend_is_named(self) -> None:
        norm, x = _group_norm_and_images()
        with ops.use_backend("reference"):
            assert not self.fuses(norm, x)
        norm.register_forward_hook(lambda *_: None)
        assert not self.fuses(norm, x)

    def test_not_where_torch_traces(self) -> None:
        """A trace has to run without this package."""
        norm, x = _group_norm_and_images()
        nodes = torch.jit.trace(_Activated(norm), (x,)).inlined_graph.nodes()
        assert {node.kind().split("::")[0] for node in nodes} <= {"aten", "prim"}
        traced = torch.fx.symbolic_trace(_Activated(norm))
        assert [node.op for node in traced.graph.nodes if node.op == "call_module"] == ["call_module"]

    def test_an_eps_of_zero_is_the_modules(self) -> None:
        _, x = _group_norm_and_images()
        assert not self.fuses(nn.GroupNorm(2, 6, eps=0.0), x)

    def test_a_group_of_one_value_is_refused_as_by_torch(self) -> None:
        _, x = _group_norm_and_images()
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            activated(nn.GroupNorm(6, 6), x[:1, :, :1, :1], 0.2)

    def test_compiled_and_exported(self) -> None:
        """1e-5 is 168 roundings of float32 of numbers of order 1."""
        norm, x = _group_norm_and_images()

        once = _Activated(norm)(x.clone())
        compiled = torch.compile(_Activated(norm), fullgraph=True, backend="aot_eager")
        assert ((compiled(x.clone()) - once).abs() <= 1e-5 * (1 + once.abs())).all()
        program = torch.export.export(_Activated(norm), (x.clone(),))
        assert not any("sivae" in str(node.target) for node in program.graph.nodes)
        assert ((program.module()(x.clone()) - once).abs() <= 1e-5 * (1 + once.abs())).all()
