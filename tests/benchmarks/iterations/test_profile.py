"""Profiles: kinds of kernels, shares from traces and averages, and the page."""

from __future__ import annotations

import pytest
import torch

from benchmarks.iterations import profile
from benchmarks.iterations.images import OURS
from benchmarks.iterations.profile import PRODUCTS, Profile, Share, shares_of_trace, short, tables
from benchmarks.names import EAGER
from benchmarks.probes import MatrixProbe
from benchmarks.timing import Spread
from tests.benchmarks import small
from tests.benchmarks.small import FACTS


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64", PRODUCTS),
        ("void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_16x16_128x2_tn_align8>", PRODUCTS),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NTN", PRODUCTS),
        ("aten::convolution_backward", PRODUCTS),
        ("aten::addmm", PRODUCTS),
        ("void cudnn::bn_fw_tr_1C11_kernel_NCHW<float, float, int, 512, true, 1, true>", "normalisation"),
        ("void at::native::batch_norm_collect_statistics_channels_last_kernel<float>", "normalisation"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("void sivae::cuda::latent_forward<float>", "ours"),
        ("sivae_native::reparameterize_kl", "ours"),
        ("triton_poi_fused_leaky_relu_3", "compiled"),
        ("Memcpy DtoD (Device -> Device)", "copies and layouts"),
        ("void cudnn::ops::nchwToNhwcKernel<float, float, float, false, true>", "copies and layouts"),
        ("void at::native::upsample_nearest2d_out_frame<float>", "pooling and resampling"),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float>>", "sums"),
        ("void at::native::vectorized_elementwise_kernel<4, leaky_relu>", "element by element"),
        ("void cudnn::ops::convertTensor_kernel<float, __nv_bfloat16>", "copies and layouts"),
        ("void at::native::upsample_bilinear2d_out_frame<float>", "pooling and resampling"),
        ("void at::native::CatArrayBatchedCopy<float>", "copies and layouts"),
        ("something new", "other"),
    ],
)
def test_kinds_of_kernels(name, kind):
    assert Share(name, 1.0, 1.0).kind == kind


def test_shares_of_a_trace_are_those_of_the_gpu():
    events = [
        {"cat": "kernel", "name": "a", "dur": 3.0},
        {"cat": "kernel", "name": "b", "dur": 10.0},
        {"cat": "kernel", "name": "a", "dur": 5.0},
        {"cat": "gpu_memcpy", "name": "Memcpy", "dur": 1.0},
        {"cat": "cpu_op", "name": "aten::add", "dur": 100.0},
        {"cat": "gpu_user_annotation", "name": "sivae: update", "dur": 100.0},
        {"name": "[memory]", "args": {}},
    ]
    found = [(share.name, share.seconds, share.calls) for share in shares_of_trace(events, calls=2)]
    assert found == [
        ("b", pytest.approx(5e-6), 0.5),
        ("a", pytest.approx(4e-6), 1.0),
        ("Memcpy", pytest.approx(5e-7), 0.5),
    ]


def made_profile(device_type: str) -> Profile:
    shares = [Share(f"kernel {index}", 1e-3, 2.0) for index in range(12)]
    return Profile(small.CONV, OURS, device_type, Spread(20e-3, 19e-3, 21e-3), shares, 10**9, 1e12)


def test_tables_hold_the_top_ten_and_what_is_left():
    kinds, top = tables(made_profile("cuda"))
    assert [line[0] for line in kinds.lines] == ["other", "no kernel runs"]
    assert kinds.lines[1][1:3] == ["8 ms", "40.0 %"]  # 20 ms less 12 of a millisecond each
    assert len(top.lines) == 11
    assert top.lines[0] == ["kernel 0", "1 ms", "5.0 %", "2"]
    assert top.lines[-1] == ["2 others", "2 ms", "10.0 %", "4"]
    assert "no kernel runs" not in [line[0] for line in tables(made_profile("cpu"))[0].lines]


def test_a_sentence_compares_the_products_with_a_large_one():
    assert profile.sentence(made_profile("cuda")) == (
        "20 ms an iteration without the profiler [19 ms, 21 ms]. Its products and convolutions are 1 GFLOP, which one "
        "large matrix product, at 1 TFLOP/s in the same rounds, would do in 1 ms: 5.0 % of it."
    )


def test_long_names_keep_both_ends():
    name = (
        "void at::native::elementwise_kernel<128, 4, (anonymous namespace)::" + "x" * 200 + "_the_functor>(int, float)"
    )
    assert short(name).startswith("elementwise_kernel<128, 4, x")
    assert short(name).endswith("_the_functor>")
    assert len(short(name)) == 90
    assert short("a | b") == "a / b"  # a cell of a table in Markdown


def test_a_profile_on_a_cpu_has_ops_of_torch(monkeypatch, tmp_path):
    monkeypatch.setattr(profile, "EFFORT", small.ITERATION_EFFORT)
    monkeypatch.setattr(profile, "_CALLS", 1)
    monkeypatch.setattr(MatrixProbe, "side_on_cpu", 16)
    found = profile.profiles(small.CONV)
    assert [one.variant for one in found] == [EAGER, OURS]
    for one in found:
        names = [share.name for share in one.shares]
        assert "aten::convolution_backward" in names
        assert one.shares == sorted(one.shares, key=lambda share: -share.seconds)
        assert one.flops > 0 and one.flops_per_second > 0
    path = tmp_path / "profile.md"
    profile.write_page(path, found, FACTS)
    page = path.read_text()
    assert page.startswith("# Where an iteration's time goes on ")
    assert f"## {small.CONV.name}, {OURS}" in page
    assert "aten::convolution_backward" in page


def test_a_variant_that_cannot_run_is_an_error(monkeypatch):
    def fails() -> object:
        raise torch.OutOfMemoryError("too large")

    monkeypatch.setattr(MatrixProbe, "side_on_cpu", 16)
    with pytest.raises(RuntimeError, match="eager: OutOfMemoryError: too large"):
        profile.profile_of(small.CONV, EAGER, lambda: fails)
