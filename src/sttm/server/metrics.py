"""What a server counts, in Prometheus' text format."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        counter, histogram = self._counter, self._histogram
        self.requests = counter("requests", "Requests by route and status.", "route", "status")
        self.ttft = histogram("ttft_seconds", "From a question to its first token.")
        self.duration = histogram("answer_seconds", "From a question to its last token.")
        self.stages = histogram("watch_seconds", "Watching a video, by stage.", "stage")
        self.videos = counter(
            "videos",
            "Videos asked for: in the store, watched, or joined: watched for another request.",
            "found",
        )
        for found in ("store", "watched", "joined"):
            self.videos.labels(found)  # 0 from the beginning
        self.video_tokens = counter("video_tokens", "Video tokens of watched videos.", "where")
        self.saved = counter(
            "saved_tokens", "Tokens that no forward pass had to read: prefixes that were cached."
        )
        self.completion = counter("completion_tokens", "Tokens of answers.")

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a number that is read when it is asked for."""
        Gauge(f"sttm_{name}", text, registry=self._registry).set_function(read)

    def text(self) -> bytes:
        """Return all of them."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"sttm_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(f"sttm_{name}", text, labels, registry=self._registry, buckets=_SECONDS)
