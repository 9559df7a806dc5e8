"""Every error of ours. Each survives pickling: errors cross from actors to the controller."""

from __future__ import annotations


class CoTrainError(Exception):
    """Base of all errors that a user can cause or must know about.

    ``retryable`` tells the run whether restarting from the last checkpoint can help.
    """

    retryable = False


class ConfigError(CoTrainError):
    """A configuration field is unknown, misspelt, contradictory or out of range."""


class DataError(CoTrainError):
    """Images or annotations cannot be used as they are."""


class ResourceError(CoTrainError):
    """The machine or cluster lacks what the run asks for."""


class ModelError(CoTrainError):
    """A network cannot be built, or its weights or prior grid do not fit the run."""


class StepOrderError(CoTrainError):
    """``begin_step`` and ``finish_step`` of a network were called out of order."""


class CandidateMismatchError(CoTrainError):
    """Two networks do not speak of the same batch or of the same candidate pairs."""


class NonFiniteCostError(CoTrainError):
    """A network's cost table holds NaN or infinity."""


class NonFiniteLossError(CoTrainError):
    """A network's loss is NaN or infinite; raised before the optimizer step."""


class CheckpointError(CoTrainError):
    """A checkpoint is missing, damaged, or of another configuration."""


class NetworkLostError(CoTrainError):
    """A process of the run (network, feeder or controller) died or its node went away.

    Args:
        who: in words.
        detail: one line.
        node: it went with its node (``resources.max_preemptions`` counts these).
    """

    retryable = True

    def __init__(self, who: str, detail: str, node: bool = False) -> None:
        super().__init__(f"{who} was lost{' with its node' if node else ''}: {detail}")
        self.who = who
        self.detail = detail
        self.node = node

    def __reduce__(self) -> tuple[type[NetworkLostError], tuple[str, str, bool]]:
        return (type(self), (self.who, self.detail, self.node))


class HungError(NetworkLostError):
    """A process of the run lives and does not answer (``resources.hang_timeout``)."""

    def __init__(self, who: str, detail: str, node: bool = False) -> None:
        super().__init__(who, detail, node)
        self.args = (f"{who} does not answer: {detail}",)
