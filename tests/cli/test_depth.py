"""How deep the way is from a study to its loss."""

import sys
from pathlib import Path

import mldiv
from mldiv.cli.main import main
from mldiv.method import losses

MLDIV = str(Path(mldiv.__file__).parent)
TINY = [
    "epochs=2", "switch_epoch=1", "pretrain_epochs=1", "train_size=48", "validation_size=24", "test_size=24", "width=0.25",
    "batch_size=16", "test_samples=2", "validation_samples=1", "fusion_dim=16", "ood=none",
]  # fmt: skip


def ours():
    """The functions of mldiv that are being executed, the study's first; up to Python 3.11 a comprehension has a frame too."""
    frame, found = sys._getframe(1), []
    while frame is not None:
        if frame.f_code.co_filename.startswith(MLDIV) and not frame.f_code.co_name.startswith("<"):
            found.append(frame.f_code.co_qualname)
        frame = frame.f_back
    return found[::-1]


def test_from_a_study_to_its_loss_it_is_nine_calls(load_study, tmp_path, monkeypatch):
    """Without Ray; the ninth is that of the loss itself."""
    seen, expected_nll = set(), losses.expected_nll

    def watched(logits, labels):
        seen.add(tuple(ours()))
        return expected_nll(logits, labels)

    monkeypatch.setattr(losses, "expected_nll", watched)
    flags = ["--preset", "demo", "--in-process", "--seeds", "1", "--trials", "0", "--arm", "rbf", "--out", str(tmp_path / "x")]
    flags += [f"--set={setting}" for setting in TINY]
    assert main(load_study("kernel_sweep"), lambda folder, place: "", flags) == 0
    in_steps = {calls for calls in seen if calls[-1] == "MutualPair.stage_one_terms" and "measure" not in calls}
    (calls,) = in_steps  # both stages, every arm
    assert calls[0] == "main"
    assert len(calls) <= 9, " > ".join(calls)
