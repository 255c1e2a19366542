"""Descriptions of GPUs for XLA's compiler, in the text form of its `GpuTargetConfigProto`.

Values are NVIDIA's: the CUDA C++ Programming Guide's table of technical specifications per compute capability (9.0 and
10.0), and the data sheets of H100 SXM5 80 GB, H200 SXM 141 GB and B200 180 GB for cores, clock, cache and memory.
"""

_TEMPLATE = """\
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  core_count: {cores}
  clock_rate_ghz: {clock_ghz}
  l2_cache_size: {l2_bytes}
  memory_bandwidth: {bandwidth}
  device_memory_size: {memory_bytes}
  cuda_compute_capability {{ major: {major} minor: 0 feature_extension: ACCELERATED_FEATURES }}
}}
platform_name: "CUDA"
runtime_version {{ major: 13 }}
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{description}"
"""

_MIB = 2**20
_GPUS = {
    "h100": {
        "cores": 132,
        "clock_ghz": 1.98,
        "l2_bytes": 50 * _MIB,
        "bandwidth": 3_350_000_000_000,
        "memory_bytes": 81_000 * _MIB,
        "major": 9,
        "description": "NVIDIA H100 80GB HBM3",
    },
    "h200": {
        "cores": 132,
        "clock_ghz": 1.98,
        "l2_bytes": 50 * _MIB,
        "bandwidth": 4_800_000_000_000,
        "memory_bytes": 143_150 * _MIB,
        "major": 9,
        "description": "NVIDIA H200",
    },
    "b200": {
        "cores": 148,
        "clock_ghz": 1.965,
        "l2_bytes": 126 * _MIB,
        "bandwidth": 8_000_000_000_000,
        "memory_bytes": 182_600 * _MIB,
        "major": 10,
        "description": "NVIDIA B200",
    },
}

GPU_TARGETS = {name: _TEMPLATE.format(**values) for name, values in _GPUS.items()}
