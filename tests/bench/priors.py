"""How far an attack's prior limits it at a shallow cut: ``python -m tests.bench.priors`` (eight minutes of a core).

32 victims of the built-in images in grey at 32 × 32, 1,000 public images; the device has the first convolution and
pooling of an untrained VGG11 of a quarter of its width; one seed. Each attack with a prior rebuilds the victims twice:
of their features, and of the pictures themselves, through no encoder at all, which is the best that its prior can draw
of them. Beside each, LPIPS and on how many victims it is lower than the decoder's.
"""

import argparse
import sys

import torch

import splitleak
from splitleak.artifacts import hardware
from splitleak.datasets import load
from splitleak.measures.lpips import lpips
from splitleak.models.split import ModelConfig, build

PUBLIC, VICTIMS = 1000, 32


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attacks", nargs="+", default=["pfo", "drag", "glass"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    pictures = load("builtin").fitted(32, 1).train.floats()
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
    public, victims = pictures[order[:PUBLIC]], pictures[order[PUBLIC : PUBLIC + VICTIMS]]
    torch.manual_seed(0)
    encoder = build(ModelConfig(architecture="vgg11", cut=2, width=0.25, channels=1, size=32, classes=10)).encoder
    encoder.eval()

    def distances(name: str, device: torch.nn.Module) -> torch.Tensor:
        known = {} if name == "decoder" else {"encoder": device}
        captured = splitleak.capture(device, victims)
        return lpips(splitleak.attack(captured, public=public, query=device, name=name, **known).images, victims)

    decoder = distances("decoder", encoder)
    sys.stdout.write(f"{hardware()}\ndecoder: LPIPS {decoder.mean():.4f}\n")
    for name in options.attacks:
        for what, device in (("of features", encoder), ("of the pictures themselves", torch.nn.Identity())):
            found = distances(name, device)
            lower = int((found < decoder).sum())
            sys.stdout.write(f"{name}, {what}: LPIPS {found.mean():.4f}, lower on {lower} of {VICTIMS}\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
