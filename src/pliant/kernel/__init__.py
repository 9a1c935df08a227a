# SPDX-License-Identifier: Apache-2.0
"""The only code that talks to the kernel: BPF objects, links, pins, types, probes, cgroups and sysctls.

One noun a module; nothing happens at import. Objects are loaded through the system's libbpf; everything after
that is ``bpf(2)`` on descriptors, so what was pinned by an earlier process is worked with like what was just
loaded.
"""
