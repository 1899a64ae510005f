"""Run the tests of the ops on the CUDA kernels without a GPU: the CPU runs the kernels.

Only a GPU can test its own exp, log and sine pair, contraction to fused multiply-adds, real concurrency, streams and
graphs.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.native.emulated import ADDRESS, UNDEFINED, make_package, missing_tool, run_python

MISSING = missing_tool()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"the kernels cannot be compiled for the CPU: {MISSING}")

IDENTITY = "from sivae import _C, ops; print(_C.cpu_isa(), *ops.available_backends(), _C.__file__, sep='\\n')"

# Left out of tests/ops: tests that run no kernel or are not about one (the choice of a backend, other backends,
# opcheck, torch.compile), threads and instruction sets of the CPU, finite differences (gradients are compared with the
# reference's), and long repetitions: of the tests that count allocations all but one layout, of these and of megapixel
# images all kinds but one, of large gradients all offsets but one, of styled norms with every operand all dtypes but
# one (test_styled_norm_kernels has the others), and the memory of clouds too large for an emulation.
FILES = [
    f"tests/ops/test_{name}.py"
    for name in (
        "parity",
        "gradients",
        "layouts",
        "accuracy",
        "priors",
        "philox",
        "determinism",
        "errors",
        "registration",
        "styled_norm",
        "styled_norm_kernels",
        "chamfer",
        "mixture",
        "group_norm",
    )
]
CHOICE = (
    "native and not opcheck and not compile and not Compiled and not inductor and not dynamic_shapes"
    " and not weights_that_change and not TestThreads and not number_of_threads and not gradcheck and not TestGradients"
    " and not (TestViewsAreReadInPlace and (not chunk or l1 or bce)) and not (megapixel and (l1 or bce))"
    " and not (larger_than_the_caches and not native-1) and not past_the_caches"
    " and not (everything_given and not float32) and not memory_grows"
)

# The bits do not depend on the order of threads and blocks: no barrier is missing.
BITS = """
import hashlib
import torch
from tests.ops.styled_norm_parity import LAYOUTS, make_case
from tests.ops.test_determinism import IMAGE_SHAPES, LATENT_SHAPES, exponentials, images, latents
from tests.ops.test_chamfer import SHAPES as CLOUDS, clouds, results as chamfer_distances
from tests.ops.group_norm_parity import make_case as group_norm, results as group_norms
from tests.ops.mixture_parity import mixture
from tests.ops.test_mixture import SHAPES as MIXTURES, results as mixtures
from tests.ops.test_styled_norm_kernels import results as styled_norms

digest = hashlib.sha256()
results = [latents(shape, dtype, "native") for shape in LATENT_SHAPES for dtype in (torch.float32, torch.bfloat16)]
results += [images(shape, torch.float32, kind, "native") for shape in IMAGE_SHAPES for kind in ("mse", "bce")]
results += [exponentials(batch, "native") for batch in (1, 1000, 5000)]
torch.manual_seed(4)
results += [chamfer_distances("native", *clouds(shape)) for shape in CLOUDS]
results += [mixtures("native", *mixture(*shape)) for shape in MIXTURES]
results += [group_norms("native", group_norm((2, 12, 33, 9), 3, layout=layout)) for layout in LAYOUTS]
shapes = [(3, 8, 4, 4), (2, 8, 16, 16), (1, 3, 33, 35), (1, 8, 64, 64), (1, 4, 128, 132)]
results += [styled_norms("native", make_case(s, torch.bfloat16, layout=layout)) for s in shapes for layout in LAYOUTS]
for tensor in (tensor for tensors in results for tensor in tensors):
    digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
print(digest.hexdigest())
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("emulated")
    make_package(folder, UNDEFINED)
    return folder


def run_tests(folder: Path, choice: str, *files: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on the package. Messages of the emulator and the sanitizers go to the standard error."""
    options = ("-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--capture=sys")
    return run_python(folder, "-m", "pytest", *options, "-k", choice, *files, **environment)


def passed(done: subprocess.CompletedProcess[str]) -> int:
    """The number of tests that passed; fails if one did not."""
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    summary = re.search(r"(\d+) passed", done.stdout)
    assert summary is not None, done.stdout
    return int(summary[1])


class TestKernels:
    def test_are_the_native_backend(self, package):
        done = run_python(package, "-c", IDENTITY)
        assert done.returncode == 0, done.stderr
        name, *backends, file = done.stdout.splitlines()
        assert name == "emulated CUDA"
        assert "native" in backends
        assert Path(file).is_relative_to(package)

    def test_pass_the_tests_of_the_ops(self, package):
        """With misaligned accesses, array bounds and integer overflow checked, in a random order of threads."""
        assert passed(run_tests(package, CHOICE, *FILES, SIVAE_EMULATION_ORDER="random")) > 1000

    def test_need_no_order_of_threads(self, package):
        digests = {}
        for order in ("forward", "reverse", "random:1"):
            done = run_python(package, "-c", BITS, SIVAE_EMULATION_ORDER=order)
            assert done.returncode == 0, done.stderr
            digests[order] = done.stdout.split()[-1]
        assert len(set(digests.values())) == 1, digests


@pytest.mark.slow
def test_kernels_stay_within_their_tensors(tmp_path):
    """The address sanitizer must be loaded before Python."""
    make_package(tmp_path, ADDRESS)
    found = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    if not Path(found.stdout.strip()).is_absolute():
        pytest.skip("g++ has no address sanitizer here")
    # Python frees little at its end; the kernels' stacks are fibers.
    settings = {"LD_PRELOAD": found.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0"}
    choice = f"{CHOICE} and not TestViewsAreReadInPlace and not larger_than_the_caches"
    files = [file for file in FILES if "registration" not in file and "accuracy" not in file]
    assert passed(run_tests(tmp_path, choice, *files, **settings)) > 700
