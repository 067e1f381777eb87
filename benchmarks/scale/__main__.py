"""From one server to many: a simulation fed with measured stage times, checked, and then asked.

How many replicas for so many requests per second, what a lost zone costs, what is the next
bottleneck, what a million images cost. Measures nothing: benchmarks.curves and benchmarks.server
have.
"""

if __name__ == "__main__":  # before the imports that fail without them
    from model.extras import require_packages

    require_packages("simpy", "matplotlib", extra="dev")

from benchmarks.report import publish, read_plan
from benchmarks.scale.bottlenecks import find_gpu_limits, list_demands
from benchmarks.scale.plan import Plan
from benchmarks.scale.plots import plot_curves, plot_rates, plot_zone
from benchmarks.scale.sizing import choose_rates, count_replicas, draw_curves, price_a_million
from benchmarks.scale.stage_times import read_one_core, read_two_cores
from benchmarks.scale.validation import summarise, validate_one_core, validate_two_cores
from benchmarks.scale.zones import describe_zones, lose_zones


def main() -> None:
    plan = read_plan(Plan, "scale", __doc__)
    one_core, two_cores = read_one_core(), read_two_cores()
    curves = list(validate_one_core(one_core))
    chosen = choose_rates(plan, (one_core, two_cores))
    zones = lose_zones(plan, two_cores)
    publish(
        "scale",
        "From one server to many, simulated",
        {
            "rows": curves,
            "Medians": list(summarise(curves)),
            "Two cores of another machine": list(validate_two_cores(two_cores)),
            "Replicas": list(count_replicas(plan, chosen)),
            "A lost zone": list(describe_zones(plan, zones)),
            "What a rate needs": list(list_demands(plan, one_core)),
            "A process with a GPU": list(find_gpu_limits(plan, one_core)),
            "A million images": list(price_a_million(plan, chosen)),
        },
        plan=plan,
    )
    if not plan.quick:
        plot_curves(curves, one_core.capacity)
        plot_rates(draw_curves(plan, (one_core, two_cores)))
        plot_zone(plan, zones)


if __name__ == "__main__":
    main()
