"""Steps as CUDA graphs, here with a stand-in for the graph: the same steps, nothing moved, refused where they differ."""

import contextlib
import weakref

import pytest
import torch
from torch import nn

from benchmarks.device_checks import Replayed, weights_after, without_graphs
from benchmarks.timing import Operations
from mldiv.config import TrialConfig
from mldiv.datasets.splits import Shapes
from mldiv.records import checked_files
from mldiv.storage.cache import Store
from mldiv.training.fit import fit
from mldiv.training.loop import let_fusion_learn, make_optimizer, make_pair, train_epoch, train_step
from mldiv.training.steps import choice
from mldiv.training.steps import graph as graphs
from mldiv.training.steps.choice import stage_step
from mldiv.training.steps.graph import GraphedStep, NotCaptured, captured
from mldiv.training.worker_cache import Workspace, dataset

CPU = torch.device("cpu")


def trained(config, data, how):
    """All that a pair and its optimiser hold after 25 steps of each stage, and every step's terms."""
    pair = make_pair(config, data.shapes)
    optimizer = make_optimizer(config, pair)
    pair.set_scales(torch.tensor(0.01))
    terms = []
    for epoch in range(10):
        diverse = epoch >= 5
        if epoch in (0, 5):
            let_fusion_learn(config, pair, diverse)
            step, why = stage_step(config, pair, optimizer, data, diverse, CPU, how)
            assert why is None
        terms.append(train_epoch(config, pair, optimizer, data, epoch, diverse, CPU, pair_step=step))
    state = {name: value.clone() for name, value in pair.state_dict().items()}
    moments = {
        f"{name} {number}": value.clone() for number, of in enumerate(optimizer.state.values()) for name, value in of.items()
    }
    return state | moments | {"terms": torch.stack(terms)}


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adamw", "lr": 0.003}], ids=["sgd", "adamw"])
def test_fifty_graphed_steps_are_the_steps(tiny, tiny_data, changes):
    """Over changes of the rate, of the stage, and of what the fusion learns; `trained` without a graph is the loop of every
    other test."""
    config = tiny.replace(epochs=10, switch_epoch=5, train_size=None, **changes)
    expected = trained(config, tiny_data, "off")
    with without_graphs():
        found = trained(config, tiny_data, "graph")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if not changes:
            assert torch.equal(found[name], value), name
        elif "key_value" not in name:  # a key's bias changes no attention: of its rounding alone Adam makes steps
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5, msg=name)


@pytest.fixture
def small():
    """A step of a linear network, its module and optimiser, and inputs to try it with."""
    torch.manual_seed(0)
    module = nn.Linear(4, 3)
    optimizer = torch.optim.SGD([{"params": [module.weight]}, {"params": [module.bias], "lr": 0.2}], lr=0.1, momentum=0.9)

    def step(inputs, labels):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(inputs), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step, module, optimizer, [(torch.randn(8, 4), torch.arange(8) % 3) for _ in graphs.TRIED_RATES]


def test_capturing_leaves_all_as_it_was_and_moves_nothing(small):
    step, module, optimizer, tried = small
    step(*tried[0])
    held = [*module.parameters(), *(of["momentum_buffer"] for of in optimizer.state.values())]
    before, places = [value.detach().clone() for value in held], [value.data_ptr() for value in held]
    captured(step, module, optimizer, tried, Replayed)
    now = [*module.parameters(), *(of["momentum_buffer"] for of in optimizer.state.values())]
    assert [value.data_ptr() for value in now] == places
    assert all(torch.equal(value, old) for value, old in zip(now, before, strict=True))
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
    assert all(value.grad is None for value in module.parameters())


@pytest.mark.parametrize("place", [0, 1, "rates"], ids=["images", "labels", "rates"])
def test_a_graph_that_does_not_see_what_is_new_is_refused(small, monkeypatch, place):
    """Of images, labels, or rates."""
    step, module, optimizer, tried = small
    call = GraphedStep.__call__

    def stale(made, *given):
        if not hasattr(made, "first"):
            made.first = {
                0: given[0].clone(),
                1: (given[1] + 1) % 3 if place == 1 else given[1],
                "rates": torch.tensor([0.1, 0.2]),
            }
        if place == "rates":
            made.written = [group["lr"] for group in made.groups]
            made.rates.copy_(made.first["rates"])
            return call(made, *given)
        return call(made, *(made.first[number] if number == place else value for number, value in enumerate(given)))

    monkeypatch.setattr(GraphedStep, "__call__", stale)
    before = module.weight.detach().clone()
    with pytest.raises(NotCaptured, match="after 3 steps the graph's results differ by"):
        captured(step, module, optimizer, tried, Replayed)
    assert torch.equal(module.weight, before) and [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]


class Refused(Replayed):
    def capture(self, run):
        run()
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")


