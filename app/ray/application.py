"""The application of Ray Serve: ingress replicas in front of engine replicas.

`serve run deploy.ray_serve:app engine_gpus=1 max_engines=8` reads the settings where it runs, and
every replica gets them. Knows nothing of what the replicas do.
"""

import math

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import LoggingConfig

from app.process.startup import load_settings
from app.ray.engine import EngineReplica
from app.ray.ingress import IngressReplica
from app.settings import Settings

INGRESS_QUEUE = 10_000
"""Serve's limit of requests at an ingress replica. It is far above the service's own limits, which
refuse requests with `Retry-After`.
"""

ON_GPU, ON_CPU = 64, 8
"""The images that an engine replica may have at a time: two full batches, or what a CPU computes in
a second.
"""

OUR_LINES = LoggingConfig(enable_access_log=False)
"""The service's own log has a line for each request."""


class Options(BaseModel):
    """The size of the deployment: arguments of `serve run`, or `args` in its file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_ingresses: int = Field(1, ge=1, description="Smallest number of ingress replicas.")
    max_ingresses: int = Field(4, ge=1, description="Largest number of ingress replicas.")
    ingress_cpus: float = Field(1, ge=0, description="CPUs of an ingress replica.")
    ingress_load: float = Field(
        16, gt=0, description="Requests per ingress replica above which replicas are added."
    )
    min_engines: int = Field(1, ge=1, description="Smallest number of engine replicas.")
    max_engines: int = Field(4, ge=1, description="Largest number of engine replicas.")
    engine_cpus: float = Field(
        1, ge=0, description="CPUs of an engine replica, and its threads unless SEG_THREADS is set."
    )
    engine_gpus: float = Field(
        0, ge=0, description="GPUs of an engine replica; 0.5 puts two on one GPU. 0 is the CPU."
    )
    engine_load: float = Field(
        4, gt=0, description="Images per engine replica above which replicas are added."
    )
    upscale_delay_s: float = Field(
        10, ge=0, description="Seconds of a higher load before replicas are added."
    )
    downscale_delay_s: float = Field(
        300, ge=0, description="Seconds of a lower load before replicas are removed."
    )


def build_application(options: Options) -> serve.Application:
    """Return the application with the settings of the environment."""
    return compose(load_settings(), options)


def compose(settings: Settings, options: Options) -> serve.Application:
    """Return the application with these settings."""
    engines = serve.deployment(
        name="Engine",
        ray_actor_options={"num_cpus": options.engine_cpus, "num_gpus": options.engine_gpus},
        max_ongoing_requests=ON_GPU if options.engine_gpus else ON_CPU,
        max_queued_requests=settings.max_queue,
        autoscaling_config=_scale(
            options, options.min_engines, options.max_engines, options.engine_load
        ),
        graceful_shutdown_timeout_s=settings.drain_timeout_s,
        logging_config=OUR_LINES,
    )(EngineReplica)
    ingresses = serve.deployment(
        name="Ingress",
        ray_actor_options={"num_cpus": options.ingress_cpus},
        max_ongoing_requests=INGRESS_QUEUE,
        autoscaling_config=_scale(
            options, options.min_ingresses, options.max_ingresses, options.ingress_load
        ),
        graceful_shutdown_timeout_s=settings.drain_timeout_s,
        logging_config=OUR_LINES,
    )(serve.ingress()(IngressReplica))
    return ingresses.bind(settings, engines.bind(_settle_engine(settings, options)))


def _settle_engine(settings: Settings, options: Options) -> Settings:
    """Return the settings of an engine: on the device, and with the threads, that Ray gives it."""
    changes: dict[str, object] = {}
    if settings.device == "auto":
        changes["device"] = "cuda" if options.engine_gpus else "cpu"
    if settings.threads == 0:
        changes["threads"] = max(1, math.floor(options.engine_cpus))
    return settings.model_copy(update=changes)


def _scale(options: Options, smallest: int, largest: int, load: float) -> AutoscalingConfig:
    """Return the scaling by the load, averaged over `upscale_delay_s`.

    Serve averages over 30 s by default: a shorter delay would then have no effect.
    """
    window_s = max(2, options.upscale_delay_s)
    return AutoscalingConfig(
        metrics_interval_s=window_s / 4,
        look_back_period_s=window_s,
        min_replicas=smallest,
        max_replicas=largest,
        target_ongoing_requests=load,
        upscale_delay_s=options.upscale_delay_s,
        downscale_delay_s=options.downscale_delay_s,
    )
