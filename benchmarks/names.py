"""The names of what `sivae bench` measures. Imports nothing, so that its help appears at once."""

OPS = (
    "loss",
    "exp_elbo",
    "reconstruction_error",
    "reparameterize_kl",
    "reparameterize",
    "gaussian_kl",
    "styled_instance_norm",
    "styled_instance_norm_channels_last",
    "group_norm_silu",
    "group_norm_silu_channels_last",
    "batch_norm_leaky_relu",
    "chamfer_distance",
    "chamfer_distance_over_cdist",
    "mixture_log_prob",
    "mixture_log_prob_over_products",
)
# Whole training iterations: on points, on images with the convolutional model, on images with the style model.
STEP, IMAGE_STEP, STYLE_STEP = "step", "image_step", "style_step"
OF_IMAGES = (IMAGE_STEP, STYLE_STEP)
ITERATIONS = (STEP, *OF_IMAGES)
NAMES = (*OPS, *ITERATIONS)
# The parts of `reparameterize_kl` are left out, and the iterations on images, which take minutes on a GPU.
DEFAULT_NAMES = tuple(name for name in NAMES if name not in ("reparameterize", "gaussian_kl", *OF_IMAGES))
MODES = ("forward", "backward", "forward+backward")
DTYPES = ("float64", "float32", "bfloat16", "float16")
DEFAULT_DTYPES = ("float32", "bfloat16")
EAGER, COMPILED = "eager", "torch.compile"  # the variants that speed-ups are given over
