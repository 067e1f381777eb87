"""Benchmarks: each one command, `python -m benchmarks.<name>`, a table and a JSON file.

The commands share these modules:

    report                        options, rounds, tables, files, the machine
    process, watch, gauges, cost  a server's process: start it, and measure what it takes
    connection, load, results     the load generator: requests, loops, outcomes
    photos, requests, voc         what is sent, and what is trained on
    callers, hostile_callers      callers that disconnect, are slow or attack
    attack_files, attack_tiffs    uploads that are costly to decode
    notebook, naive_server        what our code is compared with
    ray_cluster                   a Ray cluster on this machine
"""
