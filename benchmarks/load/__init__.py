"""Load for the serving benchmarks: a process of its own that costs little beside what it measures."""
