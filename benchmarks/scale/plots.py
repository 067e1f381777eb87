"""The plots of docs/scale.md. Knows nothing of how the figures were made."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Row
from benchmarks.scale.plan import Plan
from benchmarks.scale.replica import Ending
from benchmarks.scale.simulation import Simulated

IMAGES = Path(__file__).parents[2] / "docs" / "images"

BIN_S = 5.0


def start_figure(panels: int) -> tuple[Any, Sequence[Any]]:
    from matplotlib.figure import Figure  # takes a second to import, and tests have no need of it

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    return figure, list(figure.subplots(1, panels))


def save(figure: Any, name: str) -> None:
    figure.savefig(IMAGES / f"scale-{name}.png", dpi=80, metadata={"Software": None})


def use_log_scale(axes: Any, ticks: Sequence[float]) -> None:
    """With numbers as people write them, not with powers."""
    axes.set_yscale("log")
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def plot_curves(rows: Sequence[Row], capacity: float) -> None:
    """Measured and simulated goodput and p99 against the offered load."""
    figure, panels = start_figure(2)
    offered = [row["offered/s"] for row in rows]
    for axes, name, simulated in zip(
        panels, ("goodput/s", "p99 ms"), ("simulated/s", "simulated ms"), strict=True
    ):
        axes.plot(
            offered, [row[name] for row in rows], "o", mfc="none", color="C0", label="measured"
        )
        axes.plot(offered, [row[simulated] for row in rows], "x", color="C3", label="simulated")
        axes.axvline(capacity, color="0.6", lw=0.8, ls=":")
        axes.set_xlabel("requests/s offered to one core; dotted: its capacity")
        axes.set_ylabel(name)
        axes.legend(frameon=False)
    panels[0].set_ylim(bottom=0)
    use_log_scale(panels[1], (200, 500, 1000, 2000, 5000))
    save(figure, "curves")


def plot_rates(curves: Mapping[tuple[str, str], Sequence[tuple[float, float]]]) -> None:
    """Plot p99 against the utilisation, by replica and balancer."""
    figure, panels = start_figure(2)
    for name, axes in zip(dict.fromkeys(name for name, _ in curves), panels, strict=True):
        for (machine, balance), points in curves.items():
            if machine == name:
                axes.plot(*zip(*points, strict=True), "o-", ms=3, label=balance)
        for target_s in (0.3, 1.0):
            axes.axhline(target_s, color="0.6", lw=0.8, ls=":")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("utilisation")
        axes.set_ylabel("p99, s")
        use_log_scale(axes, (0.05, 0.1, 0.2, 0.5, 1, 2))
        axes.legend(frameon=False)
    save(figure, "rates")


def plot_zone(plan: Plan, loads: Mapping[float, Simulated]) -> None:
    """Plot p99 and the share that is not answered over time, by the utilisation before."""
    figure, panels = start_figure(2)
    for utilisation, load in loads.items():
        last_s = plan.before_s + plan.replaced_s + plan.after_s
        at_s = [BIN_S * number for number in range(int(last_s // BIN_S))]
        bins = [load.select(since_s, since_s + BIN_S) for since_s in at_s]
        label = f"{utilisation:g} used before"
        panels[0].plot(at_s, [one.latency_s(0.99) for one in bins], lw=1.2, label=label)
        failed = [1 - one.share(Ending.ANSWERED) for one in bins]
        panels[1].plot(at_s, failed, lw=1.2)
    for axes, name in zip(panels, ("p99 of the answered, s", "not answered"), strict=True):
        axes.axvspan(plan.before_s, plan.before_s + plan.replaced_s, color="0.93")
        axes.set_xlabel("seconds; grey: a zone is missing")
        axes.set_ylabel(name)
    use_log_scale(panels[0], (0.05, 0.1, 0.2, 0.5, 1, 2))
    figure.legend(loc="outside upper center", ncols=len(loads), frameon=False, fontsize=8)
    save(figure, "zone")
