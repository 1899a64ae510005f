"""Three ways to train one autoencoder, in equal seconds: plain, with a PatchGAN critic, and with its encoder as critic.

`python -m benchmarks.autoencoder` trains all three with several seeds on a CPU, measures them and writes a page.
"""
