"""How long help pages take: every command in a process of its own, with nothing else running.

python benchmarks/startup.py
"""

import statistics
import subprocess
import sys
import time

COMMANDS = ("", "demo", "ask", "show", "models", "methods", "bench speed", "eval run", "extract")
REPEATS = 5


def seconds(command: str) -> float:
    """Time one help page, with the files in the page cache."""
    run = [sys.executable, "-c", "from sttm.cli import main; main()", *command.split(), "--help"]
    start = time.perf_counter()
    subprocess.run(run, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    for command in COMMANDS:
        seconds(command)
        times = [seconds(command) for _ in range(REPEATS)]
        print(f"sttm {command} --help".replace("  ", " "), f"{statistics.median(times):.2f} s")


if __name__ == "__main__":
    main()
