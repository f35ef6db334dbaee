"""Give each (seed, purpose, epoch) a random stream of its own, so that nothing drawn depends on what was drawn before."""

import hashlib

import torch


def derive(seed: int, purpose: str, epoch: int = 0) -> int:
    """Hash (seed, purpose, epoch) into a 63-bit seed by SHA-256: streams of different purposes are independent."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str, epoch: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the stream of this seed, purpose and epoch, at its start."""
    return torch.Generator(device).manual_seed(derive(seed, purpose, epoch))
