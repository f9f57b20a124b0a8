"""Schedules of learning rates, one file each; a new one is a file and a line here. `schedule.py` says what one is."""

from ...foundation.registry import Registry
from .constant import CONSTANT
from .cosine import COSINE
from .onecycle import ONECYCLE
from .schedule import SchedulerFactory, ScheduleSpec
from .step import STEP

__all__ = ["SCHEDULES", "ScheduleSpec", "SchedulerFactory"]

SCHEDULES = Registry(ScheduleSpec, "lr_schedule", "async_dni.schedules", [CONSTANT, COSINE, STEP, ONECYCLE])
