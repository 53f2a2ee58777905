"""Benchmarks as data: what they ask, how answers are read, and how they count."""

from sttm.evaluation.tasks.items import Item
from sttm.evaluation.tasks.metrics import Metric, Scored, Share
from sttm.evaluation.tasks.task import Task, get_task, list_tasks

__all__ = ["Item", "Metric", "Scored", "Share", "Task", "get_task", "list_tasks"]
