//! Makes plans visible to the kernel: the only place that decides what is written to the maps, and in which order.
