"""The operators, one for each step of a retrain."""

from airflow_transfer_learning.operators.compare import CompareOperator
from airflow_transfer_learning.operators.evaluate import EvaluateOperator
from airflow_transfer_learning.operators.feature_extract import FeatureExtractOperator
from airflow_transfer_learning.operators.fine_tune import FineTuneOperator
from airflow_transfer_learning.operators.plan import PlanOperator
from airflow_transfer_learning.operators.pretrain import PretrainOperator
from airflow_transfer_learning.operators.promote import PromoteOperator
from airflow_transfer_learning.operators.pull_dataset import PullDatasetOperator
from airflow_transfer_learning.operators.rank import RankBasesOperator
from airflow_transfer_learning.operators.task_args import training_task_args

__all__ = [
    "CompareOperator",
    "EvaluateOperator",
    "FeatureExtractOperator",
    "FineTuneOperator",
    "PlanOperator",
    "PretrainOperator",
    "PromoteOperator",
    "PullDatasetOperator",
    "RankBasesOperator",
    "training_task_args",
]
