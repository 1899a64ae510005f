"""The cases of the ops: which there are, and how many bytes each must move."""

from __future__ import annotations

from benchmarks.names import DEFAULT_NAMES, DTYPES, MODES, NAMES, OPS, STEP
from benchmarks.op_cases import OPERATIONS, Case, cases


def test_every_name_of_an_op_has_an_operation_and_every_dtype_is_torch_s():
    assert tuple(OPERATIONS) == OPS
    for dtype in DTYPES:
        assert str(Case(OPERATIONS["loss"], (1,), dtype).torch_dtype) == f"torch.{dtype}"


def test_moved_bytes():
    """By hand: float32 has 4 bytes, bfloat16 2; see the table in `op_cases`."""
    image, latent = Case(OPERATIONS["reconstruction_error"], (2, 5)), Case(OPERATIONS["reparameterize_kl"], (2, 5))
    assert [image.moved_bytes(mode) for mode in MODES] == [80, 120, 200]
    assert [latent.moved_bytes(mode) for mode in MODES] == [120, 200, 320]
    half = Case(OPERATIONS["reconstruction_error"], (2, 5), "bfloat16")
    assert half.moved_bytes("forward") == 40
    loss = Case(OPERATIONS["loss"], (2, 5))
    assert loss.moved_bytes("forward+backward") == 4 * (5 * 10 + 8 * 2 * 512)


def test_promised_cases_exist():
    names = {case.name for case in cases()}
    for dtype in ("float32", "bfloat16"):
        for shape in ([512, 2], [32, 128], [32, 512], [4096, 512], [8, 4, 128, 128]):
            assert f"reparameterize_kl {shape} {dtype}" in names
        for shape in ([32, 3, 32, 32], [32, 3, 256, 256], [4, 3, 1024, 1024], [16, 3, 512, 512]):
            assert f"reconstruction_error {shape} {dtype}" in names
        assert f"loss [32, 3, 256, 256] {dtype}" in names
    assert {"exp_elbo [512] float32", "exp_elbo [32] float32"} <= names


def test_large_cases_are_for_a_gpu():
    more = {case.name for case in cases(large=True)} - {case.name for case in cases()}
    assert "reparameterize_kl [65536, 512] float32" in more
    biggest = max(case.moved_bytes("forward") for case in cases(["reconstruction_error"], large=True))
    assert biggest >= 64 << 20


def test_a_quick_run_has_fewer_of_the_same_cases():
    everything = {case.name for case in cases()}
    quick = [case.name for case in cases(quick=True)]
    assert quick and set(quick) < everything
    assert {case.operation.name for case in cases(quick=True)} == set(DEFAULT_NAMES) - {STEP}


def test_a_choice_of_ops_and_dtypes():
    chosen = cases(["gaussian_kl", STEP], dtypes=["float16"])
    assert {case.operation.name for case in chosen} == {"gaussian_kl"}
    assert {case.dtype for case in chosen} == {"float16"}
    assert set(NAMES) > set(DEFAULT_NAMES)
    assert not cases(["exp_elbo"], dtypes=["bfloat16"])  # rec and kl come in float32
