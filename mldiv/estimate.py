"""How long a study would take, from a few steps timed here and now."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from mldiv import evaluate
from mldiv.config import TrialConfig
from mldiv.data import ImageData
from mldiv.epochs import dataset, epoch_batches, steps_per_epoch
from mldiv.pair import MutualPair
from mldiv.rehearse import Work

#: Seconds until a standing worker group takes its first trial (README, "How it works").
GROUP_START = 30.0
STEPS = 3


@dataclass(frozen=True)
class Cost:
    """Seconds on one worker with one thread: an epoch of each stage, one of pretraining, the test at a trial's end."""

    stage_1: float
    stage_2: float
    pretraining: float
    test: float

    def seconds(self, work: Work) -> float:
        return (
            work.first_stage * self.stage_1
            + work.second_stage * self.stage_2
            + work.pretraining * self.pretraining
            + work.trials * self.test
        )


def measure(config: TrialConfig) -> Cost:
    """Time a few steps of each stage and one evaluation of the pair on this machine's processor or GPU."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = dataset(config)
    steps = steps_per_epoch(config, data)
    size = data.train.images.shape[-1]
    pair = MutualPair(config, data.classes, data.channels, len(data.train), image_size=size).to(device)
    images, labels = next(epoch_batches(config, data, 0, "estimate", device))

    def step(diverse: bool) -> None:
        noise = [torch.randn(pair.peer_1.mean.numel(), device=device) for _ in range(2)]
        with evaluate.precision(config, device):
            loss, _ = pair(images, labels, *noise, diverse)
        loss.backward()

    first, second = (_median_seconds(partial(step, diverse), device) for diverse in (False, True))
    evaluation = _median_seconds(lambda: _evaluate(pair, data, config, device), device, repeats=1)
    images_tested = (len(data.test) + len(data.validation)) * config.test_samples
    test = evaluation * images_tested / (len(data.validation) * config.validation_samples)
    return Cost(steps * first + evaluation, steps * second + evaluation, steps * first / 2, test)


def _evaluate(pair: MutualPair, data: ImageData, config: TrialConfig, device: torch.device) -> None:
    evaluate.predictives(pair, data, "validation", samples=config.validation_samples, epoch=0, device=device)
    evaluate.feature_kl(pair, data, "validation", epoch=0, device=device)


def _median_seconds(run: Callable[[], None], device: torch.device, repeats: int = STEPS) -> float:
    run()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]
