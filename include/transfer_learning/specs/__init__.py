"""The settings of each stage. Torch-free, frozen, complete, and checked when built."""

from transfer_learning.specs.compare import CompareSpec
from transfer_learning.specs.evaluate import EvaluateSpec, Gate
from transfer_learning.specs.features import FeatureSpec
from transfer_learning.specs.fine_tune import FineTuneSpec
from transfer_learning.specs.names import check_name, duration
from transfer_learning.specs.pretrain import PretrainSpec
from transfer_learning.specs.pull import PullSpec, SplitSpec
from transfer_learning.specs.rank import RankSpec
from transfer_learning.specs.task import TaskSpec

__all__ = [
    "CompareSpec",
    "EvaluateSpec",
    "FeatureSpec",
    "FineTuneSpec",
    "Gate",
    "PretrainSpec",
    "PullSpec",
    "RankSpec",
    "SplitSpec",
    "TaskSpec",
    "check_name",
    "duration",
]
