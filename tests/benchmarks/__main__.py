"""Lists the benchmarks with their bars."""

BENCHMARKS = {
    "loop": "training loop, prior and decoder: at least 0.97 x a bare PyTorch loop's samples/s",
}

if __name__ == "__main__":
    for name, bar in BENCHMARKS.items():
        print(f"python -m tests.benchmarks.{name:<16} {bar}")