def test_what_cannot_be_captured_says_why_and_leaves_all_as_it_was(small):
    step, module, optimizer, tried = small
    before = module.weight.detach().clone()
    with pytest.raises(NotCaptured, match=r"^RuntimeError: CUDA error: operation not permitted when stream is capturing$"):
        captured(step, module, optimizer, tried, Refused)
    assert torch.equal(module.weight, before) and [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
    assert not any(of["momentum_buffer"].any() for of in optimizer.state.values())


class Device:
    """Where torch.cuda would be: which stream is the current one, and what waits for which."""

    def __init__(self, monkeypatch):
        self.now, self.waited = "usual", []
        for name in ("synchronize", "empty_cache"):
            monkeypatch.setattr(torch.cuda, name, lambda: None)
        monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
        monkeypatch.setattr(torch.cuda, "stream", self.on)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: Other(self, self.now))

    @contextlib.contextmanager
    def on(self, stream):
        before, self.now = self.now, stream.name
        try:
            yield
        finally:
            self.now = before


class Other:
    """A stream of it; as a graph, one whose capture cannot be ended."""

    def __init__(self, device, name):
        self.device, self.name = device, name

    def wait_stream(self, other):
        self.device.waited.append((self.name, other.name))

    def capture_begin(self, **given):
        pass

    def capture_end(self):
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


def fails():
    raise RuntimeError("CUDA error: operation not permitted when stream is capturing")


def test_where_a_capture_fails_its_cause_is_raised_and_the_usual_stream_is_back(monkeypatch):
    """In torch's own context, which raises what its end says, and stays on the graph's stream; so all later steps would."""
    device = Device(monkeypatch)
    graph = object.__new__(graphs.CudaGraph)
    graph.graph = graph.stream = Other(device, "the graph's")
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        graph.capture(fails)
    assert device.now == "usual"
    with pytest.raises(RuntimeError, match="not permitted"):
        graph.warm_up(fails)
    assert device.now == "usual" and device.waited[-1] == ("usual", "the graph's")  # the weights are brought back after it


def test_a_trial_in_graphs_has_the_numbers_of_one_without(tiny, tmp_path):
    """From pretraining on; and where there are no graphs its notes say so, for both."""
    config = tiny.replace(epochs=2, switch_epoch=1)
    with without_graphs():
        graphed = fit(config.replace(compile="graph"), tmp_path / "graph", store=Store(tmp_path / "s1"), workspace=Workspace())
    plain = fit(config, tmp_path / "plain", store=Store(tmp_path / "s2"), workspace=Workspace())
    without = fit(config.replace(compile="graph"), tmp_path / "none", store=Store(tmp_path / "s3"), workspace=Workspace())
    assert graphed.test == plain.test == without.test and graphed.switch == plain.switch
    assert graphed.notes == plain.notes == [] and plain.environment.keys() == graphed.environment.keys()
    said = "steps are no CUDA graphs: there are none on a processor"
    assert without.notes == [f"{said}, in pretraining", said]
    lines = [list(checked_files.read_lines(tmp_path / name / "metrics.jsonl")) for name in ("plain", "graph")]
    for eager, graph in zip(*lines, strict=True):
        assert eager["train"] == graph["train"]


def test_no_graph_is_held_while_another_is_captured(tiny, tmp_path, monkeypatch):
    """Of pretraining and both stages, and where a GPU's steps are timed: what cuBLAS holds for a graph goes with it."""
    living = weakref.WeakSet()

    class Alone(Replayed):
        """Keeps no run, in which it would be kept itself: nothing collects cycles before torch captures."""

        def warm_up(self, run):
            assert not list(living)
            living.add(self)
            run()

        def capture(self, run):
            self.result = run().clone()
            return self.result

        def replay(self):
            pass

    monkeypatch.setattr("benchmarks.device_checks.Replayed", Alone)
    monkeypatch.setattr(graphs, "TOLERANCE", float("inf"))
    config = tiny.replace(epochs=3, switch_epoch=2, compile="graph")
    with without_graphs():
        workspace, store = Workspace(), Store(tmp_path / "store")
        found = [fit(config.replace(seed=seed), tmp_path / str(seed), store=store, workspace=workspace) for seed in (0, 1)]
        weights_after(config, CPU, "graph")
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        pair = make_pair(config, dataset(config).shapes)
        said = choice._seconds(config, pair, dataset(config), CPU, "graph")
    assert [(record.status, record.notes) for record in found] == [("finished", [])] * 2 and said > 0


# How many operations a step has


def operations(precision, diverse):
    """Of the pair that the paper has: torch's operations that are launched on a GPU, views aside."""
    config = TrialConfig(arch="resnet20", precision=precision, channels_last=True)
    pair = make_pair(config, Shapes(classes=10, channels=3, train_images=50_000))
    let_fusion_learn(config, pair, diverse)
    pair.set_scales(torch.tensor(0.01))
    optimizer = make_optimizer(config, pair)
    images, labels = torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last), torch.arange(2)
    for _ in range(3):  # the first makes the optimiser's state and shows how layers cast, the second how weights are laid out
        noise = pair.draw_noise()
        with Operations() as counted:
            train_step(config, pair, pair, optimizer, images, labels, noise, diverse)
    return counted.total()


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_a_step_grows_no_operations(precision):
    """They were 636 and 1,062 (bf16), 540 and 960, when each layer cast and laid out its own weights and counted batches."""
    first, second = (operations(precision, diverse) for diverse in (False, True))
    most = {"bf16": (448, 728), "float32": (500, 774)}[precision]
    assert first <= most[0] and second <= most[1], (first, second)
