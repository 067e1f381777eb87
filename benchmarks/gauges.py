"""The gauges of what our server holds for its requests. Knows nothing of the requests."""

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.connection import Address, get_request, send_once

HELD = (
    "seg_in_flight",
    "seg_pixels",
    "seg_upload_bytes",
    "seg_answer_bytes",
    "seg_queue_depth",
    "seg_codec_tasks",
)
"""They are zero when all requests have ended and no thread works for one."""


async def read_held(address: Address) -> dict[str, float]:
    """Return the values of the gauges that are not at zero, by name."""
    response = await send_once(address, get_request("/metrics"))
    families = text_string_to_metric_families(response.body.decode())
    values = {sample.name: sample.value for family in families for sample in family.samples}
    return {name: values[name] for name in HELD if values[name]}
