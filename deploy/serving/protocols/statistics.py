"""What became of a model's requests, in the form of Triton's statistics extension."""

import time
from dataclasses import dataclass

from detheads.deploy.serving.protocols.inference_schema import Duration, InferStatistics, OneModelStatistics


@dataclass
class Statistics:
    """Counts since the process began. Requests of several clients may share a batch; each counts as one execution."""

    requests: int = 0
    pictures: int = 0
    seconds: float = 0.0
    refused: int = 0
    refused_seconds: float = 0.0
    last: float = 0.0
    """When the last answer was given: seconds since 1970, 0 for never."""

    def succeeded(self, pictures: int, seconds: float) -> None:
        self.requests += 1
        self.pictures += pictures
        self.seconds += seconds
        self.last = time.time()

    def failed(self, seconds: float) -> None:
        self.refused += 1
        self.refused_seconds += seconds

    def document(self, name: str, version: str) -> OneModelStatistics:
        return OneModelStatistics(
            name=name,
            version=version,
            last_inference=round(1000 * self.last),
            inference_count=self.pictures,
            execution_count=self.requests,
            inference_stats=InferStatistics(
                success=Duration(count=self.requests, ns=round(1e9 * self.seconds)),
                fail=Duration(count=self.refused, ns=round(1e9 * self.refused_seconds)),
            ),
        )
