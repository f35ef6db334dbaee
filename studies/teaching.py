"""How hard should the peers teach each other, and how softly: the mutual term's weight and temperature together?

Plain mutual learning, every weight at every temperature, with the same seeds; two networks that never meet stand beside them.
A temperature smooths what a peer teaches, and the term is multiplied by its square, so that its gradient keeps its size: what
is left of its effect is the smoothing.
"""

from mldiv.cli.main import main
from mldiv.study import Study

WEIGHTS, TEMPERATURES = (0.3, 1.0, 3.0), (1.0, 2.0, 4.0)
NEVER = "never"


def arm(weight: float, temperature: float) -> str:
    return f"weight {weight:g}, T {temperature:g}"


GRID = {
    arm(weight, temperature): {"mutual_weight": weight, "temperature": temperature}
    for weight in WEIGHTS
    for temperature in TEMPERATURES
}


def effect(of: str, low: float, high: float) -> dict[str, float]:
    """Return the weight of each arm in what the higher value of a setting adds to the lower, on average over the other's."""
    ends = {arm: changes[of] for arm, changes in GRID.items() if changes[of] in (low, high)}
    return {arm: (1.0 if value == high else -1.0) * 2 / len(ends) for arm, value in ends.items()}


def interaction() -> dict[str, float]:
    """Return the weights of what the highest temperature adds at the largest weight, less what it adds at the smallest."""
    (light, *_, heavy), (cold, *_, hot) = WEIGHTS, TEMPERATURES
    return {arm(heavy, hot): 1.0, arm(heavy, cold): -1.0, arm(light, hot): -1.0, arm(light, cold): 1.0}


STUDY = Study(
    name="teaching",
    question="How hard should the peers teach each other, and how softly?",
    scientific="weight and temperature of mutual learning",
    arms={NEVER: {"mutual_weight": 0.0}} | GRID,
    searched=(),
    baseline=arm(1.0, 1.0),
    contrasts={
        f"weight {WEIGHTS[-1]:g} instead of {WEIGHTS[0]:g}": effect("mutual_weight", WEIGHTS[0], WEIGHTS[-1]),
        f"T {TEMPERATURES[-1]:g} instead of {TEMPERATURES[0]:g}": effect("temperature", TEMPERATURES[0], TEMPERATURES[-1]),
        f"what T {TEMPERATURES[-1]:g} adds at weight {WEIGHTS[-1]:g}, less at {WEIGHTS[0]:g}": interaction(),
    },
    settings={"alpha": 0.0, "beta": 0.0},
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
