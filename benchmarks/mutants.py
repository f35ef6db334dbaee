"""Forty faults that a developer could make, as data for mutations.py: one text in one file becomes another.

Each changes what the program does, by a little and without a crash; texts stand exactly once in their file.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """words: what is broken. nearest: the tests most likely to see it; ray: in code that only tests with Ray run."""

    area: str
    path: str
    words: str
    old: str
    new: str
    nearest: tuple[str, ...]
    ray: bool = False


FAULTS = (
    # Formulas
    Fault(
        "losses", "mldiv/method/losses.py", "the prior KL's written-out gradient divides by s, not by s²",
        "scale = gradients[0] / context.prior_std**2",
        "scale = gradients[0] / context.prior_std",
        ("tests/method/test_losses.py",),
    ),
    Fault(
        "kernels", "mldiv/method/kernels.py", "the median distance counts the zeros of the diagonal",
        "rank = min(len(distances) + (max(others, 1) + 1) // 2, distances.numel())",
        "rank = (max(others, 1) + 1) // 2",
        ("tests/method/test_kernels.py",),
    ),
    Fault(
        "metrics", "mldiv/evaluation/metrics.py", "the AUROC for other images takes the test images as the positives",
        "auroc(measure(other), uncertainty)",
        "auroc(uncertainty, measure(other))",
        ("tests/evaluation/test_metrics.py",),
    ),
    # Posterior and pair
    Fault(
        "posterior", "mldiv/method/posterior.py", "after loading pretrained means sigma keeps the size of the random weights",
        "        self.rho.copy_(self._initial_rho(self.mean))\n",
        "",
        ("tests/method/test_posterior.py",),
    ),
    Fault(
        "pair", "mldiv/method/pair.py", "a peer's feature term is not detached from the others",
        "losses.feature_kl(own, other.detach(), **named)",
        "losses.feature_kl(own, other, **named)",
        ("tests/method/test_pair.py",),
    ),
    Fault(
        "pair", "mldiv/method/pair.py", "with normalization mean the feature KL too is divided by the number of weights",
        "losses.transform_scale(objective.feature_normalization, feature_kl, 1)",
        "losses.transform_scale(objective.feature_normalization, feature_kl, count)",
        ("tests/method/test_pair.py",),
    ),
    # Training and going on
    Fault(
        "resume", "mldiv/training/resume.py", "a resumed trial starts with an empty momentum",
        '    trial.optimizer.load_state_dict(trial.optimizer.state_dict() | {"state": saved["optimizer"]["state"]})\n',
        "",
        ("tests/training/test_fit.py",),
    ),
    Fault(
        "records", "mldiv/records/study_files.py", "a resumed trial keeps the line of the epoch that it writes anew",
        "isinstance(epoch := line.get(\"epoch\"), int) and epoch < epochs:",
        "isinstance(epoch := line.get(\"epoch\"), int) and epoch <= epochs:",
        ("tests/test_records.py", "tests/training/test_fit.py"),
    ),
    Fault(
        "loop", "mldiv/training/loop.py", "every epoch has the first one's shifts and flips",
        'generator(config.seed, f"{purpose} augmentation", epoch)',
        'generator(config.seed, f"{purpose} augmentation")',
        ("tests/training/test_fit.py", "tests/training/test_loop.py", "tests/datasets"),
    ),
    Fault(
        "loop", "mldiv/training/loop.py", "both peers draw the same weight noise in training",
        'generator(config.seed, f"weights {number}", epoch, device)',
        'generator(config.seed, "weights", epoch, device)',
        ("tests/training/test_loop.py", "tests/training/test_fit.py", "tests/method/test_pair.py"),
    ),
    # Shared first stages and pretraining
    Fault(
        "first_stage", "mldiv/config.py", "the identity of a first stage leaves out clip_norm",
        "clip_norm: float = _schedule(",
        "clip_norm: float = _diversity_tensor(",
        ("tests/training/first_stage/test_first_stage_identity.py",),
    ),
    Fault(
        "first_stage", "mldiv/training/first_stage.py", "a trial starts from a prefix that is longer than its own first stage",
        "if beyond < epoch <= self.config.first_stage)",
        "if beyond < epoch < self.config.epochs)",
        ("tests/training/first_stage/test_first_stage.py",),
    ),
    Fault(
        "pretraining", "mldiv/config.py", "the identity of a pretrained network leaves out its weight decay",
        "weight_decay: float = _schedule(",
        "weight_decay: float = _peers_tensor(",
        ("tests/training/first_stage/test_first_stage_identity.py", "tests/training/test_fit.py"),
    ),
    # Plan, queue, search
    Fault(
        "queue", "mldiv/sweep/queue.py", "trials go on waiting for the prefix of a trial that has ended without it",
        "        self.leads.pop(trial, None)\n",
        "",
        ("tests/sweep",),
    ),
    Fault(
        "plan", "mldiv/sweep/plan.py", "a resumed search tells Optuna of half a batch, and asks for the other half knowing it",
        "if complete and not arm.pending and all(item.answered for item in arm.batch):",
        "if not arm.pending and all(item.answered for item in arm.batch):",
        ("tests/sweep",),
    ),
    Fault(
        "search", "mldiv/sweep/arm.py", "the distance to the ideal point is taken in raw units, not in the front's ranges",
        "shares = (values - values.min(0)) / np.where(spans > 0, spans, 1.0)",
        "shares = values - values.min(0)",
        ("tests/sweep",),
    ),
    Fault(
        "plan", "mldiv/sweep/plan.py", "--no-cache shares first stages all the same",
        "store=store.place if self.queue.share else None,",
        "store=store.place,",
        ("tests/sweep",),
    ),
    # Storage
    Fault(
        "cache", "mldiv/storage/cache.py", "an entry's checksum is looked for but not compared",
        "if hashlib.sha256(payload).hexdigest().encode() != data[len(_SEAL) : start - 1]:",
        "if len(data[len(_SEAL) : start - 1]) != _DIGEST:",
        ("tests/storage/test_cache.py",),
    ),
    Fault(
        "records", "mldiv/records/checked_files.py",
        "records, entries and checkpoints are written in place, not renamed when whole",
        "            os.fsync(file.fileno())\n        os.replace(temporary, path)\n",
        "            os.fsync(file.fileno())\n        path.write_bytes(temporary.read_bytes())\n",
        ("tests/storage/test_cache_processes.py", "tests/storage/test_cache_space.py"),
    ),
    Fault(
        "cache", "mldiv/storage/cache.py", "an entry is computed without its lock",
        "        with self.hold([name]):\n            state = self.read(name, device, check)",
        "        with contextlib.nullcontext():\n            state = self.read(name, device, check)",
        ("tests/storage/test_cache_processes.py",),
    ),
    Fault(
        "remote_cache", "mldiv/storage/remote_cache.py", "a machine reads its own old copy of a pretraining's progress",
        'return self._object(path).startswith("entries/")',
        'return not self._object(path).startswith("references/")',
        ("tests/storage/test_remote_cache.py",),
    ),
    # Ray
    Fault(
        "broker", "mldiv/cluster/broker.py", "a trial that gets on fails after three deaths of its group in all",
        "            queued.attempts = 0\n",
        "",
        ("tests/cluster/test_broker.py",),
    ),
    Fault(
        "attempt", "mldiv/training/attempt.py", "whoever trains a trial does not hear which prefixes others want",
        "publish=task.publish",
        "publish=()",
        ("tests/training/test_attempt.py", "tests/sweep", "tests/cluster"),
    ),
    Fault(
        "worker_groups", "mldiv/cluster/worker_groups.py", "groups that no trial needs any more are never told to end",
        "self.broker.retire.remote(max(0, present - wanted))",
        "self.broker.retire.remote(0)",
        ("tests/cluster",),
        ray=True,
    ),
    Fault(
        "trial_client", "mldiv/cluster/trial_client.py", "when the broker dies, its trials are recorded as failed",
        'outcome = Outcome("interrupted", LOST)',
        'outcome = Outcome("failed", LOST)',
        ("tests/cluster",),
        ray=True,
    ),
    # Settings and the command
    Fault(
        "config", "mldiv/config.py", "the default initialization is allowed without a pretrained network",
        'if config.initialization != "scratch" and config.pretrain_epochs == 0 and',
        'if config.initialization == "pretrained" and config.pretrain_epochs == 0 and',
        ("tests/test_config.py",),
    ),
    Fault(
        "folder", "mldiv/cli/folder.py", "a folder's study may be continued with another selection rule",
        '"drawn", "grown", "plugin_files", "trends",',
        '"drawn", "grown", "plugin_files", "trends", "selection", "objectives",',
        ("tests/cli/test_folder.py",),
    ),
    # Data
    Fault(
        "splits", "mldiv/datasets/splits.py", "development images, in place of test data, stay among the training images",
        "everything, test = _divide(everything,",
        "_, test = _divide(everything,",
        ("tests/datasets",),
    ),
    Fault(
        "splits", "mldiv/datasets/splits.py", "test and validation images are mirrored at random where training images are",
        "        yield normalize(images, *moments), labels[chunk]\n",
        "        mirrored = torch.rand(len(images), 1, 1, 1, device=device) < 0.5 * data.flip\n"
        "        yield normalize(torch.where(mirrored, images.flip(-1), images), *moments), labels[chunk]\n",
        ("tests/datasets", "tests/evaluation/test_predictive.py"),
    ),
    Fault(
        "ood", "mldiv/datasets/ood.py", "colours become grey by their plain mean, not by luma",
        "values = grey(values)",
        "values = values.mean(1, keepdim=True)",
        ("tests/datasets/test_ood.py",),
    ),
    # Evaluation
    Fault(
        "evaluation", "mldiv/evaluation/predictive.py", "it is the softmax of the mean logits, not the mean softmax",
        "            mean = mean + probabilities.sum(0)\n"
        "            expected = expected + metrics.entropy(probabilities).sum(0)\n"
        "            partition = partition + logits.logsumexp(-1).sum(0)\n"
        "            largest = largest + logits.amax(-1).sum(0)\n"
        "    return Predictive(*(total / len(weights) for total in (mean, expected, partition, largest)))",
        "            mean = mean + logits.sum(0)\n"
        "            expected = expected + metrics.entropy(probabilities).sum(0)\n"
        "            partition = partition + logits.logsumexp(-1).sum(0)\n"
        "            largest = largest + logits.amax(-1).sum(0)\n"
        "    mean, *rest = (total / len(weights) for total in (mean, expected, partition, largest))\n"
        "    return Predictive(mean.softmax(-1), *rest)",
        ("tests/evaluation", "tests/training/test_final_scores.py"),
    ),
    Fault(
        "ranks", "mldiv/training/fit.py", "ranks evaluate with running statistics of their own, not with the mean over ranks",
        "    distributed.average_buffers(trial.pair)\n",
        "",
        ("tests/training/test_ddp.py",),
    ),
    Fault(
        "temperature_scaling", "mldiv/evaluation/temperature_scaling.py", "temperatures below 0.5 are not looked for",
        "LOWEST, HIGHEST = TEMPERATURES",
        "LOWEST, HIGHEST = 0.5, TEMPERATURES[1]",
        ("tests/evaluation/test_temperature_scaling.py",),
    ),
    # Analysis
    Fault(
        "statistics", "analysis/stats/statistics.py", "the standard error of paired differences is that of n, not of n - 1",
        "return float(np.std(values, ddof=1) / np.sqrt(len(values)))",
        "return float(np.std(values, ddof=0) / np.sqrt(len(values)))",
        ("tests/analysis/test_statistics.py", "tests/analysis/test_verdicts.py"),
    ),
    Fault(
        "bootstrap", "analysis/stats/bootstrap.py", "intervals over seeds and images hold over seeds alone",
        "images_only = max(over_images - rest, 0.0)",
        "images_only = 0.0",
        ("tests/analysis/test_statistics.py",),
    ),
    Fault(
        "columns", "analysis/records/columns.py", "the highest ECE of the table of scores is printed bold",
        '"ece": Column("ECE %", _test("ece"), "scores", "low", 100),',
        '"ece": Column("ECE %", _test("ece"), "scores", "high", 100),',
        ("tests/analysis/test_analysis.py", "tests/analysis/test_golden.py"),
    ),
    Fault(
        "effects", "analysis/comparison/effects.py", "differences are the baseline less the arm",
        "{arm: {arm: 1.0, baseline: -1.0} for arm in arms if arm != baseline}",
        "{arm: {arm: -1.0, baseline: 1.0} for arm in arms if arm != baseline}",
        ("tests/analysis/test_effects.py",),
    ),
    Fault(
        "surface", "analysis/stats/gaussian_process.py", "trials with fewer seeds get less noise instead of more",
        "counts.max() / counts)",
        "counts / counts.max())",
        ("tests/analysis/test_surface.py",),
    ),
    Fault(
        "reliability", "analysis/figures/reliability.py",
        "the curve after temperature scaling is drawn from unscaled confidences",
        "scaled = [member.scaled_confidence for member in each if",
        "scaled = [member.confidence for member in each if",
        ("tests/analysis/test_figures.py",),
    ),
    Fault(
        "answer", "analysis/answer/headline.py", "what stays after Holm's correction is judged by the p before it",
        "lost = [arm for arm in told if effects[arm].adjusted > LEVEL]",
        "lost = [arm for arm in told if effects[arm].p > LEVEL]",
        ("tests/analysis/test_analysis.py", "tests/analysis/test_golden.py"),
    ),
)  # fmt: skip
